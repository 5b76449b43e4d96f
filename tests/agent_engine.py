"""One stage's worker in this process, on a real broker and topics of its own.

bench = await make_bench(kafka_broker, tmp_path)
await bench.publish(records.article(1))
async with bench.running(bench.stage(as_questions)):
    await bench.read(QUESTIONS, 1)
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from consumers import agent
from consumers.stage import Kafka, Message, Policy, Stage
from engines import KafkaEngine
from fakes import records
from infra.kafka import topic_name
from infra.settings import Settings
from infra.topic_admin import create_topics
from streams.citation import Article
from streams.codec import decode, encode
from streams.metrics import Metrics
from streams.records import Questions, Record
from streams.topics import ARTICLES, QUESTIONS, Topic

QUICK = Policy(window=16, retry_first=0.05, retry_longest=0.2)


async def as_questions(message: Message[Article]) -> list[Record]:
    return [records.questions(message.record.pmid)]


@dataclass
class Bench:
    """One stage between `pubmed.articles` and `questions`, on topics of its own."""

    kafka: KafkaEngine
    settings: Settings
    scratch: Path
    name: Callable[[Settings, Topic], str] = topic_name
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))

    def stage(self, handle: Callable[..., Awaitable[Any]], **changes: Any) -> Stage[Article]:
        return Stage(
            name="generate", **{"source": ARTICLES, "sink": QUESTIONS, "handle": handle, **changes}
        )

    @asynccontextmanager
    async def running(
        self, stage: Stage[Any], policy: Policy = QUICK, going: asyncio.Event | None = None
    ) -> AsyncIterator["asyncio.Task[int]"]:
        stop = asyncio.Event()
        task = asyncio.create_task(
            agent.run(
                stage,
                kafka=Kafka(
                    client={
                        "bootstrap_servers": self.kafka.bootstrap,
                        "security_protocol": "PLAINTEXT",
                    },
                    group=self.settings.kafka.prefix + "group",
                    topic_name=lambda topic: self.name(self.settings, topic),
                ),
                policy=policy,
                metrics=self.metrics,
                scratch=self.scratch,
                stop=stop,
                going=going,
            )
        )
        try:
            yield task
        finally:
            stop.set()
            await task

    async def publish(
        self,
        *messages: bytes | Record | None,
        partition: int | None = 0,
        key: bytes | None = None,
        **more: Any,
    ) -> None:
        """Publish articles, or bytes as they are, under `key` or a record's own."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, max_request_size=8 << 20
        )
        async with producer:
            name = topic_name(self.settings, ARTICLES)
            for message in messages:
                value = (
                    message if isinstance(message, bytes) or message is None else encode(message)
                )
                own = ARTICLES.key(message) if isinstance(message, Article) else b"7"
                await producer.send(name, value, key=key or own, partition=partition, **more)
            await producer.flush()

    async def read(self, topic: Topic, count: int) -> list[Any]:
        """The first `count` records of a topic, and any more that are there."""
        return await self._read(topic, lambda found: len(found) >= count)

    async def asked_about(self, *pmids: int) -> list[Questions]:
        """All questions there are, once there are some about each of these."""
        return await self._read(
            QUESTIONS, lambda found: {made.source.pmid for made in found} >= set(pmids)
        )

    async def _read(self, topic: Topic, enough: Callable[[list[Any]], bool]) -> list[Any]:
        consumer = AIOKafkaConsumer(
            topic_name(self.settings, topic),
            bootstrap_servers=self.kafka.bootstrap,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 << 20,
        )
        found: list[Any] = []
        complete = False
        async with consumer, asyncio.timeout(60):
            while not complete:
                complete = enough(found)
                for messages in (await consumer.getmany(timeout_ms=200)).values():
                    found += [decode(topic.record, message.value) for message in messages]
        return found

    async def committed(self, partition: int = 0) -> int | None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap, group_id=self.settings.kafka.prefix + "group"
        )
        async with consumer:
            return await consumer.committed(
                TopicPartition(topic_name(self.settings, ARTICLES), partition)
            )

    @property
    def source(self) -> str:
        return topic_name(self.settings, ARTICLES)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"stage": "generate", **labels}) or 0.0


async def make_bench(kafka: KafkaEngine, scratch: Path) -> Bench:
    """A bench with topics of its own."""
    settings = Settings(kafka={"bootstrap": kafka.bootstrap, "prefix": f"{uuid.uuid4().hex}."})
    await create_topics(settings)
    return Bench(kafka, settings, scratch)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
