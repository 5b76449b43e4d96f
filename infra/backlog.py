"""When the backlog may go on: θ3 serves, nothing live waits, and its own rate allows it."""

import asyncio
import time
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.kafka import client_arguments, group_name, start, topic_name
from infra.serving_models import ServingModels
from infra.settings import Settings
from streams.errors import Transient
from streams.learning import Serving
from streams.metrics import Metrics
from streams.topics import ALIGNMENTS, ARTICLES, Topic

# What the backlog waits for, as its metric names it.
THETA3_SERVES, LIVE_RECORDS, ANSWERS = "theta3", "live records", "answers"
# More alignments than this wait for the answer stage only if it stands still, as it does when its
# budget is spent.
UNANSWERED = 1000
# How long an answer of the broker is relied on, in seconds.
LOOK_EVERY = 2.0
# How long a message that is not read is looked for, where the end of a topic says there is one.
FETCH = 5.0


async def theta3_serves(models: ServingModels, metrics: Metrics) -> Serving:
    """What serves as θ3; waits until a model does."""
    waiting = metrics.backlog_waiting.labels(THETA3_SERVES)
    while (serving := models.serving) is None:
        waiting.set(1)
        await models.wait(LOOK_EVERY)
    waiting.set(0)
    return serving


class LiveFirst:
    """Lets backlog records pass while at most `backlog.lag` articles wait for generate.

    Nor may it heap up questions before an answer stage that stands still. At most
    `backlog.per_second` pass, where that is set. Use as an async context manager; entering raises
    `BrokerUnreachable`.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._waiting = metrics.backlog_waiting
        self._looking = asyncio.Lock()
        self._looked = -LOOK_EVERY
        self._waits_for: str | None = LIVE_RECORDS
        self._next = 0.0

    async def __aenter__(self) -> Self:
        self._admin = AIOKafkaAdminClient(**client_arguments(self._settings))
        await start(self._admin, self._settings)
        self._consumer = AIOKafkaConsumer(
            **client_arguments(self._settings),
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        try:
            await start(self._consumer, self._settings)
        except BaseException:
            await self._admin.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def turn(self) -> None:
        """Wait until one more record may pass. Raises `Transient` while the broker is away."""
        while waits_for := await self._waited_for():
            for reason in (LIVE_RECORDS, ANSWERS):
                self._waiting.labels(reason).set(reason == waits_for)
            await asyncio.sleep(LOOK_EVERY)
        for reason in (LIVE_RECORDS, ANSWERS):
            self._waiting.labels(reason).set(0)
        if rate := self._settings.backlog.per_second:
            now = time.monotonic()
            self._next = max(now, self._next) + 1 / rate
            await asyncio.sleep(self._next - 1 / rate - now)

    async def _waited_for(self) -> str | None:
        async with self._looking:
            if time.monotonic() - self._looked >= LOOK_EVERY:
                try:
                    self._waits_for = await self._look()
                except KafkaError as error:
                    raise Transient("broker away", repr(error)) from error
                self._looked = time.monotonic()
        return self._waits_for

    async def _look(self) -> str | None:
        lag = self._settings.backlog.lag
        if await self._behind(ARTICLES, "generate", allowed=lag):
            return LIVE_RECORDS
        if await self._behind(ALIGNMENTS, "answer", allowed=max(lag, UNANSWERED)):
            return ANSWERS
        return None

    async def _behind(self, topic: Topic, stage: str, *, allowed: int) -> bool:
        """Whether more messages than allowed are before those that a stage has committed."""
        name, group = topic_name(self._settings, topic), group_name(self._settings, stage)
        partitions = [
            TopicPartition(name, partition["partition"])
            for found in await self._admin.describe_topics()
            if found["topic"] == name
            for partition in found["partitions"]
        ]
        if not partitions:
            return False
        committed = await self._admin.list_consumer_group_offsets(group, partitions=partitions)
        if len(committed) < len(partitions):
            # What aiokafka makes of a coordinator that still reads its own state.
            raise Transient("broker away", f"group {group}: its offsets are not known yet")
        firsts = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        behind = {}
        for at in partitions:
            done = max(committed[at].offset, firsts[at])
            if done < ends[at]:
                behind[at] = done
        if sum(ends[at] - done for at, done in behind.items()) <= allowed:
            return False
        return await self._unread(behind, ends, allowed + 1) > allowed

    async def _unread(
        self, behind: dict[TopicPartition, int], ends: dict[TopicPartition, int], most: int
    ) -> int:
        """How many messages there are from the offsets `behind` to `ends`, counted up to `most`.

        The markers that end transactions have offsets as well, and so has what compaction removed.
        """
        self._consumer.assign(list(behind))
        for at, offset in behind.items():
            self._consumer.seek(at, offset)
        found, until = 0, time.monotonic() + FETCH
        try:
            while found < most and behind and time.monotonic() < until:
                got = await self._consumer.getmany(timeout_ms=200, max_records=most - found)
                found += sum(len(messages) for messages in got.values())
                for at in list(behind):
                    if await self._consumer.position(at) >= ends[at]:
                        del behind[at]
        finally:
            self._consumer.unsubscribe()
        # What could not be read in time may well be there.
        return most if behind else found
