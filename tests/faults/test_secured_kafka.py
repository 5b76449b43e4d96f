"""The stages' workers on brokers with TLS and authentication, given by the environment alone."""

import asyncio
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from fakes import records
from infra.kafka import Publisher, client_arguments, group_name, start, topic_name
from infra.settings import Settings
from infra.tables import row_counts
from infra.topic_admin import create_topics
from secured_engine import PASSWORD, SecuredKafka
from secured_workers import Workers
from streams.topics import ALIGNMENTS

pytestmark = pytest.mark.kafka

PROTOCOLS = ("SASL_SSL", "SSL", "SASL_PLAINTEXT")


@pytest.fixture
def workers(
    request: pytest.FixtureRequest, secured_kafka: SecuredKafka, tmp_path: Path
) -> Iterator[Workers]:
    """Workers that use the way in of the test's parameter, on topics of their own."""
    way = secured_kafka.ways[request.param]
    running = Workers(tmp_path, way.model_copy(update={"prefix": f"t{uuid.uuid4().hex[:8]}."}))
    asyncio.run(create_topics(running.settings))
    yield running
    running.end()


async def publish(settings: Settings, pmids: range) -> None:
    async with Publisher(settings) as publisher:
        sent = (publisher.send(ALIGNMENTS, records.alignments(pmid)) for pmid in pmids)
        await asyncio.gather(*sent)


async def committed(settings: Settings, stage: str) -> int:
    """How many messages of its source a stage has committed, over all partitions."""
    consumer = AIOKafkaConsumer(
        **client_arguments(settings), group_id=group_name(settings, stage), enable_auto_commit=False
    )
    await start(consumer, settings)
    try:
        name = topic_name(settings, ALIGNMENTS)
        offsets = [
            await consumer.committed(TopicPartition(name, number))
            for number in range(ALIGNMENTS.partitions)
        ]
        return sum(offset or 0 for offset in offsets)
    finally:
        await consumer.stop()


@pytest.mark.parametrize("workers", PROTOCOLS, indirect=True)
def test_workers_read_write_and_commit(workers: Workers):
    """Fifty records through a stage on faust, and the append stage, into the tables."""
    running = [workers.start("prefer"), workers.start("append")]
    asyncio.run(publish(workers.settings, range(1, 51)))
    workers.until(lambda: sum(row_counts(workers.settings).values()) == 50, "fifty rows")
    for process in running:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in running] == [0, 0]
    assert asyncio.run(committed(workers.settings, "prefer")) == 50
    said = workers.log("prefer") + workers.log("append")
    assert "Traceback" not in said
    assert PASSWORD not in said


@pytest.mark.parametrize("workers", ["SASL_SSL", "SASL_PLAINTEXT"], indirect=True)
def test_a_wrong_password_ends_a_worker_with_one_line(workers: Workers):
    assert workers.start("prefer", password="another").wait(60) == 1
    (line,) = workers.log("prefer").splitlines()
    assert f"prefer: kafka.bootstrap = '{workers.kafka.bootstrap}': no Kafka broker" in line
    assert "a wrong user name or password" in line
    assert "authentication" in line.lower()
    assert "another" not in line


@pytest.mark.parametrize("workers", ["SASL_SSL"], indirect=True)
def test_the_append_stage_waits_for_a_password_that_the_broker_takes(workers: Workers):
    """Waits, as for a broker that is away, and says why with a line for each attempt."""
    running = workers.start("append", password="another")
    workers.until(lambda: "trying again" in workers.log("append"), "second attempt")
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    said = workers.log("append")
    assert all("a wrong user name or password" in line for line in said.splitlines())
    assert "Traceback" not in said
