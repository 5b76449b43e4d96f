"""Messages of one Kafka topic into `preferences`, `dropped` and `parked`, exactly once.

A commit to a table carries, for each Kafka partition in it, the last offset that it covers, as a
Delta application transaction `append/<topic>/<partition>`. Rows and offsets so become visible
together, and a table leaves out what lies at or before its own offset. Two writers of one
partition collide there: the commit of the second fails, and it is `Fenced`.

An id is kept once over `preferences` and `dropped`, the first in the order of its partition.
Messages are keyed by PMID, so that those of one id are all in one partition and have one writer. A
commit goes to `preferences` first, and where the offsets of the tables differ, after a crash
between two of them, the table behind is brought level before anything else: so whoever reads them
is fenced by any commit that it has not seen.

A row of `parked` only waits: it leaves its id to what becomes of it, and is left out where that is
in a table already. It may be there twice, if its record was worked on twice, for who takes rows out
of it (`infra.parked`) may be about to take out the first.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from consumers.append import Row
from infra.retractions import Retractions
from infra.row_ids import RowIds
from infra.row_marks import bring_level
from infra.settings import Settings
from infra.tables import (
    DROPPED,
    IDEAL,
    PARKED,
    PREFERENCES,
    SCHEMAS,
    STORE_ERRORS,
    create,
    one_line,
)
from streams.errors import Transient
from streams.metrics import Metrics

log = logging.getLogger(__name__)

# Files are compacted up to a small size, and every so often up to a large one: so a row is written
# again a few times only, and a table of many millions of rows has few files.
SMALL, LARGE = 16 << 20, 128 << 20
LARGE_EVERY = 16
VACUUM_EVERY = 24 * 3600.0
# Ids read at a time, and PMIDs asked for in one query.
ID_BATCH = 50_000
QUERIED_AT_ONCE = 1000

WRITER = WriterProperties(compression="ZSTD", compression_level=3)


class Fenced(Exception):
    """Another worker has written a partition of this batch: drop it and go by the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message as the tables see it; without a row it only moves the offset on.

    `timestamp` is Kafka's, in milliseconds since 1970.
    """

    partition: int
    offset: int
    timestamp: int
    table: str | None = None
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table holds a partition: the offset of its last message, and its timestamp."""

    offset: int
    timestamp: int | None


class DeltaSink:
    """The tables as one worker writes them. Not for use by several threads at once.

    Every method raises `Transient` when the store of the tables fails, and can then be called
    again: what was committed in spite of the failure is not written twice.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        metrics: Metrics,
        retractions: Retractions | None = None,
    ) -> None:
        """`retractions`, read to their end before `open`, say which rows do not stand."""
        self._settings = settings
        self._topic = topic
        self._metrics = metrics
        self._retractions = Retractions() if retractions is None else retractions
        self._ids = RowIds()
        self._tables: list[_Table] = []
        # Those, and `ideal`, whose rows have marks too.
        self._marked: list[_Table] = []
        self._in_doubt = False

    def open(self) -> None:
        """Open the tables, made empty where they are not there yet, and load the ids they hold.

        Raises `TableError` where a table has other columns.
        """
        try:
            self._marked = [
                _Table(self._settings, create(self._settings, name), name, self._topic)
                for name in (PREFERENCES, DROPPED, PARKED, IDEAL)
            ]
        except STORE_ERRORS as error:
            raise Transient("tables", one_line(error)) from error
        self._tables = [table for table in self._marked if table.name != IDEAL]
        self.refresh()

    def refresh(self) -> None:
        """Go to the newest versions, and take in the ids that other workers have committed.

        Of rows that they have written, those whose mark is not the view's are noted for `mark`.
        """
        for table in self._marked:
            table.refresh(self._ids, self._retractions)
            self._publish(table)

    def mark(self, pmids: Collection[int]) -> None:
        """Bring the marks of the rows of these PMIDs level with the view, and those noted."""
        self.refresh()
        for table in self._marked:
            for reason, count in table.mark(pmids, self._retractions).items():
                self._metrics.rows_marked.labels(table.name, reason).inc(count)
            self._publish(table)

    def positions(self, partition: int) -> list[Position | None]:
        """How far each table holds a partition, as of the last refresh or commit."""
        return [table.position(partition) for table in self._tables]

    def lead(self, partition: int) -> int:
        """The last offset of a partition that any of the tables holds, -1 where none does."""
        return max(at.offset if at else -1 for at in self.positions(partition))

    def append(self, entries: Sequence[Entry]) -> None:
        """Commit entries, which are in order of offset for each partition. Raises `Fenced`."""
        if self._in_doubt or not all(table.is_known for table in self._tables):
            self.refresh()
        self._in_doubt = True
        lead = {partition: self.lead(partition) for partition in {e.partition for e in entries}}
        repeated = self._repeated(entries)
        behind = [entry for entry in entries if entry.offset <= lead[entry.partition]]
        rest = [entry for entry in entries if entry.offset > lead[entry.partition]]
        for part in (behind, rest):
            for table in self._tables:
                self._append(table, part, repeated)
        self._in_doubt = False

    def _append(
        self, table: "_Table", entries: Sequence[Entry], repeated: set[tuple[int, int]]
    ) -> None:
        fresh = table.unwritten(entries)
        if not fresh:
            return
        mine = [(e, e.row) for e in fresh if e.row is not None and e.table == table.name]
        rows = [
            {**row, "retracted": self._retractions.mark(row["pmid"], row["mesh"])}
            for entry, row in mine
            if (entry.partition, entry.offset) not in repeated
        ]
        table.commit(rows, fresh)
        if table.keeps_ids:
            self._ids.add([row["id"] for row in rows])
        now = datetime.now(UTC)
        for row in rows:
            self._metrics.end_to_end_seconds.labels("append").observe(
                max(0.0, (now - row["arrived"]).total_seconds())
            )
        self._metrics.records_out.labels("append").inc(len(rows))
        self._metrics.rows_appended.labels(table.name).inc(len(rows))
        for reason in filter(None, (row["retracted"] for row in rows)):
            self._metrics.rows_marked.labels(table.name, reason).inc()
        self._metrics.rows_repeated.labels(table.name).inc(len(mine) - len(rows))
        table.compact()
        self._publish(table)

    def _repeated(self, entries: Sequence[Entry]) -> set[tuple[int, int]]:
        """Partition and offset of the entries whose row is left out, for its id has one."""
        rows = [
            ((entry.partition, entry.offset), str(entry.row["id"]), table.keeps_ids)
            for table in self._tables
            for entry in table.unwritten(entries)
            if entry.row is not None and entry.table == table.name
        ]
        rows.sort()
        seen: set[str] = set()
        repeated: set[tuple[int, int]] = set()
        known = self._ids.known([id for _, id, _ in rows])
        for (at, id, keeps), held in zip(rows, known, strict=True):
            if held or id in seen:
                repeated.add(at)
            if keeps:
                seen.add(id)
        return repeated

    def _publish(self, table: "_Table") -> None:
        self._metrics.table_rows.labels(table.name).set(table.rows)
        self._metrics.table_version.labels(table.name).set(table.delta.version())


class _Table:
    """One of the tables, at the version that this worker last saw."""

    def __init__(self, settings: Settings, delta: DeltaTable, name: str, topic: str) -> None:
        self.name = name
        self.keeps_ids = name in (PREFERENCES, DROPPED)
        self.delta = delta
        self.rows = 0
        self._topic = topic
        self._compact_every = settings.append.compact_every
        # What an earlier run left small is compacted with the first commits of this one.
        self._uncompacted = len(delta.file_uris())
        self._months = {str(partition["month"]) for partition in delta.partitions()}
        self._compactions = 0
        self._vacuumed = -VACUUM_EVERY
        # The version of which every id has been handed out, and the files that were read for it.
        self._version = -1
        self._read: set[str] = set()
        # PMIDs of rows by other writers whose mark is not the view's.
        self._unlike: set[int] = set()
        # Those of the version that `delta` is at, read when they are first asked for.
        self._positions: dict[int, Position | None] = {}

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
            self.rows = self.delta.count()
        except STORE_ERRORS as error:
            raise self._transient(error) from error
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

    def position(self, partition: int) -> Position | None:
        if partition not in self._positions:
            app = f"append/{self._topic}/{partition}"
            try:
                offset = self.delta.transaction_version(app)
                timestamp = self.delta.transaction_version(f"{app}/timestamp")
            except STORE_ERRORS as error:
                raise self._transient(error) from error
            self._positions[partition] = None if offset is None else Position(offset, timestamp)
        return self._positions[partition]

    def unwritten(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries past this table's position in their partition."""
        held = {
            partition: at.offset if (at := self.position(partition)) else -1
            for partition in {entry.partition for entry in entries}
        }
        return [entry for entry in entries if entry.offset > held[entry.partition]]

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
                    app_transactions=[t for entry in last.values() for t in self._moves(entry)]
                ),
            )
        except CommitFailedError as error:
            raise self._verdict(last, error) from None
        except STORE_ERRORS as error:
            raise self._transient(error) from error
        self._advanced()
        for entry in last.values():
            self._positions[entry.partition] = Position(entry.offset, entry.timestamp)
        self.rows += len(rows)
        self._months.update(row["month"] for row in rows)
        self._uncompacted += bool(rows)

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
                self.delta.optimize.compact(
                    partition_filters=[("month", "=", month)],
                    target_size=target,
                    writer_properties=WRITER,
                )
                if self._advanced():
                    self._read = {f.path for f in self.delta.to_pyarrow_dataset().get_fragments()}
            if target == LARGE:
                self._months.clear()
            if time.monotonic() - self._vacuumed >= VACUUM_EVERY:
                self._vacuumed = time.monotonic()
                self.delta.vacuum(dry_run=False)
                self._advanced()
        except CommitFailedError:
            log.info("table %s: another worker is compacting it", self.name)
        except STORE_ERRORS as error:
            log.warning("table %s: not compacted: %s", self.name, one_line(error))

    def _advanced(self) -> bool:
        """Whether the version of `delta` adds one commit of this worker to what was known."""
        if self.delta.version() != self._version + 1:
            self._positions.clear()
            return False
        self._version += 1
        return True

    def _moves(self, entry: Entry) -> tuple[Transaction, Transaction]:
        app = f"append/{self._topic}/{entry.partition}"
        return (
            Transaction(app, entry.offset),
            Transaction(f"{app}/timestamp", entry.timestamp),
        )

    def _verdict(self, last: Iterable[int], error: CommitFailedError) -> Exception:
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
        numbers = ", ".join(map(str, sorted(moved)))
        return Fenced(f"table {self.name}: another worker has written {self._topic} [{numbers}]")

    def _transient(self, error: Exception) -> Transient:
        return Transient("tables", f"{self.name}: {one_line(error)}")
