"""Topics read from where one says to their end, without a consumer group: as they are committed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.kafka import client_arguments, start, topic_name
from infra.settings import Settings
from streams.errors import Transient
from streams.topics import MIB, Topic

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
        self._consumer = AIOKafkaConsumer(
            **client_arguments(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * MIB,
        )
        await start(self._consumer, self._settings)
        try:
            partitions = await self._partitions()
            first = await self._consumer.beginning_offsets(partitions)
            self._consumer.assign(partitions)
            for partition in partitions:
                self.positions[partition] = max(self._at.get(partition, 0), first[partition])
                self._consumer.seek(partition, self.positions[partition])
        except KafkaError as error:
            await self.__aexit__()
            raise Transient("broker away", repr(error)) from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _partitions(self) -> list[TopicPartition]:
        admin = AIOKafkaAdminClient(**client_arguments(self._settings))
        await start(admin, self._settings)
        try:
            # Of all topics: to ask for one by name may make it.
            found = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
        finally:
            await admin.close()
        if missing := [name for name in self._names if name not in found]:
            raise Transient("no topic", f"{', '.join(missing)}: `kailin up` makes it")
        return [
            TopicPartition(name, partition["partition"])
            for name in self._names
            for partition in found[name]
        ]

    async def __aexit__(self, *exception: object) -> None:
        with suppress(KafkaError):
            await self._consumer.stop()

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
