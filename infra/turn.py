"""One at a time: the right to do what two processes of a deployment must not do at once.

Ingesting is such a thing: what a citation is depends on what is known of its record. The right is
partition 0 of a topic in a consumer group of its own: who is assigned it has it, the others wait
for it, and Kafka passes it on when its holder dies. A holder that was only asleep (SIGSTOP, a long
pause) is fenced by the next one's transactional id, where they write with one.

A process that is started again under the same name takes its own place at once, as a static member
of the group (KIP-345); of one that died, the others have to wait until the broker has missed it
for `SESSION` seconds.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.errors import KafkaError

from infra.kafka import client_arguments, group_name, start, topic_name
from infra.settings import Settings
from streams.errors import Transient
from streams.topics import Topic

# Brokers allow no shorter one unless they are told to.
SESSION = 6.0


class TurnLost(Transient):
    """Another process has the right now: decide anew when it is this one's turn again."""

    def __init__(self) -> None:
        super().__init__("turn lost", "another process has taken over")


class Turn(ConsumerRebalanceListener):  # type: ignore[misc]
    """The right, or the wait for it, of the process that goes by `name`.

    It is that of the consumer group kailin.`group`, over a topic that is there.
    """

    def __init__(self, settings: Settings, name: str, *, group: str, topic: Topic) -> None:
        self._settings = settings
        self._group = group_name(settings, group)
        self._topic = topic_name(settings, topic)
        place = f"{settings.data.resolve()} {name}"
        digest = hashlib.blake2b(place.encode(), digest_size=8).hexdigest()
        self._instance = f"{socket.gethostname()}-{digest}"
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned = asyncio.Event()
        self._holding = False
        # Since when (Unix seconds) this process has stood in line; 0 for the one whose turn it is.
        self._since = 0.0

    async def join(self) -> None:
        """Stand in line. Raises `BrokerUnreachable`."""
        if self._consumer:
            return
        self._assigned.clear()
        self._since = time.time()
        consumer = AIOKafkaConsumer(
            group_id=self._group,
            group_instance_id=self._instance,
            partition_assignment_strategy=[_in_line(lambda: self._since)],
            session_timeout_ms=int(SESSION * 1000),
            heartbeat_interval_ms=1000,
            # It never asks for messages, and is not to be thought dead for that.
            max_poll_interval_ms=10**12,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            **client_arguments(self._settings),
        )
        consumer.subscribe([self._topic], listener=self)
        await start(consumer, self._settings)
        self._consumer = consumer

    async def wait(self, seconds: float) -> bool:
        """Whether this process has the right within this time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._holding:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await asyncio.sleep(min(0.05, left))
        return True

    async def check(self) -> None:
        """Raise `TurnLost` unless this process still has the right."""
        try:
            # While the group takes in another member nobody is assigned anything.
            await asyncio.wait_for(self._assigned.wait(), 2 * SESSION)
        except TimeoutError:
            raise TurnLost from None
        if not self._holding:
            raise TurnLost

    async def wanted(self) -> bool:
        """Whether another process waits for the right."""
        return await _members(self._settings, self._group) > 1

    async def leave(self) -> None:
        """Give the right back; who waits has it at once."""
        consumer, self._consumer = self._consumer, None
        self._holding = False
        if consumer:
            # aiokafka lets a static member go without a word, since it is meant to come back.
            consumer._coordinator._group_instance_id = None
            await consumer.stop()

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._assigned.clear()
        self._holding = False

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        partitions = list(assigned)
        self._holding = bool(partitions)
        self._since = 0.0 if self._holding else self._since or time.time()
        if partitions and self._consumer:
            # It is a token, not messages, that is wanted here.
            self._consumer.pause(*partitions)
        self._assigned.set()


async def members(settings: Settings, group: str) -> int | None:
    """How many processes have the right kailin.`group`, or wait for it; None: the broker is mute.

    Raises `BrokerUnreachable`.
    """
    try:
        return await _members(settings, group_name(settings, group))
    except KafkaError:
        return None


async def _members(settings: Settings, group: str) -> int:
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        (answer,) = await admin.describe_consumer_groups([group])
        return max((len(found[5]) for found in answer.groups), default=0)
    finally:
        await admin.close()


def _in_line(since: Callable[[], float]) -> type[AbstractPartitionAssignor]:
    """An assignor that leaves the right with its holder, and then gives it to who waited longest.

    aiokafka asks classes, not instances, what a member has to say.
    """

    class InLine(AbstractPartitionAssignor):  # type: ignore[misc]
        name = "kailin-in-line"

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(0, list(topics), repr(since()).encode())

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            first = min(members, key=lambda member: (float(members[member].user_data), member))
            topics = members[first].subscription
            return {
                member: ConsumerProtocolMemberAssignment(
                    0, [(topic, [0]) for topic in topics] if member == first else [], b""
                )
                for member in members
            }

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            pass

    return InLine
