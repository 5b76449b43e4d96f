"""Brings records in: units of a source, one after the other, each resumed where it was left.

A unit is what has one `Progress`: a file, a window of a search, a list of PMIDs. Where Kafka fails
or another process takes over, the writer is opened anew and the unit goes on from what was
committed, as it does after the process was killed.
"""

import asyncio
import fcntl
import hashlib
import logging
import signal
import time
from collections import Counter, defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self, TypeVar, cast

from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry
from rich.console import Console

from consumers.stage import Policy
from infra import logs
from infra.arrivals import Portion, Reader
from infra.ingest_display import Display
from infra.ingest_writer import Writer
from infra.kafka import BrokerUnreachable
from infra.metrics_server import serving
from infra.ncbi_requests import RequestFailed
from infra.pause import going
from infra.pubmed_xml import DamagedFile
from infra.settings import Settings
from infra.topic_admin import TopicError, create_topics
from infra.tracing import tracing
from infra.turn import Turn
from streams.at_hand import at_hand
from streams.errors import Misconfigured, Transient
from streams.life import pack_pmids
from streams.metrics import Metrics
from streams.records import Progress
from streams.topics import ARTICLES, CONTROL, PROGRESS, RETRACTIONS

log = logging.getLogger(__name__)

T = TypeVar("T")

DONE, FAILED, WRONG = 0, 1, 2
# Seconds in which another ingest that waits takes its turn.
GIVING_WAY = 2.0


class AlreadyRunning(Exception):
    """The same ingest runs on this machine; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is read as a whole. `read` gives its portions from a position on.

    `id` is the same in every run. A unit that is not `resumable` is read from its beginning each
    time; `held` keeps its PMIDs in its progress, and `asked` are those known beforehand. `size` is
    its length for the display: bytes, or citations where a source announces them.
    """

    id: str
    source: str
    what: str
    read: Callable[[int], AsyncIterator[Portion]]
    resumable: bool = False
    held: bool = False
    asked: tuple[int, ...] = ()
    announced: int | None = None
    size: int | None = None


class Session:
    """The units that one process ingests. Use as an async context manager.

    Entering makes the topics that are missing and raises `BrokerUnreachable`, `TopicError`. One
    that `follows` sources stands still while ingest is paused, and lets others have their turn.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        display: Display,
        metrics: Metrics,
        *,
        follows: bool = False,
    ) -> None:
        self.settings = settings
        self.display = display
        self.metrics = metrics
        self._turn = Turn(settings, name, group="ingest", topic=PROGRESS)
        self.writer = Writer(settings, self._turn)
        self.reader = Reader()
        self.failures = 0
        self._follows = follows
        self._going: asyncio.Event | None = None
        # As of when each thing that is polled was read to its end (Unix time), by source.
        self._as_of: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._began = time.time()

    async def __aenter__(self) -> Self:
        topics = [ARTICLES, RETRACTIONS, PROGRESS, CONTROL]
        for difference in await create_topics(self.settings, topics):
            self.display.say(f"warning: {difference}")
        async with AsyncExitStack() as stack:
            if self._follows:
                followed = going(self.settings, "ingest", self.metrics)
                self._going = await stack.enter_async_context(followed)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._entered.aclose()
        await self.reader.end()
        await self.writer.end()
        await self._turn.leave()

    async def ready(self) -> Writer:
        """The writer, once it is this process's turn and all that was committed is known."""
        await self._patiently(self._open)
        return self.writer

    async def _open(self) -> None:
        if self._paused and self._going:
            await self._leave()
            self.display.say("paused: it goes on after `kailin resume ingest`")
            await self._going.wait()
        await self._turn.join()
        if not await self._turn.wait(1.0):
            # Whoever has the right now writes on: what this process knows is out of date.
            await self.writer.close()
            self.display.say("waiting: another ingest is at work, and this one stands in line")
            while not await self._turn.wait(60.0):
                pass
        if not self.writer.is_open:
            await self.writer.open()
            self._count_failed()

    @property
    def _paused(self) -> bool:
        return self._going is not None and not self._going.is_set()

    def state(self, id: str) -> str | None:
        """The state of a unit's progress, None before it began."""
        progress = self.writer.progress.get(id)
        return progress.state if progress else None

    async def follow(self, sources: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Read the sources again and again; others have their turn in between."""
        while True:
            for source in sources:
                try:
                    await source()
                except RequestFailed as error:
                    self.display.say(str(error))
            self.display.say(self.display.tally())
            await self._leave()
            await asyncio.sleep(self.settings.ncbi.poll)

    async def commit(self, portion: Portion, progress: Progress) -> Progress:
        """As `Writer.commit`, until it is done."""
        tried = False

        async def attempt() -> Progress:
            nonlocal tried
            await self._open()
            known = self.writer.progress.get(progress.id)
            done = progress.position + portion.entries
            if tried and portion.entries and known and known.position == done:
                return known  # it was committed, and only the answer was lost
            tried = True
            return await self.writer.commit(portion, progress)

        return await self._patiently(attempt)

    async def publish(self, progress: Progress) -> None:
        """Keep a progress that no citation comes with."""
        await self.commit(Portion((), (), 0), progress)

    def looks_at(self, source: str, id: str) -> None:
        """A poll begins. Until one of this id ends well, its source counts as of the beginning."""
        self._as_of[source].setdefault(id, self._began)

    async def came_up_to_date(self, poll: Progress) -> None:
        """Keep that a source was read to its end, or not, as of `poll.at`."""
        await self.publish(poll)
        if poll.state == "done":
            self.display.say(f"{poll.source}: up to date as of {poll.at:%Y-%m-%d %H:%M} UTC")
            of_source = self._as_of[poll.source]
            of_source[poll.id] = poll.at.timestamp()
            # Of several queries, the one that is read to its end the least counts.
            self.metrics.ingest_current.labels(poll.source).set(min(of_source.values()))

    async def remove(self, pmids: Sequence[int], progress: Progress) -> None:
        """Delete records that their source holds no longer."""
        progress = replace(progress, state="running")
        for start in range(0, len(pmids), 1000):
            gone = self.writer.deletions(pmids[start : start + 1000])
            progress = await self.commit(Portion(gone, (), len(gone)), progress)
        await self.publish(replace(progress, state="done"))

    async def run(self, unit: Unit) -> Progress:
        """Ingest a unit; its progress is "done", or "failed" with the reason."""
        self.display.begin(unit.what, unit.size)
        progress = await self._patiently(lambda: self._read(unit))
        self.display.end()
        self.failures += progress.state == "failed" or bool(progress.counts.get("failed"))
        self.metrics.ingest_units.labels(unit.source, progress.state).inc()
        self._count_failed()
        await self._give_way()
        return progress

    async def _read(self, unit: Unit) -> Progress:
        await self._open()
        progress = self._begin(unit)
        pmids: set[int] = set()
        try:
            async with aclosing(_ahead(unit.read(progress.position))) as portions:
                async for portion in portions:
                    if self._paused:
                        raise Transient("paused", f"{unit.what} goes on from what is committed")
                    before = progress
                    progress = await self.writer.commit(portion, progress)
                    self._tell(unit, before, progress, portion)
                    if unit.held:
                        pmids.update(a.pmid for a in portion.arrivals if a.message is not None)
                        # What could not be read is there all the same.
                        pmids.update(u.pmid for u in portion.unread if u.pmid)
        except (RequestFailed, DamagedFile, OSError) as error:
            reason = str(error) if not isinstance(error, OSError) else _os_error(unit, error)
            ended = replace(progress, state="failed", reason=reason, at=datetime.now(UTC))
            self.display.say(reason)
            if isinstance(error, OSError) and not progress.position:
                # A slip in a name, say, which nothing is to be kept of.
                return ended
        else:
            held = pack_pmids(pmids) if unit.held else None
            ended = replace(progress, state="done", held=held, at=datetime.now(UTC))
        await self.writer.commit(Portion((), (), 0), ended)
        return ended

    def _begin(self, unit: Unit) -> Progress:
        known = self.writer.progress.get(unit.id)
        if unit.resumable and known and known.state != "done":
            if known.position:
                self.display.say(f"{unit.what}: going on after {known.position:,} entries")
            return replace(known, state="running", reason=None)
        return Progress(
            id=unit.id,
            source=unit.source,
            what=unit.what,
            state="running",
            position=0,
            announced=unit.announced,
            counts={},
            held=pack_pmids(unit.asked) if unit.asked else None,
            at=datetime.now(UTC),
        )

    def _count_failed(self) -> None:
        """Show what is left to be read again, by source."""
        failed: Counter[str] = Counter()
        for id, progress in self.writer.progress.items():
            failed[progress.source] += progress.state == "failed" and not id.startswith("poll:")
        for source, count in failed.items():
            self.metrics.ingest_failed.labels(source).set(count)

    def _tell(self, unit: Unit, before: Progress, after: Progress, portion: Portion) -> None:
        gained = {
            change: count - before.counts.get(change, 0) for change, count in after.counts.items()
        }
        self.display.advance(gained, portion.read or after.position)
        for unread in after.unread[len(before.unread) :]:
            name = f"PMID {unread.pmid}: " if unread.pmid else ""
            with at_hand(pmid=unread.pmid):
                self.display.say(f"{unit.what}: {name}{unread.reason}")
        for change, count in gained.items():
            self.metrics.citations.labels(unit.source, change).inc(count)

    async def _give_way(self) -> None:
        """Let another ingest have its turn, where one waits."""
        with suppress(KafkaError, BrokerUnreachable):
            if not await self._turn.wanted():
                return
            await self._leave()
            await asyncio.sleep(GIVING_WAY)
        await self.ready()

    async def _leave(self) -> None:
        await self.writer.close()
        await self._turn.leave()

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, tried again while Kafka is away or another process writes."""
        for pause in Policy(**self.settings.workers.model_dump()).pauses():
            try:
                return await attempt()
            except (Transient, BrokerUnreachable) as error:
                self.display.say(f"{error}; again in {pause:.1f} s")
            await self.writer.close()
            await asyncio.sleep(pause)
        raise AssertionError("pauses never end")


async def _ahead(portions: AsyncIterator[Portion]) -> AsyncGenerator[Portion, None]:
    """The same portions, the next one on its way while one is worked on."""
    coming = asyncio.ensure_future(anext(portions, None))
    try:
        while portion := await coming:
            coming = asyncio.ensure_future(anext(portions, None))
            yield portion
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await coming
        if isinstance(portions, AsyncGenerator):
            await portions.aclose()


def _os_error(unit: Unit, error: OSError) -> str:
    return f"{error.filename or unit.what}: cannot be read: {error.strerror or error}"


def run(
    settings: Settings,
    name: str,
    console: Console,
    work: Callable[[Session], Awaitable[None]],
    *,
    serve: bool = False,
) -> int:
    """Do `work` in a session of its own until it is done, SIGTERM or SIGINT.

    `name` is what the process stands in line as; `serve` serves /metrics meanwhile. Says every
    problem as a line on the console. Returns the exit code: 0 everything was read, 1 something was
    not, 2 the settings are wrong.
    """
    logs.configure(settings, "ingest")
    # What its clients meet is told here, in a line of ours.
    client = logging.getLogger("aiokafka")
    client.propagate = False
    client.addHandler(logging.NullHandler())
    metrics = Metrics(CollectorRegistry())
    ports = settings.ports
    served = serving("ingest", ports.host, ports.ingest, metrics.registry)
    try:
        with _alone(settings, name), served if serve else nullcontext():
            display = Display(console, log.info if serve else None)
            with tracing(settings.tracing, "ingest"):
                session = Session(settings, name, display, metrics, follows=serve)
                return asyncio.run(_until_told_to_stop(session, work))
    except Misconfigured as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return WRONG
    except OSError as error:
        console.print(f"{error.filename}: {error.strerror}", markup=False, soft_wrap=True)
        return FAILED
    except (AlreadyRunning, BrokerUnreachable, KafkaError, RequestFailed, TopicError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return FAILED
    except asyncio.CancelledError:
        return DONE if serve else FAILED


async def _until_told_to_stop(session: Session, work: Callable[[Session], Awaitable[None]]) -> int:
    task = cast(asyncio.Task[int], asyncio.current_task())
    for told in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(told, task.cancel)
    with session.display:
        try:
            async with session:
                await work(session)
        except asyncio.CancelledError:
            session.display.say("stopped; run it again and it goes on from here")
            raise
        finally:
            session.display.sum_up()
    return FAILED if session.failures else DONE


@contextmanager
def _alone(settings: Settings, name: str) -> Iterator[None]:
    """Two processes of one name would take each other's place in line. Raises `AlreadyRunning`."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    path = settings.data / "run" / f"ingest-{digest}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"`kailin ingest {name}` runs already on this machine") from None
        yield
