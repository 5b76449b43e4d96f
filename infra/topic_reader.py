"""Topics read from where one says to their end, without a consumer group: as they are committed."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka import consuming, partitions, topic_name
from infra.settings import Settings
from streams.errors import Transient
from streams.topics import Topic

POLL_MS = 200


class TopicReader:
    """Every partition of some topics. Use as an async context manager.

    Entering raises `BrokerUnreachable`; every method, and entering, `Transient`: where the broker
    goes away, or has one of the topics not. Then another one goes on from what was done with.
    """

    def __init__(
        self, settings: Settings, topics: Sequence[Topic], at: Mapping[TopicPartition, int]
    ) -> None:
        """Begins at these offsets, and where there is none at the beginning."""
        self._settings = settings
        self._names = [topic_name(settings, topic) for topic in topics]
        self._at = at
        # The offset that comes next, by partition.
        self.positions: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._consumer = await stack.enter_async_context(consuming(self._settings))
            try:
                await self._assign()
            except KafkaError as error:
                raise Transient("broker away", repr(error)) from error
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._entered.aclose()

    async def _assign(self) -> None:
        there = await partitions(self._settings)
        if missing := [name for name in self._names if name not in there]:
            raise Transient("no topic", f"{', '.join(missing)}: `kailin up` makes it")
        assigned = [TopicPartition(name, number) for name in self._names for number in there[name]]
        first = await self._consumer.beginning_offsets(assigned)
        self._consumer.assign(assigned)
        for at in assigned:
            self.positions[at] = max(self._at.get(at, 0), first[at])
            self._consumer.seek(at, self.positions[at])

    async def read(self, most: int) -> list[ConsumerRecord]:
        """Up to `most` messages that come next, each partition's in order; none after a while.

        `positions` are past them then.
        """
        try:
            found = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=most)
            # The markers that end transactions have offsets too.
            self.positions = {
                partition: await self._consumer.position(partition) for partition in self.positions
            }
        except KafkaError as error:
            raise Transient("broker away", repr(error)) from error
        return [message for messages in found.values() for message in messages]

    async def ends(self) -> dict[TopicPartition, int]:
        """The offset that the next message of each partition will have."""
        try:
            ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(self.positions))
        except KafkaError as error:
            raise Transient("broker away", repr(error)) from error
        return ends

    def left(self, ends: Mapping[TopicPartition, int]) -> int:
        """How many offsets there are up to these ends."""
        return sum(max(0, end - self.positions[partition]) for partition, end in ends.items())
