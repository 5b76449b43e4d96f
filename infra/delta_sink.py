"""Messages of the topics `preferences` and `ideal` into the tables, exactly once.

A commit to a table carries, for each Kafka partition in it, the last offset that it covers, as a
Delta application transaction `append/<topic>/<partition>`. Rows and offsets so become visible
together, and a table leaves out what lies at or before its own offset. Two writers of one
partition collide there: the commit of the second fails, and it is `Fenced`. A table has offsets of
the topics that lead to it.

An id is kept once over `preferences`, `ideal` and `dropped`, the first in the order of its
partition. Messages are keyed by PMID and an id has one role, so that those of one id are all in one
partition and have one writer. Commits go to `preferences` and `ideal` first, and where the offsets
of a topic's tables differ, after a crash between two of them, the table behind is brought level
before anything else: so whoever reads them is fenced by any commit that it has not seen.

A row of `parked` only waits: it leaves its id to what becomes of it, and is left out where that is
in a table already. It may be there twice, if its record was worked on twice, for who takes rows out
of it (`infra.parked`) may be about to take out the first.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from aiokafka import TopicPartition

from infra.retractions import Retractions
from infra.row_ids import RowIds
from infra.settings import Settings
from infra.sink_table import Entry, Position, Table
from infra.tables import (
    DROPPED,
    IDEAL,
    PARKED,
    PREFERENCES,
    STORE_ERRORS,
    create,
    one_line,
)
from streams.errors import Transient
from streams.learning import TrainingData
from streams.metrics import Metrics

# Jobs train on these.
TRAINED_ON = (PREFERENCES, IDEAL)


class DeltaSink:
    """The tables as one worker writes them. Not for use by several threads at once.

    Every method raises `Transient` when the store of the tables fails, and can then be called
    again: what was committed in spite of the failure is not written twice.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        retractions: Retractions | None = None,
    ) -> None:
        """`retractions`, read to their end before `open`, say which rows do not stand."""
        self._settings = settings
        self._metrics = metrics
        self._retractions = Retractions() if retractions is None else retractions
        self._ids = RowIds()
        self._tables: list[Table] = []
        self._in_doubt = False
        # By table, what has come to it since `news` was last called.
        self._news: dict[str, TrainingData] = {}

    def open(self) -> None:
        """Open the tables, made empty where they are not there yet, and load the ids they hold.

        Raises `TableError` where a table has other columns.
        """
        try:
            self._tables = [
                Table(self._settings, create(self._settings, name), name)
                for name in (PREFERENCES, IDEAL, DROPPED, PARKED)
            ]
        except STORE_ERRORS as error:
            raise Transient("tables", one_line(error)) from error
        self.refresh()

    def refresh(self) -> None:
        """Go to the newest versions, and take in the ids that other workers have committed.

        Of rows that they have written, those whose mark is not the view's are noted for `mark`.
        """
        for table in self._tables:
            table.refresh(self._ids, self._retractions)
            self._publish(table)

    def mark(self, pmids: Collection[int]) -> None:
        """Bring the marks of the rows of these PMIDs level with the view, and those noted."""
        self.refresh()
        for table in self._tables:
            for reason, count in table.mark(pmids, self._retractions).items():
                self._metrics.rows_marked.labels(table.name, reason).inc(count)
            self._publish(table)

    def positions(self, partition: TopicPartition) -> list[Position | None]:
        """How far each table that its topic leads to holds a partition.

        As of the last refresh or commit, in the order of commits.
        """
        return [
            table.position(partition) for table in self._tables if partition.topic in table.topics
        ]

    def lead(self, partition: TopicPartition) -> int:
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

    def news(self) -> list[TrainingData]:
        """What has come, since the last call, to the tables that jobs train on."""
        news = list(self._news.values())
        self._news.clear()
        return news

    def _append(
        self, table: Table, entries: Sequence[Entry], repeated: set[tuple[TopicPartition, int]]
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
        if rows and table.name in TRAINED_ON:
            before = self._news.get(table.name)
            self._news[table.name] = TrainingData(
                table=table.name,
                version=table.delta.version(),
                rows=table.rows,
                added=len(rows) + (before.added if before else 0),
                at=now,
            )
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

    def _repeated(self, entries: Sequence[Entry]) -> set[tuple[TopicPartition, int]]:
        """Partition and offset of the entries whose row is left out, for its id has one."""
        rows = [
            ((entry.partition, entry.offset), str(entry.row["id"]), table.keeps_ids)
            for table in self._tables
            for entry in table.unwritten(entries)
            if entry.row is not None and entry.table == table.name
        ]
        rows.sort()
        seen: set[str] = set()
        repeated: set[tuple[TopicPartition, int]] = set()
        known = self._ids.known([id for _, id, _ in rows])
        for (at, id, keeps), held in zip(rows, known, strict=True):
            if held or id in seen:
                repeated.add(at)
            if keeps:
                seen.add(id)
        return repeated

    def _publish(self, table: Table) -> None:
        self._metrics.table_rows.labels(table.name).set(table.rows)
        self._metrics.table_version.labels(table.name).set(table.delta.version())
