"""Rows of the tables scored anew, from the contexts they keep, as new versions of the tables.

Month by month and table by table, the rows of a span are read, in parts that bound the memory, put
through the handlers of score, prefer and append, and take the place of the old ones in one commit.
A row that belongs in another table now is committed there before the commit that leaves it out
here: a crash between the two leaves it in both, and the same command, run again, in one.

Other writers go on meanwhile. A commit covers rows appended until the table was read, so later ones
do not stand in its way; where another writer has changed the same rows, the part is done again.
A row that comes to a table carries the positions of the append stage there, unchanged: so an append
stage that does not know of it fails to commit, and looks at the tables before it tries again.

No model is called: an ideal record keeps its answer, in `dropped` too, and one that comes to
`ideal` without has none. One that is parked is left to the stages, which answer it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
from aiokafka import TopicPartition
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from consumers.answer import gate
from consumers.append import Row, row
from consumers.prefer import prefer
from consumers.score import score
from consumers.stored import contexts
from infra.kafka import topic_name
from infra.row_marks import LISTED_AT_ONCE, moment, quoted
from infra.settings import Settings
from infra.sink_table import LEADS_TO, PARTITIONS, application
from infra.table_maintenance import WRITER
from infra.tables import DECIDED, DROPPED, IDEAL, PARKED, PREFERENCES, SCHEMAS, open_table
from streams.similarity import Similarity

log = logging.getLogger(__name__)

TABLES = (PREFERENCES, IDEAL, DROPPED, PARKED)

FROM = "from rows where"

# Rows of a commit, some 10 kB each in memory, and rows as Python has them, several times that.
PART = 10_000
AT_ONCE = 500
# How often a month is done again because another writer has changed it meanwhile.
ATTEMPTS = 20


class Contended(Exception):
    """Other writers change a month again and again; the message is one line."""


@dataclass(frozen=True, slots=True)
class Span:
    """Days of arrival, in UTC, both included; None leaves an end open."""

    since: date | None = None
    until: date | None = None

    def where(self) -> str:
        """SQL for rows that arrived then."""
        conditions = []
        if self.since:
            conditions.append(f"arrived >= {_midnight(self.since)}")
        if self.until:
            conditions.append(f"arrived < {_midnight(self.until + timedelta(days=1))}")
        return " and ".join(conditions) or "true"


@dataclass(slots=True)
class Mean:
    """A mean in the making."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Sequence[float]) -> None:
        self.total += sum(values)
        self.count += len(values)

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Tally:
    """What became of the rows that were read.

    `left` stay as they are: they have no MeSH or no candidates, or the stages are to answer them;
    `moved` counts rows by table before
    and after; `flipped` are preferences whose questions have changed sides, of `compared`.
    """

    read: int = 0
    left: int = 0
    changed: int = 0
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    compared: int = 0
    flipped: int = 0
    before: Mean = field(default_factory=Mean)
    after: Mean = field(default_factory=Mean)

    def add(self, other: "Tally") -> None:
        self.read += other.read
        self.left += other.left
        self.changed += other.changed
        self.moved += other.moved
        self.compared += other.compared
        self.flipped += other.flipped
        for mine, its in ((self.before, other.before), (self.after, other.after)):
            mine.total += its.total
            mine.count += its.count


def rescore(
    settings: Settings,
    span: Span,
    tables: Sequence[str],
    scorer: Similarity,
    margin: float,
    floor: float,
    *,
    dry_run: bool = False,
    tell: Callable[[str, Tally], None] = lambda month, tally: None,
) -> Tally:
    """Score the rows of `tables` that arrived in a span anew; `tell` is called after each month.

    Raises `TableError` where a table is missing, `Contended` and deltalake's own errors.
    """
    appending = {} if dry_run else _appending(settings)
    run = _Run(settings, scorer, margin, floor, dry_run, appending)
    whole = Tally()
    for month in _months(settings, span, tables):
        of_month = Tally()
        # Rows that have come from another table in this run have been counted there.
        seen: set[str] = set()
        for table in tables:
            for part in _parts(settings, table, f"month = {quoted(month)} and {span.where()}"):
                of_month.add(_Portion(run, table, month, part).done(seen))
        whole.add(of_month)
        tell(month, of_month)
    return whole


def _months(settings: Settings, span: Span, tables: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for table in tables:
        rows = _stream(open_table(settings, table), "distinct month", span.where())
        found.update(each["month"] for some in rows for each in some)
    return sorted(found)


def _parts(settings: Settings, table: str, where: str) -> Iterator[str]:
    """SQL for the rows of a condition in parts, by their time of arrival, of `PART` rows or so."""
    numbered = f"(select arrived, row_number() over (order by arrived) as place {FROM} {where})"
    firsts = f"{numbered} where place % {PART} = 1"
    query = f"select distinct arrived from {firsts} order by arrived"  # noqa: S608
    starts = [
        each["arrived"] for some in _answer(open_table(settings, table), query) for each in some
    ]
    for start, end in pairwise([*starts, None]):
        part = f"{where} and arrived >= {moment(start)}"
        yield part if end is None else f"{part} and arrived < {moment(end)}"


def _appending(settings: Settings) -> dict[str, tuple[str, ...]]:
    """By table, the names under which the append stage keeps its positions there.

    They are asked for one by one, and each has to be looked for in the log: so once a run.
    """
    found: dict[str, tuple[str, ...]] = dict.fromkeys(TABLES, ())
    for topic, tables in LEADS_TO.items():
        name = topic_name(settings, topic)
        names = [application(TopicPartition(name, number)) for number in range(PARTITIONS)]
        # Every table that a topic leads to has a position for each partition.
        delta = open_table(settings, tables[0])
        held = tuple(each for each in names if delta.transaction_version(each) is not None)
        for table in tables:
            found[table] += held
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    settings: Settings
    scorer: Similarity
    margin: float
    floor: float
    dry_run: bool
    appending: dict[str, tuple[str, ...]]


class _Portion:
    """Rows of one table that arrived in a part of a month; `where` is SQL for them."""

    def __init__(self, run: _Run, table: str, month: str, where: str) -> None:
        self._run = run
        self._table = table
        self._month = month
        self._where = where

    def done(self, seen: set[str]) -> Tally:
        """Score them and put them in their places, again where other writers interfere."""
        for attempt in range(ATTEMPTS):
            try:
                return self._attempt(seen)
            except CommitFailedError as error:
                log.info("table %s, %s: done again: %s", self._table, self._month, error)
                time.sleep(min(0.1 * 2**attempt, 5.0))
        raise Contended(
            f"table {self._table}: other writers have changed {self._month} {ATTEMPTS} times while "
            "it was scored: run the same command again when less is going on"
        )

    def _attempt(self, seen: set[str]) -> Tally:
        delta = open_table(self._run.settings, self._table)
        tally = Tally()
        [[newest]] = _stream(delta, "max(appended) as at", self._where)
        if newest["at"] is None:
            return tally
        where = f"{self._where} and appended <= {moment(newest['at'])}"
        placed: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
        for rows in _stream(delta, "*", where):
            gone = self._decided(rows) if self._table == PARKED else set()
            tally.changed += len(gone)
            anew = [(old, *self._anew(old)) for old in rows if old["id"] not in gone]
            for old, table, new in anew:
                self._count(tally, old, table, new, seen)
            for name, made in placed.items():
                # As Arrow, which takes a fraction of the memory.
                those = [new for _, table, new in anew if table == name]
                made.append(pa.Table.from_pylist(those, schema=SCHEMAS[name]))
        whole = {name: pa.concat_tables(made) for name, made in placed.items()}
        moved = {name: rows for name, rows in whole.items() if name != self._table and len(rows)}
        if not self._run.dry_run:
            for target, rows in moved.items():
                self._bring(target, rows)
            if tally.changed:
                self._replace(delta, where, whole[self._table])
        for rows in moved.values():
            seen.update(rows.column("id").to_pylist())
        return tally

    def _anew(self, old: Row) -> tuple[str, Row]:
        """The table that a row belongs in now, and the row."""
        kept = contexts(self._table, old)
        if not kept.source.mesh or not kept.retrievals:
            return self._table, old
        scored = score(kept, self._run.scorer)
        judged = prefer(scored, self._run.margin) or gate(scored, self._run.floor)
        table, new = row(judged)
        if table == IDEAL and self._table == PARKED:
            return self._table, old
        if table == PARKED and self._table != PARKED:
            # What has been decided does not wait again: its id is taken, see `infra.delta_sink`.
            table = DROPPED
        return table, {**new, "appended": old["appended"], "retracted": old["retracted"]}

    def _count(self, tally: Tally, old: Row, table: str, new: Row, seen: set[str]) -> None:
        tally.changed += table != self._table or new != old
        if old["id"] in seen:
            return
        tally.read += 1
        tally.left += new is old
        tally.before.add(_scores(self._table, old))
        tally.after.add(_scores(table, new))
        if table != self._table:
            tally.moved[self._table, table] += 1
        elif table == PREFERENCES:
            tally.compared += 1
            tally.flipped += new["generator_chosen"] != old["generator_chosen"]

    def _bring(self, target: str, rows: pa.Table) -> None:
        """Commit rows to the table that they move to, but those that are there already."""
        for attempt in range(ATTEMPTS):
            delta = open_table(self._run.settings, target)
            there = self._there(delta, rows.column("id").to_pylist())
            if self._table == PARKED:
                # What waited may have gone on meanwhile, and been decided the other way.
                for other in DECIDED:
                    decided = open_table(self._run.settings, other)
                    there |= self._there(decided, rows.column("id").to_pylist())
            missing, taken = [], set(there)
            for place, id in enumerate(rows.column("id").to_pylist()):
                if id not in taken:
                    missing.append(place)
                    taken.add(id)
            if not missing:
                return
            try:
                write_deltalake(
                    delta,
                    rows.take(pa.array(missing, pa.int64())),
                    mode="append",
                    writer_properties=WRITER,
                    commit_properties=CommitProperties(app_transactions=self._fence(target, delta)),
                )
                return
            except CommitFailedError:
                time.sleep(min(0.05 * 2**attempt, 2.0))
        raise Contended(f"table {target}: {ATTEMPTS} commits failed: run the same command again")

    def _decided(self, rows: Sequence[Row]) -> set[str]:
        """The ids of parked rows that another table has too: they do not wait any more."""
        return {
            id
            for table in DECIDED
            for id in self._there(
                open_table(self._run.settings, table), [each["id"] for each in rows]
            )
        }

    def _there(self, delta: DeltaTable, ids: Sequence[str]) -> set[str]:
        """Those of the ids that a table has."""
        there: set[str] = set()
        for start in range(0, len(ids), LISTED_AT_ONCE):
            among = ", ".join(map(quoted, ids[start : start + LISTED_AT_ONCE]))
            found = _stream(delta, "id", f"{self._where} and id in ({among})")
            there.update(each["id"] for some in found for each in some)
        return there

    def _fence(self, target: str, delta: DeltaTable) -> list[Transaction]:
        """The append stage's positions as they are, and a count that two of these runs share."""
        names = self._run.appending[target]
        held = [(name, delta.transaction_version(name)) for name in names]
        runs = delta.transaction_version("rescore") or 0
        return [
            Transaction("rescore", runs + 1),
            *(Transaction(name, offset) for name, offset in held if offset is not None),
        ]

    def _replace(self, delta: DeltaTable, where: str, rows: pa.Table) -> None:
        """Rows in place of those that were read, in one commit."""
        write_deltalake(
            delta,
            rows,
            mode="overwrite",
            predicate=where,
            writer_properties=WRITER,
            commit_properties=CommitProperties(
                custom_metadata={"rescored": f"MeSH {self._run.scorer.edition}"}
            ),
        )


def _stream(delta: DeltaTable, columns: str, where: str) -> Iterator[list[Row]]:
    """Columns of the rows that a condition holds for, in SQL, some rows at a time."""
    return _answer(delta, f"select {columns} {FROM} {where}")


def _answer(delta: DeltaTable, query: str) -> Iterator[list[Row]]:
    answer = QueryBuilder().register("rows", delta).execute(query)
    for batch in pa.RecordBatchReader.from_stream(answer):
        for start in range(0, batch.num_rows, AT_ONCE):
            yield batch.slice(start, AT_ONCE).to_pylist()


def _scores(table: str, of: Row) -> list[float]:
    if table == PREFERENCES:
        return [of["score_chosen"], of["score_rejected"]]
    if table == IDEAL:
        return [of["score"]]
    return [each["score"] for each in of["candidates"] if each["score"] is not None]


def _midnight(day: date) -> str:
    return moment(datetime(day.year, day.month, day.day, tzinfo=UTC))
