"""Publishes the citations of PubMed XML files to `pubmed.articles`, delivery confirmed."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from infra import logs
from infra.kafka import BrokerUnreachable, Publisher
from infra.pubmed_xml import DamagedFile, Deletion, Entry, Skipped, read_file, read_stream
from infra.settings import Settings, SettingsError
from infra.topic_admin import TopicError, create_topics
from streams.errors import Invalid, Transient
from streams.records import Article
from streams.topics import ARTICLES

# Sends that wait for the broker's confirmation at once.
WINDOW = 500


@dataclass(slots=True)
class Tally:
    """What became of the entries read so far. `failed` holds a line for each that failed."""

    published: int = 0
    deleted: int = 0
    failed: list[str] = field(default_factory=list)


def ingest_files(paths: Sequence[Path], settings: Settings, backfill: bool) -> int:
    """Publish files, or the *.xml and *.xml.gz of directories; `backfill` marks them as corpus.

    Shows progress and every problem as a line on stderr, and goes on with the next file after a
    damaged one. Returns the exit code: 0 everything was published, 1 something was not, 2 the
    settings are wrong.
    """
    logs.configure()
    console = Console(stderr=True)
    try:
        return asyncio.run(_ingest(paths, settings, backfill, console))
    except SettingsError as error:
        _say(console, str(error))
        return 2
    except (BrokerUnreachable, TopicError) as error:
        _say(console, str(error))
        return 1


async def publish_file(
    path: Path,
    publisher: Publisher,
    *,
    corpus: bool,
    select: Callable[[Article], bool] | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> Tally:
    """Publish one file as `publish` does.

    Raises `DamagedFile` when everything before the damage is published, and `OSError`.
    """
    tally = Tally()
    entries = read_file(path, corpus=corpus, arrived=datetime.now(UTC))
    await publish(entries, publisher, tally, select=select, skip=skip, limit=limit)
    return tally


async def publish(
    entries: Iterable[Entry],
    publisher: Publisher,
    tally: Tally,
    *,
    select: Callable[[Article], bool] | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> None:
    """Publish articles, and deletions as tombstones, in their order; counts into `tally`.

    Of the articles that `select` keeps (None: all), the first `skip` are passed over and `limit`
    are published. All that was sent is confirmed on return. Raises `Transient` or aiokafka's
    error when the broker fails; what `entries` raises comes after the confirmation of what it gave.
    """
    sends = _Sends(publisher, tally)
    chosen = 0
    try:
        for entry in entries:
            if isinstance(entry, Article):
                if select and not select(entry):
                    continue
                chosen += 1
                if chosen > skip:
                    await sends.publish(entry)
                if limit is not None and chosen >= skip + limit:
                    break
            elif isinstance(entry, Deletion):
                await sends.delete(entry)
            else:
                tally.failed.append(_skipped(entry))
    finally:
        await sends.confirm(0)


class _Sends:
    """The sends whose confirmation has not come yet, oldest first."""

    def __init__(self, publisher: Publisher, tally: Tally) -> None:
        self._publisher = publisher
        self._tally = tally
        self._pending: deque[tuple[Article | Deletion, asyncio.Future[None]]] = deque()

    async def publish(self, article: Article) -> None:
        try:
            self._pending.append((article, await self._publisher.enqueue(ARTICLES, article)))
        except Invalid as invalid:
            self._tally.failed.append(f"PMID {article.pmid}: {invalid}")
        await self.confirm(WINDOW)

    async def delete(self, deletion: Deletion) -> None:
        sent = await self._publisher.enqueue_delete(ARTICLES, b"%d" % deletion.pmid)
        self._pending.append((deletion, sent))
        await self.confirm(WINDOW)

    async def confirm(self, most: int) -> None:
        """Wait until at most this many are unconfirmed."""
        while len(self._pending) > most:
            entry, sent = self._pending.popleft()
            try:
                await sent
            except Invalid as invalid:
                self._tally.failed.append(f"PMID {entry.pmid}: {invalid}")
            except BaseException:
                rest = [pending for _, pending in self._pending]
                self._pending.clear()
                await asyncio.gather(*rest, return_exceptions=True)
                raise
            else:
                self._count(entry)

    def _count(self, entry: Article | Deletion) -> None:
        if isinstance(entry, Article):
            self._tally.published += 1
        else:
            self._tally.deleted += 1


def _skipped(entry: Skipped) -> str:
    name = f"entry {entry.number}" + (f" (PMID {entry.pmid})" if entry.pmid else "")
    return f"{name}: skipped: {entry.reason}"


async def _ingest(
    paths: Sequence[Path], settings: Settings, backfill: bool, console: Console
) -> int:
    started, tally, unreadable = time.monotonic(), Tally(), 0
    for difference in await create_topics(settings, [ARTICLES]):
        _say(console, f"warning: {difference}")
    async with Publisher(settings) as publisher:
        with _progress(console) as progress:
            for path in _files(paths):
                before = len(tally.failed)
                try:
                    await _one_file(path, publisher, tally, backfill, progress)
                except (DamagedFile, OSError) as error:
                    unreadable += 1
                    _say(console, _line(path, error))
                except (Transient, KafkaError) as error:
                    unreadable += 1
                    _say(console, f"{path}: stopped: {error}; run it again when Kafka is back")
                    break
                finally:
                    for line in tally.failed[before:]:
                        _say(console, f"{path}: {line}")
    seconds = max(time.monotonic() - started, 1e-9)
    _say(
        console,
        f"{tally.published:,} published{' as corpus' if backfill else ''}, {tally.deleted:,} "
        f"deleted, {len(tally.failed):,} failed, {unreadable:,} files not read to their end, "
        f"in {seconds:.1f} s ({(tally.published + tally.deleted) / seconds:,.0f} records/s)",
    )
    return 1 if tally.failed or unreadable else 0


async def _one_file(
    path: Path, publisher: Publisher, tally: Tally, corpus: bool, progress: Progress
) -> None:
    task = progress.add_task(path.name, total=None, tally="")
    # The bar moves with the bytes read, which are known beforehand; records are not.
    with progress.open(path, "rb", task_id=task) as stream:
        arrived = datetime.now(UTC)
        entries = read_stream(stream, str(path), corpus=corpus, source=path.name, arrived=arrived)
        await publish(_shown(entries, tally, progress, task), publisher, tally)


def _shown(
    entries: Iterator[Entry], tally: Tally, progress: Progress, task: TaskID
) -> Iterator[Entry]:
    """The same entries; every hundredth renews the figures beside the bar."""
    base, started = tally.published + tally.deleted, time.monotonic()
    for number, entry in enumerate(entries):
        yield entry
        if number % 100 == 0:
            rate = (tally.published + tally.deleted - base) / (time.monotonic() - started + 1e-9)
            progress.update(
                task,
                tally=f"{tally.published:,} published, {tally.deleted:,} deleted, "
                f"{len(tally.failed):,} failed, {rate:,.0f}/s",
            )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[tally]}"),
        console=console,
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, directories replaced by their PubMed files in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            found = sorted(f for f in path.iterdir() if f.name.endswith((".xml", ".xml.gz")))
        except OSError:
            found = []
        # An empty directory is as likely a slip as a missing file: it fails in the same way.
        yield from found or [path]


def _line(path: Path, error: DamagedFile | OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return f"{path}: holds no *.xml or *.xml.gz file that can be read"
    if isinstance(error, OSError):
        return f"{path}: cannot be read: {error.strerror or error}"
    return str(error)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
