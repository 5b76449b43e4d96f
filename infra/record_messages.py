"""The messages of a few keys, read from the partitions that they are in and no others."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from infra import kafka
from infra.kafka import topic_name
from infra.settings import Settings
from streams.errors import Transient
from streams.topics import Topic

POLL_MS = 200
# Seconds without anything to read after which the broker counts as away.
SILENCE = 30.0

# How many messages are read and how many there are to read.
Told = Callable[[int, int], None]


class Partitions:
    """Where messages of some topics, each with a key, are. A key of None stands for any.

    A topic that the broker does not have is passed over.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        settings: Settings,
        there: Mapping[str, list[int]],
        keys: Mapping[Topic, bytes | None],
    ) -> None:
        """`there` are the broker's topics with their partitions."""
        self._consumer = consumer
        self._wanted: dict[TopicPartition, tuple[Topic, bytes | None]] = {}
        for topic, key in keys.items():
            name = topic_name(settings, topic)
            numbers = there.get(name, [])
            if numbers and key is not None:
                numbers = [DefaultPartitioner()(key, numbers, numbers)]
            for number in numbers:
                self._wanted[TopicPartition(name, number)] = topic, key

    async def size(self) -> int:
        """How many offsets the partitions span. Raises `KafkaError`."""
        begins = await self._consumer.beginning_offsets(list(self._wanted))
        ends = await self._consumer.end_offsets(list(self._wanted))
        span: int = sum(ends[at] - begins[at] for at in self._wanted)
        return span

    async def messages(
        self, since: datetime | None, told: Told
    ) -> AsyncIterator[tuple[Topic, ConsumerRecord]]:
        """What was written since then and is there now. Raises `Transient`, `KafkaError`."""
        consumer, partitions = self._consumer, list(self._wanted)
        if not partitions:
            return
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        if since is not None:
            milliseconds = int(since.timestamp() * 1000)
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
            begins = {at: found[at].offset if found[at] else ends[at] for at in partitions}
        left = {at for at in partitions if begins[at] < ends[at]}
        consumer.assign(left)
        for at in left:
            consumer.seek(at, begins[at])
        total, heard = sum(ends[at] - begins[at] for at in left), time.monotonic()
        positions = begins
        while any(positions[at] < ends[at] for at in left):
            for at, some in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                topic, key = self._wanted[at]
                for message in some:
                    if key is None or message.key == key:
                        yield topic, message
            # The markers that end transactions have offsets too.
            now = {at: await consumer.position(at) for at in left}
            heard = time.monotonic() if now != positions else heard
            positions = now
            if time.monotonic() - heard > SILENCE:
                raise Transient("broker away", f"nothing came for {SILENCE:.0f} s")
            told(sum(min(now[at], ends[at]) - begins[at] for at in left), total)


@asynccontextmanager
async def partitions(
    settings: Settings, keys: Mapping[Topic, bytes | None]
) -> AsyncIterator[Partitions]:
    """The partitions of these keys. Raises `BrokerUnreachable`, `KafkaError`."""
    there = await kafka.partitions(settings)
    async with kafka.consuming(settings, fetch_max_wait_ms=50) as consumer:
        yield Partitions(consumer, settings, there, keys)
