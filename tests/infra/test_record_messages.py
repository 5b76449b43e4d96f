"""The messages of one key on a real broker: all of them, and no other partition is read."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from engines import KafkaEngine
from fakes import records
from infra.kafka import Publisher
from infra.record_messages import partitions
from infra.settings import Settings
from infra.topic_admin import create_topics
from streams.codec import decode
from streams.topics import ARTICLES, QUESTIONS, SERVING, Topic

pytestmark = pytest.mark.kafka

ASKED = {QUESTIONS: b"7", ARTICLES: b"7"}


@pytest.fixture
async def settings(kafka_broker: KafkaEngine) -> Settings:
    """Six hundred records of a hundred PMIDs, and a topic that is not there (`ARTICLES`)."""
    kafka = kafka_broker.settings.model_copy(update={"prefix": "keys."})
    settings = Settings(kafka=kafka)
    await create_topics(settings, [QUESTIONS, SERVING])
    return settings


async def read(settings: Settings, keys: dict[Topic, bytes | None], since: datetime | None):
    """What is found, and how many messages were read for it."""
    seen = [0, 0]

    def told(done: int, total: int) -> None:
        seen[:] = done, total

    async with partitions(settings, keys) as there:
        found = [message async for _, message in there.messages(since, told)]
        size = await there.size()
    assert seen[0] == seen[1]
    return found, seen[1], size


async def test_only_the_partition_of_a_key_is_read(settings: Settings):
    before = datetime.now(UTC) - timedelta(seconds=5)
    async with Publisher(settings) as publisher:
        for _ in range(6):
            pmids = range(1, 101)
            await asyncio.gather(*(publisher.send(QUESTIONS, records.questions(p)) for p in pmids))
    found, count, size = await read(settings, ASKED, None)
    made = [decode(QUESTIONS.record, message.value) for message in found]
    assert [questions.source.pmid for questions in made] == [7] * 6
    assert 6 <= count == size < 300
    whole, count, _ = await read(settings, {QUESTIONS: None}, None)
    assert (len(whole), count) == (600, 600)
    assert (await read(settings, ASKED, before))[0] == found
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert await read(settings, ASKED, later) == ([], 0, size)


async def test_nothing_is_waited_for_where_there_is_nothing(settings: Settings):
    assert await read(settings, {SERVING: None}, None) == ([], 0, 0)
    assert await read(settings, {ARTICLES: b"7"}, None) == ([], 0, 0)
