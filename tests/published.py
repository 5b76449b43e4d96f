"""What is committed to a broker, as its readers see it; and messages put there as they are."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from infra.kafka import client_arguments, topic_name
from infra.settings import Settings
from streams.citation import Article
from streams.codec import decode
from streams.records import Progress, Retraction
from streams.topics import ARTICLES, PROGRESS, RETRACTIONS, Topic


@dataclass
class Published:
    """Every state of each PMID in its order (None: a tombstone); the newest of all else."""

    states: dict[int, list[Article | None]] = field(default_factory=dict)
    retractions: dict[int, Retraction] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)

    def alive(self) -> dict[int, int]:
        """The version of each record that is not deleted."""
        newest = {pmid: states[-1] for pmid, states in self.states.items()}
        return {pmid: article.version for pmid, article in newest.items() if article}

    def changes(self, pmid: int) -> list[str]:
        """What each state of a record said that it changed."""
        return [article.change if article else "deleted" for article in self.states[pmid]]


def published(settings: Settings) -> Published:
    """All that is committed."""
    found = Published()
    for message in messages(settings, ARTICLES):
        state = decode(Article, message.value) if message.value else None
        found.states.setdefault(int(message.key), []).append(state)
    for message in messages(settings, RETRACTIONS):
        found.retractions[int(message.key)] = decode(Retraction, message.value)
    for message in messages(settings, PROGRESS):
        found.progress[message.key.decode()] = decode(Progress, message.value)
    return found


def messages(settings: Settings, topic: Topic) -> list[ConsumerRecord]:
    """The committed messages of a topic, each partition in its order."""

    async def read() -> list[ConsumerRecord]:
        name = topic_name(settings, topic)
        consumer = AIOKafkaConsumer(
            **client_arguments(settings), isolation_level="read_committed", fetch_max_wait_ms=50
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            found: list[ConsumerRecord] = []
            while any([await consumer.position(p) < end for p, end in ends.items()]):
                for some in (await consumer.getmany(timeout_ms=100)).values():
                    found += some
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


def put(settings: Settings, raw: Iterable[tuple[Topic, bytes, bytes | None]]) -> None:
    """Publish keys and values as they are, each confirmed."""

    async def send() -> None:
        async with AIOKafkaProducer(
            **client_arguments(settings), enable_idempotence=True, max_request_size=4 << 20
        ) as producer:
            sent = [
                await producer.send(topic_name(settings, topic), value, key=key)
                for topic, key, value in raw
            ]
            await asyncio.gather(*sent)

    asyncio.run(send())
