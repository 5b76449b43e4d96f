"""What keeps the tables quick to commit to and small, for years: joined files, and no old ones.

The append stage joins files as it writes them and removes old ones every hour; `kailin tables
maintain` does both at once. Files that a commit has replaced stay for
`deletedFileRetentionDuration`, the log for `logRetentionDuration`, and both for longer where a job
that has not ended is pinned to an older version.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from deltalake import DeltaTable, WriterProperties
from deltalake.exceptions import CommitFailedError, DeltaError

from infra import topic_view
from infra.kafka import BrokerUnreachable
from infra.settings import Settings
from infra.tables import (
    CONFIGURATION,
    SCHEMAS,
    STORE_ERRORS,
    TableError,
    one_line,
    open_table,
)
from infra.training_data import policy
from streams.errors import Transient
from streams.learning import Job
from streams.topics import JOBS
from trainers.triggers import OPEN

log = logging.getLogger(__name__)

T = TypeVar("T")

# Files are joined up to a small size, and every so often up to a large one: so a row is written
# again a few times only, and a table of many millions of rows has few files.
SMALL, LARGE = 16 << 20, 128 << 20
WRITER = WriterProperties(compression="ZSTD", compression_level=3)

# Seconds from a worker's start until it tidies for the first time, and from then on.
FIRST_AFTER, EVERY = 60.0, 3600.0

# Another writer may change the same files meanwhile.
ATTEMPTS = 10

# By table, versions that must stay readable.
Pinned = Mapping[str, Collection[int]]


@dataclass(frozen=True, slots=True)
class Done:
    """Of one table: its version and rows afterwards, its files, and how many were removed."""

    table: str
    version: int
    rows: int
    files_before: int
    files: int
    removed: int


async def pinned(settings: Settings) -> dict[str, set[int]]:
    """The versions that jobs read which have not ended, or are to be tried again.

    Raises `BrokerUnreachable` and `Transient`.
    """
    return versions(
        (await topic_view.read(settings, JOBS, Job)).values(), policy(settings).attempts
    )


def versions(jobs: Iterable[Job], attempts: int) -> dict[str, set[int]]:
    """By table, the versions that these jobs may still read."""
    found: dict[str, set[int]] = {}
    for job in jobs:
        if job.state in OPEN or (job.state == "failed" and job.attempt < attempts):
            found.setdefault(job.table, set()).add(job.data_version)
    return found


def maintain(settings: Settings, held: Pinned) -> Iterator[Done]:
    """Join the small files of every table and remove what nobody reads any more.

    Others may write meanwhile; what is in their way is done again. Raises `CommitFailedError` where
    they never leave room for it, and what deltalake raises where the store is away.
    """
    for name in SCHEMAS:
        try:
            delta = open_table(settings, name)
        except TableError:
            continue
        before = len(delta.file_uris())
        for month in months(delta):
            _again(delta, partial(join, delta, month, LARGE))
        removed = _again(delta, partial(tidy, delta, held.get(name, ())))
        delta.update_incremental()
        files = len(delta.file_uris())
        yield Done(name, delta.version(), delta.count(), before, files, removed)


def months(delta: DeltaTable) -> list[str]:
    """The partitions that a table has."""
    return sorted({str(partition["month"]) for partition in delta.partitions()})


def join(delta: DeltaTable, month: str, target: int) -> None:
    """Join the files of a month that are smaller than `target` bytes. Raises `CommitFailedError`.

    Rows that are appended meanwhile do not stand in its way, rows that are changed do.
    """
    delta.optimize.compact(
        partition_filters=[("month", "=", month)], target_size=target, writer_properties=WRITER
    )


def tidy(delta: DeltaTable, held: Collection[int]) -> int:
    """Remove files and log that no reader needs any more; how many files of rows that were.

    `held` are versions that stay readable whatever their age. Raises `CommitFailedError`.
    """
    delta.update_incremental()
    _configure(delta)
    readable = [version for version in sorted(held) if _is_there(delta, version)]
    removed = delta.vacuum(dry_run=False, keep_versions=readable or None)
    # The log is removed by its age alone, so it has to wait for the oldest version that is held.
    if not readable:
        delta.cleanup_metadata()
    return len(removed)


@asynccontextmanager
async def tidying(settings: Settings) -> AsyncIterator[None]:
    """Tidies the tables every hour while entered; what fails is logged, and left to the next."""
    task = asyncio.create_task(_every_hour(settings))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _every_hour(settings: Settings) -> None:
    pause = FIRST_AFTER
    while True:
        await asyncio.sleep(pause)
        pause = EVERY
        try:
            held = await pinned(settings)
            await asyncio.to_thread(_tidy_all, settings, held)
        except (BrokerUnreachable, Transient) as error:
            log.warning("tables are tidied later: %s", error)


def _tidy_all(settings: Settings, held: Pinned) -> None:
    for name in SCHEMAS:
        try:
            if removed := tidy(open_table(settings, name), held.get(name, ())):
                log.info("table %s: %d old files removed", name, removed)
        except CommitFailedError:
            log.info("table %s: tidied later, another process is at it", name)
        except (TableError, *STORE_ERRORS) as error:
            log.warning("table %s: tidied later: %s", name, one_line(error))


def _configure(delta: DeltaTable) -> None:
    """Give a table that an earlier version of this program made the present configuration."""
    if delta.metadata().configuration != CONFIGURATION:
        delta.alter.set_table_properties(
            {key: value for key, value in CONFIGURATION.items() if value is not None}
        )


def _is_there(delta: DeltaTable, version: int) -> bool:
    """Whether the log still has a version."""
    try:
        DeltaTable(delta.table_uri, version=version)
    except (DeltaError, OSError):
        return False
    return True


def _again(delta: DeltaTable, attempt: Callable[[], T]) -> T:
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except CommitFailedError as error:
            conflict = error
        time.sleep(min(0.1 * 2**number, 2.0))
        delta.update_incremental()
    raise conflict
