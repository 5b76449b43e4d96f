"""When the backlog may go on, by the offsets of a real broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from engines import KafkaEngine
from fakes import records as example
from infra import backlog
from infra.backlog import LiveFirst
from infra.kafka import Publisher, client_arguments, group_name, topic_name
from infra.settings import Settings
from infra.topic_admin import create_topics
from streams.codec import encode
from streams.errors import Transient
from streams.metrics import Metrics
from streams.topics import ALIGNMENTS, ARTICLES

pytestmark = pytest.mark.kafka

WAITING = "kailin_backlog_waiting"


@asynccontextmanager
async def opened(
    broker: KafkaEngine, prefix: str, **how: Any
) -> AsyncIterator[tuple[Settings, LiveFirst, Metrics]]:
    kafka = broker.settings.model_copy(update={"prefix": prefix})
    settings = Settings(kafka=kafka, backlog=how)
    await create_topics(settings, [ARTICLES, ALIGNMENTS])
    metrics = Metrics(CollectorRegistry())
    async with LiveFirst(settings, metrics) as live_first:
        yield settings, live_first, metrics


async def publish(settings: Settings, *pmids: int) -> None:
    async with Publisher(settings) as publisher:
        await asyncio.gather(*(publisher.send(ARTICLES, example.article(p)) for p in pmids))


async def publish_in_a_transaction(settings: Settings, *pmids: int, abort: bool = False) -> None:
    producer = AIOKafkaProducer(**client_arguments(settings), transactional_id="backlog-test")
    await producer.start()
    await producer.begin_transaction()
    for pmid in pmids:
        article = example.article(pmid)
        key = ARTICLES.key(article)
        await producer.send_and_wait(topic_name(settings, ARTICLES), encode(article), key=key)
    await (producer.abort_transaction() if abort else producer.commit_transaction())
    await producer.stop()


async def generate_has_done_all(settings: Settings, *, but: int = 0) -> None:
    """Commit as the generate stage does: behind the last message of each partition."""
    consumer = AIOKafkaConsumer(
        **client_arguments(settings),
        group_id=group_name(settings, "generate"),
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    await consumer.start()
    name = topic_name(settings, ARTICLES)
    partitions = [TopicPartition(name, number) for number in range(ARTICLES.partitions)]
    consumer.assign(partitions)
    await consumer.seek_to_beginning()
    done: dict[TopicPartition, int] = {}
    until = time.monotonic() + 2
    found = []
    while time.monotonic() < until:
        for messages in (await consumer.getmany(timeout_ms=100)).values():
            found += messages
    for message in found[: len(found) - but]:
        at = TopicPartition(name, message.partition)
        done[at] = max(done.get(at, 0), message.offset + 1)
    if done:
        await consumer.commit(done)
    await consumer.stop()


async def passes(live_first: LiveFirst, within: float = 10.0) -> bool:
    async def turn() -> None:
        while True:
            try:
                return await live_first.turn()
            except Transient:  # a new broker has no coordinator of groups at first
                await asyncio.sleep(0.2)

    try:
        await asyncio.wait_for(turn(), within)
    except TimeoutError:
        return False
    return True


async def test_without_live_records_the_backlog_goes_on(kafka_broker: KafkaEngine):
    async with opened(kafka_broker, "backlog-none.") as (_, live_first, metrics):
        assert await passes(live_first)
        assert metrics.registry.get_sample_value(WAITING, {"reason": "live records"}) == 0


async def test_it_does_not_heap_up_questions_before_answers_that_stand_still(
    kafka_broker: KafkaEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backlog, "UNANSWERED", 3)
    async with opened(kafka_broker, "backlog-answers.") as (settings, live_first, metrics):
        async with Publisher(settings) as publisher:
            for pmid in range(1, 5):
                await publisher.send(ALIGNMENTS, example.alignments(pmid))
        assert not await passes(live_first, within=5.0)
        assert metrics.registry.get_sample_value(WAITING, {"reason": "answers"}) == 1


async def test_it_waits_while_live_records_do(
    kafka_broker: KafkaEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backlog, "LOOK_EVERY", 0.2)
    async with opened(kafka_broker, "backlog-live.") as (settings, live_first, metrics):
        await publish(settings, *range(1, 11))
        assert not await passes(live_first, 2.0)
        waiting = {"reason": "live records"}
        assert metrics.registry.get_sample_value(WAITING, waiting) == 1
        await generate_has_done_all(settings)
        assert await passes(live_first)
        assert metrics.registry.get_sample_value(WAITING, waiting) == 0
        await publish(settings, 11)
        await asyncio.sleep(0.5)
        assert not await passes(live_first, 2.0)


async def test_some_may_wait_where_the_settings_allow_it(
    kafka_broker: KafkaEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backlog, "LOOK_EVERY", 0.2)
    async with opened(kafka_broker, "backlog-some.", lag=3) as (settings, live_first, _):
        await publish(settings, 1, 2, 3)
        assert await passes(live_first)
        await publish(settings, 4)
        await asyncio.sleep(0.5)
        assert not await passes(live_first, 2.0)


@pytest.mark.parametrize("abort", [False, True])
async def test_what_ends_a_transaction_is_no_record_that_waits(
    kafka_broker: KafkaEngine, monkeypatch: pytest.MonkeyPatch, abort: bool
):
    monkeypatch.setattr(backlog, "LOOK_EVERY", 0.2)
    prefix = f"backlog-markers-{abort}."
    async with opened(kafka_broker, prefix) as (settings, live_first, _):
        await publish_in_a_transaction(settings, *range(1, 21))
        if abort:
            await publish_in_a_transaction(settings, *range(21, 31), abort=True)
        assert not await passes(live_first, 2.0)
        await generate_has_done_all(settings)
        assert await passes(live_first)


async def test_its_own_rate_is_a_bound(kafka_broker: KafkaEngine):
    async with opened(kafka_broker, "backlog-rate.", per_second=20.0) as (_, live_first, _):
        began = time.monotonic()
        await asyncio.gather(*(live_first.turn() for _ in range(21)))
        assert 0.9 < time.monotonic() - began < 3.0
