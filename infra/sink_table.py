"""A table as one worker of the append stage writes it: at the version that it last saw.

What a commit carries, and how the tables keep in step, is said in `infra.delta_sink`.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from aiokafka import TopicPartition
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from consumers.append import Row
from infra.kafka import topic_name
from infra.retractions import Retractions
from infra.row_ids import RowIds
from infra.row_marks import bring_level
from infra.settings import Settings
from infra.table_maintenance import LARGE, SMALL, WRITER, join, months
from infra.tables import (
    DECIDED,
    DROPPED,
    IDEAL,
    PARKED,
    PREFERENCES,
    SCHEMAS,
    STORE_ERRORS,
    one_line,
)
from streams import topics
from streams.errors import Transient

log = logging.getLogger(__name__)

# Every so many times, files are joined up to the large size.
LARGE_EVERY = 16
# More partitions than a topic is ever given.
PARTITIONS = 256
# Ids read at a time, and PMIDs asked for in one query.
ID_BATCH = 50_000
QUERIED_AT_ONCE = 1000

# The tables that a topic leads to, in the order of their commits.
LEADS_TO = {
    topics.PREFERENCES: (PREFERENCES, DROPPED, PARKED),
    topics.IDEAL: (IDEAL, DROPPED, PARKED),
}


class Fenced(Exception):
    """Another worker has written a partition of this batch: drop it and go by the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message as the tables see it; without a row it only moves the offset on.

    `timestamp` is Kafka's, in milliseconds since 1970.
    """

    partition: TopicPartition
    offset: int
    timestamp: int
    table: str | None = None
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table holds a partition: the offset of its last message, and its timestamp."""

    offset: int
    timestamp: int | None


class Table:
    """One of the tables, at the version that this worker last saw."""

    def __init__(self, settings: Settings, delta: DeltaTable, name: str) -> None:
        self.name = name
        self.topics = sources(settings, name)
        self.keeps_ids = name in DECIDED
        self.delta = delta
        self.rows = 0
        self._compact_every = settings.append.compact_every
        # What an earlier run left small is compacted with the first commits of this one.
        self._uncompacted = len(delta.file_uris())
        self._months = set(months(delta))
        self._compactions = 0
        # The version of which every id has been handed out, and the files that were read for it.
        self._version = -1
        self._read: set[str] = set()
        # PMIDs of rows by other writers whose mark is not the view's.
        self._unlike: set[int] = set()
        # Those of the version that `delta` is at, read when they are first asked for.
        self._positions: dict[TopicPartition, Position | None] = {}

    def refresh(self, ids: RowIds, retractions: Retractions) -> None:
        """Go to the newest version; look at the files that this worker has not written or read.

        They are read in batches, for ids as strings take several times the memory.
        """
        columns = ["id"] * self.keeps_ids + ["pmid", "mesh", "retracted"] * bool(len(retractions))
        self._positions.clear()
        try:
            self.delta.update_incremental()
            if self.is_known:
                return
            fragments = {f.path: f for f in self.delta.to_pyarrow_dataset().get_fragments()}
            for path in fragments.keys() - self._read if columns else ():
                for batch in fragments[path].to_batches(columns=columns, batch_size=ID_BATCH):
                    if self.keeps_ids:
                        ids.add(batch.column("id").to_pylist())
                    if len(retractions):
                        unlike = pa.array(retractions.unlike(batch), pa.int64())
                        self._unlike.update(batch.column("pmid").take(unlike).to_pylist())
        except STORE_ERRORS as error:
            raise self._transient(error) from error
        self.rows = self._count()
        self._read = set(fragments)
        self._version = self.delta.version()

    def mark(self, pmids: Collection[int], retractions: Retractions) -> Counter[str]:
        """Bring rows of these PMIDs, and what was noted, level with the view; how many, by reason.

        Many at once are done in parts, so that a query stays short.
        """
        done: Counter[str] = Counter()
        wanted = sorted(self._unlike.union(pmids))
        for start in range(0, len(wanted), QUERIED_AT_ONCE):
            part = wanted[start : start + QUERIED_AT_ONCE]
            try:
                for marked in bring_level(self.delta, retractions, part, WRITER):
                    done += marked
                    if self._advanced():
                        self._read = {
                            f.path for f in self.delta.to_pyarrow_dataset().get_fragments()
                        }
            except STORE_ERRORS as error:
                raise self._transient(error) from error
            self._unlike.difference_update(part)
        return done

    @property
    def is_known(self) -> bool:
        """False once a commit of another worker has come with one of this worker's own."""
        return self.delta.version() == self._version

    def position(self, partition: TopicPartition) -> Position | None:
        if partition not in self._positions:
            app = application(partition)
            try:
                offset = self.delta.transaction_version(app)
                timestamp = self.delta.transaction_version(f"{app}/timestamp")
            except STORE_ERRORS as error:
                raise self._transient(error) from error
            self._positions[partition] = None if offset is None else Position(offset, timestamp)
        return self._positions[partition]

    def unwritten(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries of its topics past this table's position in their partition."""
        mine = [entry for entry in entries if entry.partition.topic in self.topics]
        held = {
            partition: at.offset if (at := self.position(partition)) else -1
            for partition in {entry.partition for entry in mine}
        }
        return [entry for entry in mine if entry.offset > held[entry.partition]]

    def commit(self, rows: Sequence[Row], covered: Sequence[Entry]) -> None:
        """One commit: the rows, and the last offsets of the entries covered. Raises `Fenced`."""
        last = {entry.partition: entry for entry in covered}
        appended = datetime.now(UTC)
        data = [{**row, "appended": appended} for row in rows]
        try:
            write_deltalake(
                self.delta,
                pa.Table.from_pylist(data, schema=SCHEMAS[self.name]),
                mode="append",
                writer_properties=WRITER,
                commit_properties=CommitProperties(
                    app_transactions=[t for entry in last.values() for t in _moves(entry)]
                ),
            )
        except CommitFailedError as error:
            raise self._verdict(last, error) from None
        except STORE_ERRORS as error:
            raise self._transient(error) from error
        is_known = self._advanced()
        for entry in last.values():
            self._positions[entry.partition] = Position(entry.offset, entry.timestamp)
        self._months.update(row["month"] for row in rows)
        self._uncompacted += bool(rows)
        self.rows = self.rows + len(rows) if is_known else self._count()

    def compact(self) -> None:
        """Join the small files of the months written to, now and then.

        A failure leaves the table as it was, and the work to the next time.
        """
        if self._uncompacted < self._compact_every:
            return
        self._uncompacted = 0
        self._compactions += 1
        target = SMALL if self._compactions % LARGE_EVERY else LARGE
        try:
            for month in sorted(self._months):
                join(self.delta, month, target)
                if self._advanced():
                    self._read = {f.path for f in self.delta.to_pyarrow_dataset().get_fragments()}
            if target == LARGE:
                self._months.clear()
        except CommitFailedError:
            log.info("table %s: another worker is compacting it", self.name)
        except STORE_ERRORS as error:
            log.warning("table %s: not compacted: %s", self.name, one_line(error))

    def _count(self) -> int:
        try:
            counted: int = self.delta.count()
        except STORE_ERRORS as error:
            raise self._transient(error) from error
        return counted

    def _advanced(self) -> bool:
        """Whether the version of `delta` adds one commit of this worker to what was known."""
        if self.delta.version() != self._version + 1:
            self._positions.clear()
            return False
        self._version += 1
        return True

    def _verdict(self, last: Iterable[TopicPartition], error: CommitFailedError) -> Exception:
        """`Fenced` if another writer has moved one of the partitions on, else `Transient`."""
        before = {partition: self.position(partition) for partition in last}
        self._positions.clear()
        try:
            self.delta.update_incremental()
        except STORE_ERRORS as unreadable:
            return self._transient(unreadable)
        moved = [partition for partition, at in before.items() if self.position(partition) != at]
        if not moved:
            return self._transient(error)
        which = ", ".join(f"{topic} [{number}]" for topic, number in sorted(moved))
        return Fenced(f"table {self.name}: another worker has written {which}")

    def _transient(self, error: Exception) -> Transient:
        return Transient("tables", f"{self.name}: {one_line(error)}")


def sources(settings: Settings, table: str) -> tuple[str, ...]:
    """The topics that lead to a table, as the broker calls them."""
    return tuple(topic_name(settings, topic) for topic, led in LEADS_TO.items() if table in led)


def application(partition: TopicPartition) -> str:
    """The name under which a table keeps the last offset that it has of a partition."""
    return f"append/{partition.topic}/{partition.partition}"


def _moves(entry: Entry) -> tuple[Transaction, Transaction]:
    app = application(entry.partition)
    return Transaction(app, entry.offset), Transaction(f"{app}/timestamp", entry.timestamp)
