"""The sweep over the table `parked`: who waits for MeSH goes on once it has come, or leaves.

A message of `pubmed.articles` that brings MeSH may pass before its record is parked, and a newer
edition of MeSH brings no message at all. So from time to time the index is asked about all that
wait. What goes on is published as contexts, under the id that belongs to its MeSH, and taken out of
the table when the broker has it; if the worker dies between the two it is published again, and the
append stage keeps the first.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from deltalake.exceptions import CommitFailedError

from consumers.ports import Lookup
from consumers.rescore import looked_up, with_mesh
from consumers.stored import contexts, given_up
from consumers.together import together
from infra import mesh_edition
from infra.artifacts import ArtifactError
from infra.row_marks import LISTED_AT_ONCE, among, moment, quoted
from infra.settings import Settings
from infra.stored_contexts import id_in, month_in, read, whole
from infra.table_maintenance import WRITER
from infra.tables import (
    DECIDED,
    PARKED,
    STORE_ERRORS,
    TableError,
    one_line,
    open_table,
)
from streams import topics
from streams.errors import Invalid, Misconfigured, Transient
from streams.life import MESH_CHANGED
from streams.mesh import MeshError
from streams.metrics import Metrics
from streams.records import Contexts, Ideal, Preference
from streams.topics import CONTEXTS, Topic

log = logging.getLogger(__name__)

Row: TypeAlias = dict[str, Any]

NEVER_INDEXED = "never indexed"

# How soon it is tried again when a component is away, and how often it is looked whether another
# edition of MeSH has been put in use, in seconds.
RETRY = 60.0
LOOK = 5.0
# Records that are looked up, or read with their contexts, at a time.
PART = 500
# The append stage may be compacting what rows are to be taken out of.
ATTEMPTS = 5
# Rows that are younger than this, at least, are looked after where they stand no more.
OVERTAKEN_FOR = timedelta(days=1)

# How long a record may have waited to be counted in each group, in days.
AGES = {"1 day": 1, "7 days": 7, "30 days": 30, "90 days": 90, "365 days": 365}
OLDER = "older"


class Publish(Protocol):
    """Publishes a record and returns when the broker has it. Raises `Transient`, `Invalid`."""

    async def __call__(self, topic: Topic, record: Contexts | Preference | Ideal) -> None: ...


@asynccontextmanager
async def sweeping(
    settings: Settings,
    *,
    lookup: Lookup,
    publish: Publish,
    metrics: Metrics,
    going: asyncio.Event,
) -> AsyncIterator[None]:
    """Sweep now and then, while entered and `going` is set.

    What fails is logged and tried again.
    """

    async def once() -> float:
        """Sweep; the seconds until the next time."""
        every = settings.parked.check_every
        await going.wait()
        try:
            now = datetime.now(UTC)
            await sweep(settings, lookup=lookup, publish=publish, metrics=metrics, now=now)
        except (ArtifactError, MeshError, Misconfigured, Transient) as error:
            every = min(every, RETRY)
            log.warning("rescore: looks after parked records again in %.0f s: %s", every, error)
        except Exception:
            log.exception("rescore: a fault in looking after parked records")
        return every

    task = asyncio.create_task(_now_and_then(settings, once))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _now_and_then(settings: Settings, once: Callable[[], Awaitable[float]]) -> None:
    """Call when it is due, and when another edition of MeSH has been put in use."""
    edition = None
    while True:
        edition = mesh_edition.stamp(settings, edition)
        due = time.monotonic() + await once()
        while edition == mesh_edition.stamp(settings, edition):
            left = due - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(LOOK, left))


async def sweep(
    settings: Settings, *, lookup: Lookup, publish: Publish, metrics: Metrics, now: datetime
) -> None:
    """Send on all that need not wait any more, give up what came in too long ago, count the rest.

    Raises `Transient`. What was sent on before that is taken out of the table the next time.
    """
    edition = (await asyncio.to_thread(mesh_edition.current, settings)).edition
    months = await asyncio.to_thread(read, settings, PARKED, "select distinct month from rows")
    staying: list[datetime] = []
    for month in sorted(row["month"] for row in months):
        waiting = await asyncio.to_thread(_waiting, settings, month)
        going = await _going(waiting, edition, lookup)
        oldest = now - timedelta(days=settings.parked.longest_days)
        # One whose descriptors are unknown has been indexed: it waits for another edition.
        late = [
            row
            for row in waiting
            if row["arrived"] < oldest and not row["mesh"] and row["id"] not in going
        ]
        resumed = [row for row in waiting if row["id"] in going]
        gone = await _send_on(settings, PARKED, resumed, going, lookup, publish)
        lost = await _give_up(settings, late, publish)
        out = [row for row in waiting if row["id"] in gone | lost]
        for part in _parts(out, LISTED_AT_ONCE):
            await asyncio.to_thread(_take_out, settings, part)
        for row in waiting:
            if row["id"] in gone:
                metrics.parked_resumed.labels(row["reason"]).inc()
            elif row["id"] not in lost:
                staying.append(row["arrived"])
        metrics.parked_given_up.inc(len(lost))
    _show(metrics, staying, now)
    recent = now - timedelta(seconds=2 * settings.parked.check_every) - OVERTAKEN_FOR
    for table in DECIDED:
        await _overtaken(settings, table, recent, lookup, publish)


async def _overtaken(
    settings: Settings, table: str, since: datetime, lookup: Lookup, publish: Publish
) -> None:
    """Send on what got other MeSH while it was on its way to the table.

    The message that brought it passed before there was a row, which was then marked as it came.
    """
    query = (
        "select id, month, pmid, mesh, appended from rows "  # noqa: S608
        f"where retracted = {quoted(MESH_CHANGED)} and appended >= {moment(since)}"
    )
    rows = await asyncio.to_thread(read, settings, table, query)
    present: dict[int, tuple[str, ...]] = {}
    for part in _parts(rows):
        present |= await lookup(sorted({row["pmid"] for row in part}))
    other = {row["id"]: present[row["pmid"]] for row in rows if present.get(row["pmid"])}
    changed = [row for row in rows if set(other.get(row["id"], row["mesh"])) != set(row["mesh"])]
    await _send_on(settings, table, changed, other, lookup, publish)


def _waiting(settings: Settings, month: str) -> list[Row]:
    """The rows of a month without what makes them large, of each id the newest."""
    rows = read(
        settings,
        PARKED,
        "select id, month, pmid, mesh, reason, mesh_edition, arrived, appended from rows "  # noqa: S608
        f"where month = {quoted(month)} order by appended",
    )
    return list({row["id"]: row for row in rows}.values())


async def _going(
    waiting: Sequence[Row], edition: str, lookup: Lookup
) -> dict[str, tuple[str, ...]]:
    """By id, the present MeSH of the records that need not wait any more.

    That is one whose MeSH is not what it was; and one whose descriptors were all unknown to another
    edition of MeSH than the one in use.
    """
    going = {}
    for part in _parts(waiting):
        present = await lookup(sorted({row["pmid"] for row in part}))
        for row in part:
            mesh = present.get(row["pmid"], ())
            if mesh and (set(mesh) != set(row["mesh"]) or row["mesh_edition"] != edition):
                going[row["id"]] = mesh
    return going


async def _send_on(
    settings: Settings,
    table: str,
    rows: Sequence[Row],
    mesh: dict[str, tuple[str, ...]],
    lookup: Lookup,
    publish: Publish,
) -> set[str]:
    """Publish what goes on; the ids of the rows that can be taken out."""
    gone: set[str] = set()
    for part in _parts(rows):
        whole_rows = await asyncio.to_thread(whole, settings, table, part)
        made = {row["id"]: with_mesh(contexts(table, row), mesh[row["id"]]) for row in whole_rows}
        there = await asyncio.to_thread(_final, settings, {new.id for new in made.values()})
        sent = await looked_up([new for new in made.values() if new.id not in there], lookup)
        there |= await _confirmed(CONTEXTS, sent, publish)
        gone |= {id for id, new in made.items() if new.id in there}
    return gone


async def _give_up(settings: Settings, rows: Sequence[Row], publish: Publish) -> set[str]:
    """Publish what has waited too long as unscorable; the ids of the rows that can be taken out."""
    lost: set[str] = set()
    for part in _parts(rows):
        there = await asyncio.to_thread(_final, settings, {row["id"] for row in part})
        late = [row for row in part if row["id"] not in there]
        whole_rows = await asyncio.to_thread(whole, settings, PARKED, late)
        made = {row["id"]: given_up(row, NEVER_INDEXED) for row in whole_rows}
        ideals = [each for each in made.values() if isinstance(each, Ideal)]
        others = [each for each in made.values() if isinstance(each, Preference)]
        lost |= there | await _confirmed(topics.IDEAL, ideals, publish)
        lost |= await _confirmed(topics.PREFERENCES, others, publish)
    return lost


def _final(settings: Settings, ids: set[str]) -> set[str]:
    """Those of the ids that have a row which is not waiting."""
    query = f"select id from rows where {id_in(ids)}"  # noqa: S608
    tables = DECIDED if ids else ()
    return {row["id"] for table in tables for row in read(settings, table, query)}


async def _confirmed(
    topic: Topic, records: Sequence[Contexts | Preference | Ideal], publish: Publish
) -> set[str]:
    """Publish records; the ids of those that the broker has. Raises `Transient`."""

    async def one(record: Contexts | Preference | Ideal) -> str | None:
        try:
            await publish(topic, record)
        except Invalid as error:
            log.warning("rescore: PMID %d stays parked: %s", record.source.pmid, error)
            return None
        return record.id

    return {id for id in await together(map(one, records)) if id}


def _take_out(settings: Settings, rows: Sequence[Row]) -> None:
    """Delete these rows, and no newer ones of their ids. Raises `Transient`.

    A row that came since is one that was sent on before and could not be scored yet.
    """
    until = max(row["appended"] for row in rows)
    # By month, PMID and time it is known which files need not be read.
    meant = (
        f"{month_in(rows)} and appended <= {moment(until)} "
        f"and {among('pmid', {row['pmid'] for row in rows})} "
        f"and {id_in(row['id'] for row in rows)}"
    )
    for _ in range(ATTEMPTS):
        try:
            open_table(settings, PARKED).delete(meant, writer_properties=WRITER)
            return
        except CommitFailedError as error:
            conflict = error
        except (*STORE_ERRORS, TableError) as error:
            raise Transient("tables", f"{PARKED}: {one_line(error)}") from error
    raise Transient("tables", f"{PARKED}: {one_line(conflict)}")


def _show(metrics: Metrics, arrived: Sequence[datetime], now: datetime) -> None:
    """Set the gauges by the times at which those that wait came in."""
    ages = [(now - each).total_seconds() for each in arrived]
    groups = Counter(
        next((name for name, days in AGES.items() if age <= days * 86_400), OLDER) for age in ages
    )
    for name in (*AGES, OLDER):
        metrics.parked.labels(name).set(groups[name])
    metrics.parked_oldest.set(max(ages, default=0.0))


def _parts(rows: Sequence[Row], size: int = PART) -> Iterator[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
