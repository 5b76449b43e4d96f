"""Sends records so that they are there when the sender goes on: confirmed by the broker."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.partitioner import DefaultPartitioner

from consumers.stage import Policy
from streams.codec import encode
from streams.errors import Invalid
from streams.records import DeadLetter, Record
from streams.topics import Topic

# No list of the broker allows it; none of these are tried again by themselves.
NOT_ALLOWED = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

# What Kafka adds to one record that makes a batch of its own: 61 bytes for the batch, and lengths,
# attributes and deltas of at most 28 for the record.
BATCH_OVERHEAD = 96


def key_and_value(topic: Topic, record: Record, name: str) -> tuple[bytes, bytes]:
    """What a record is on its topic, which the broker calls `name`. Raises `Invalid`."""
    key, value = topic.key(record), encode(record)
    size = len(key) + len(value) + BATCH_OVERHEAD
    if size > topic.max_message:
        raise Invalid(
            "too large", f"{size:,} bytes, and topic {name} takes {topic.max_message:,} at most"
        )
    return key, value


def check_key(topic: Topic, record: Record | None, key: bytes | None) -> None:
    """Raise `Invalid` ("key") where a message of `topic` is not keyed by the record that it holds.

    Such a one may lie on another partition than the record's other states, in no order with them.
    A dead letter may have any key, and so may a tombstone, which holds none.
    """
    if record is None or isinstance(record, DeadLetter):
        return
    if (expected := topic.key(record)) != key:
        got = None if key is None else key[:40]
        raise Invalid("key", f"expected {expected!r}, as the record says, got {got!r}")


def too_large_for_broker(name: str, error: MessageSizeTooLargeError) -> Invalid:
    """The verdict where a broker's topic takes less than the table of topics says."""
    return Invalid("too large", f"topic {name} of this broker takes less: {error}")


def broker_away(error: KafkaError) -> bool:
    """Whether what failed may succeed later."""
    return error.retriable or isinstance(error, KafkaTimeoutError)


def not_allowed(error: KafkaError) -> str:
    """The line for one of `NOT_ALLOWED`: what to do about it."""
    return f"Kafka does not allow it to this user: {error!r}; `kailin acls` shows what is needed"


class Delivery:
    """Delivers through the producer that `producer` returns.

    While the broker is away, `again` is awaited between attempts, with a reason, the pause in
    seconds that is due, and details.
    """

    def __init__(
        self,
        producer: Callable[[], AIOKafkaProducer],
        topic_name: Callable[[Topic], str],
        policy: Policy,
        again: Callable[[str, float, str], Awaitable[None]],
    ) -> None:
        self._producer = producer
        self._topic_name = topic_name
        self._policy = policy
        self._again = again

    async def __call__(self, topic: Topic, record: Record) -> None:
        """Send a record and wait until the broker has it, however long the broker is away.

        Raises `Invalid` ("too large"), and aiokafka's own error where waiting would not help.
        """
        name = self._topic_name(topic)
        key, value = key_and_value(topic, record, name)
        send = self._send
        for pause in self._policy.pauses():
            try:
                # The first wait is for a place in a batch, the second for the broker's answer.
                await (await send(name, key, value))
                return
            except MessageSizeTooLargeError as error:
                # The broker refuses a batch as a whole: which record is to blame shows when each
                # is sent in a batch of its own.
                if send == self._send_alone:
                    raise too_large_for_broker(name, error) from error
                send = self._send_alone
            except KafkaError as error:
                if not broker_away(error):
                    raise
                await self._again("broker away", pause, f"{name}: {error!r}")

    async def _send(self, topic: str, key: bytes, value: bytes) -> Awaitable[Any]:
        sent: Awaitable[Any] = await self._producer().send(topic, value, key=key)
        return sent

    async def _send_alone(self, topic: str, key: bytes, value: bytes) -> Awaitable[Any]:
        producer = self._producer()
        batch = producer.create_batch()
        batch.append(key=key, value=value, timestamp=None)
        partitions = sorted(await producer.partitions_for(topic))
        partition = DefaultPartitioner()(key, partitions, partitions)
        sent: Awaitable[Any] = await producer.send_batch(batch, topic, partition=partition)
        return sent
