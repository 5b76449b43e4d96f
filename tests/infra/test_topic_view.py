"""A topic's present state, followed on a real broker."""

import asyncio
from datetime import UTC, datetime

import pytest

from engines import KafkaEngine
from infra.kafka import Publisher
from infra.settings import Settings
from infra.topic_admin import create_topics
from infra.topic_view import TopicView, read
from streams.learning import Serving
from streams.topics import SERVING

pytestmark = pytest.mark.kafka

NOW = datetime(2026, 3, 7, tzinfo=UTC)


def settings_of(broker: KafkaEngine, prefix: str) -> Settings:
    return Settings(kafka=broker.settings.model_copy(update={"prefix": prefix}))


def serving(generator: str, revision: str) -> Serving:
    return Serving(
        generator=generator,
        model=f"{generator}-v{revision}",
        revision=revision,
        server="local",
        url=None,
        first=NOW,
        by="gate",
        reason="passed",
        at=NOW,
    )


async def test_a_view_has_the_newest_record_of_each_key_and_follows(kafka_broker: KafkaEngine):
    settings = settings_of(kafka_broker, "view.")
    await create_topics(settings, [SERVING])
    async with Publisher(settings) as publisher:
        await publisher.send(SERVING, serving("theta3", "1"))
        await publisher.send(SERVING, serving("theta3", "2"))
        await publisher.send(SERVING, serving("theta4", "1"))
        async with TopicView(settings, SERVING, Serving) as view:
            assert {k: s.revision for k, s in view.records.items()} == {
                "theta3": "2",
                "theta4": "1",
            }
            assert not await view.wait(0.3)
            waiting = asyncio.create_task(view.wait(20))
            await publisher.send(SERVING, serving("theta3", "3"))
            assert await waiting
            # What came while nobody waited is not missed.
            assert await view.wait(20, beyond=view.position - 1)
            assert not await view.wait(0.1, beyond=view.position)
            assert (await view.catch_up())["theta3"].revision == "3"
            await publisher.delete(SERVING, b"theta4")
            assert set(await view.catch_up()) == {"theta3"}


async def test_what_is_no_record_is_passed_over(kafka_broker: KafkaEngine):
    settings = settings_of(kafka_broker, "view-garbage.")
    await create_topics(settings, [SERVING])
    async with Publisher(settings) as publisher:
        await publisher._queue(SERVING, b"theta3", b"{nonsense")
        await publisher.send(SERVING, serving("theta4", "1"))
    assert set(await read(settings, SERVING, Serving)) == {"theta4"}


async def test_there_is_nothing_to_read_where_there_is_no_topic(kafka_broker: KafkaEngine):
    assert (
        await read(
            settings_of(kafka_broker, "no-view."),
            SERVING,
            Serving,
        )
        == {}
    )
