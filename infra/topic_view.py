"""What a compacted topic of one partition says at present: the newest record of each key."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Generic, Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from consumers.delivery import check_key
from consumers.stage import Policy
from infra.kafka import absent, client_arguments, start, topic_name
from infra.settings import Settings
from streams.codec import decode
from streams.errors import Invalid, Transient
from streams.records import Record
from streams.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

GRACE = 5.0
POLL_MS = 200
# How long a broker that is away is left alone before it is asked again, in seconds.
AGAIN = 1.0


class TopicView(Generic[R]):
    """Follows the topic while entered, without a consumer group; a tombstone takes its key away.

    Entering returns when all that was there has been read. It raises `BrokerUnreachable`, and
    `Transient` where there is no such topic or the broker goes away meanwhile; later on a broker
    that is away is waited for. A message that cannot be read, or has another key than its record
    says, is logged and passed over.
    """

    def __init__(self, settings: Settings, topic: Topic, record: type[R]) -> None:
        self._settings = settings
        self._topic = topic
        self._record = record
        self._at = TopicPartition(topic_name(settings, topic), 0)
        self._records: dict[str, R] = {}
        self._position = 0
        self._moved = asyncio.Condition()

    @property
    def records(self) -> Mapping[str, R]:
        """By key, as of what has been read."""
        return self._records

    @property
    def position(self) -> int:
        """The offset up to which the topic has been read."""
        return self._position

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            **client_arguments(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await start(self._consumer, self._settings)
        try:
            if self._at.topic not in await self._consumer.topics():
                raise Transient("no topic", absent(self._settings, self._at.topic))
            self._consumer.assign([self._at])
            await self._consumer.seek_to_beginning(self._at)
        except KafkaError as error:
            await self._stop()
            raise Transient("broker away", f"{self._at.topic}: {error!r}") from error
        except BaseException:
            await self._stop()
            raise
        self._following = asyncio.create_task(self._follow())
        try:
            await self.catch_up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._following.cancel()
        await asyncio.wait({self._following})
        await self._stop()

    async def catch_up(self) -> Mapping[str, R]:
        """The records as of all that was in the topic at the call. Raises `Transient`."""
        try:
            end = (await self._consumer.end_offsets([self._at]))[self._at]
        except KafkaError as error:
            raise Transient("broker away", f"{self._at.topic}: {error!r}") from error
        async with self._moved:
            await self._moved.wait_for(lambda: self._position >= end)
        return self._records

    async def until(self, offset: int) -> None:
        """Wait until the message at this offset has been read."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._position > offset)

    async def wait(self, seconds: float, *, beyond: int | None = None) -> bool:
        """Whether something new, or `beyond` that position, is read within this time."""
        before = self._position if beyond is None else beyond
        async with self._moved:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._moved.wait_for(lambda: self._position > before), seconds
                )
        return self._position > before

    async def _follow(self) -> None:
        while True:
            try:
                found = await self._consumer.getmany(timeout_ms=POLL_MS)
                for message in (m for messages in found.values() for m in messages):
                    self._take(message)
                # The markers that end transactions have offsets too.
                position = await self._consumer.position(self._at)
            except KafkaError as error:
                log.warning("%s: again in %.0f s: %r", self._at.topic, AGAIN, error)
                await asyncio.sleep(AGAIN)
                continue
            async with self._moved:
                self._position = position
                self._moved.notify_all()

    def _take(self, message: Any) -> None:
        try:
            key = (message.key or b"").decode()
            if message.value is None:
                self._records.pop(key, None)
            else:
                record = decode(self._record, message.value)
                check_key(self._topic, record, message.key)
                self._records[key] = record
        except (Invalid, UnicodeDecodeError) as error:
            where = f"topic {message.topic} [0], offset {message.offset}"
            log.error("%s: passed over: %s", where, error)

    async def _stop(self) -> None:
        # aiokafka lets the cancellation of a fetch that waits for a broker out of `stop`.
        with suppress(asyncio.CancelledError, TimeoutError, KafkaError):
            await asyncio.wait_for(self._consumer.stop(), GRACE)


@asynccontextmanager
async def followed(
    settings: Settings, topic: Topic, record: type[R]
) -> AsyncIterator[TopicView[R]]:
    """A view, once there is such a topic; one that is not there yet is waited for.

    Raises `BrokerUnreachable`.
    """
    async with AsyncExitStack() as stack:
        for pause in Policy(**settings.workers.model_dump()).pauses():
            view = TopicView(settings, topic, record)
            try:
                await stack.enter_async_context(view)
                break
            except Transient as error:
                log.warning("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
        yield view


async def read(settings: Settings, topic: Topic, record: type[R]) -> dict[str, R]:
    """The newest record of each key, at present; none where there is no such topic.

    Raises `BrokerUnreachable`, and `Transient` where the broker goes away meanwhile.
    """
    view = TopicView(settings, topic, record)
    try:
        async with view:
            return dict(view.records)
    except Transient as error:
        if error.reason == "no topic":
            return {}
        raise
