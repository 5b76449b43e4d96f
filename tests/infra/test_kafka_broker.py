"""The embedded broker: durable, strict about topics, and the same after a crash."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from engines import QUICK, Engine, KafkaEngine, free_port, running_kafka
from infra.component import ComponentError
from infra.kafka_broker import kafka_broker as component
from infra.settings import Kafka
from streams.topics import TOPICS

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def admin(bootstrap: str, **security: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **security)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def create(bootstrap: str, partitions: int = 3) -> str:
    topic = f"t-{uuid4().hex[:8]}"
    async with admin(bootstrap) as client:
        await client.create_topics([NewTopic(topic, partitions, 1)])
    return topic


async def send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    """Sends and waits for the acknowledgement of each."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, max_request_size=1 << 24
    )
    async with producer:
        await asyncio.gather(*[await producer.send(topic, value) for value in values])


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Everything from the beginning, until `count` records and then nothing for a second."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    found: list[bytes] = []
    async with asyncio.timeout(60), consumer:
        while True:
            batches = await consumer.getmany(timeout_ms=1000)
            if not batches and len(found) >= count:
                return found
            found += [record.value for records in batches.values() for record in records]


async def test_acknowledged_records_survive_kill_9(kafka_broker: KafkaEngine) -> None:
    topic = await create(kafka_broker.bootstrap)
    sent = [b"%d" % number for number in range(2000)]
    await send(kafka_broker.bootstrap, topic, sent)
    kafka_broker.kill()
    kafka_broker.start()
    assert sorted(await read(kafka_broker.bootstrap, topic, len(sent))) == sorted(sent)


async def test_sigterm_is_a_clean_stop_and_the_data_stays(kafka_broker: KafkaEngine) -> None:
    topic = await create(kafka_broker.bootstrap)
    await send(kafka_broker.bootstrap, topic, [b"kept"])
    status = kafka_broker.stop()
    assert not kafka_broker.ready()
    kafka_broker.start()
    assert status == 143
    assert status in kafka_broker.component.stopped
    assert await read(kafka_broker.bootstrap, topic, 1) == [b"kept"]


async def test_a_topic_that_nobody_created_does_not_come_into_being(
    kafka_broker: KafkaEngine,
) -> None:
    async with admin(kafka_broker.bootstrap) as client:
        (described,) = await client.describe_topics(["misspelt"])
        assert described["error_code"] == 3  # UNKNOWN_TOPIC_OR_PARTITION
        await asyncio.sleep(1)
        assert "misspelt" not in await client.list_topics()


async def test_the_largest_message_of_the_table_passes_and_no_larger(
    kafka_broker: KafkaEngine,
) -> None:
    largest = max(topic.max_message for topic in TOPICS)
    topic = await create(kafka_broker.bootstrap, 1)
    await send(kafka_broker.bootstrap, topic, [b"x" * (largest - 200)])
    with pytest.raises(MessageSizeTooLargeError):
        await send(kafka_broker.bootstrap, topic, [b"x" * (largest + 1)])


async def test_it_shows_its_metrics_on_loopback_where_a_port_is_given(tmp_path: Path) -> None:
    metrics_port = free_port()
    settings = Kafka(port=free_port(), controller_port=free_port())
    engine = Engine(component(settings, tmp_path, metrics_port=metrics_port, java=QUICK))
    try:
        await asyncio.to_thread(engine.start)
        topic = await create(settings.servers)
        await send(settings.servers, topic, [b"one", b"two", b"three"])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{metrics_port}/metrics") as answer,
        ):
            shown = await answer.text()
        listening = {
            connection.laddr.ip
            for connection in engine.process.net_connections("tcp")
            if connection.status == "LISTEN" and connection.laddr.port == metrics_port
        }
    finally:
        engine.kill()
    (count,) = re.findall(rf'kafka_topic_messages_in_total{{topic="{topic}".*}} (.+)', shown)
    assert float(count) == 3
    assert f'kafka_log_size_bytes{{partition="0",topic="{topic}"' in shown
    assert "jvm_memory_used_bytes" in shown
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    # What the rules say and nothing besides, but for the JVM's own.
    names = set(re.findall(r"^# TYPE (\S+)", shown, re.MULTILINE))
    assert {name for name in names if not re.match(r"(jvm|process|jmx)_", name)} == {
        name for name in names if name.startswith("kafka_")
    }


async def test_preparing_it_again_keeps_what_is_stored(tmp_path: Path) -> None:
    with running_kafka(tmp_path) as first:
        topic = await create(first.bootstrap)
        await send(first.bootstrap, topic, [b"kept"])
        first.kill()
        # What an interrupted formatting would leave behind.
        (tmp_path / "kafka" / "formatting").mkdir()
        second = KafkaEngine(first.settings, tmp_path)
        try:
            second.start()
            assert await read(second.bootstrap, topic, 1) == [b"kept"]
        finally:
            second.kill()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_with_sasl_only_the_user_of_the_settings_gets_in(
    tmp_path: Path, mechanism: str
) -> None:
    user = {"username": "reader", "password": 'p" \\ä= ;'}
    sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism}
    with running_kafka(tmp_path, **user, **sasl) as kafka:
        right = {"sasl_plain_username": "reader", "sasl_plain_password": user["password"]}
        async with admin(kafka.bootstrap, **sasl, **right) as client:
            assert (await client.describe_cluster())["brokers"]
        for wrong in ({**sasl, **right, "sasl_plain_password": "guess"}, {}):
            with pytest.raises(KafkaConnectionError):
                async with admin(kafka.bootstrap, **wrong):
                    pass
        assert (tmp_path / "kafka/server.properties").stat().st_mode & 0o077 == 0
        assert user["password"] not in " ".join(kafka.process.cmdline())


def test_what_the_embedded_broker_does_not_offer_is_said_before_anything_starts(
    tmp_path: Path,
) -> None:
    settings = Kafka(security_protocol="SASL_SSL", username="u", password="p")
    with pytest.raises(ComponentError, match=r"^kafka\.security_protocol = SASL_SSL: "):
        component(settings, tmp_path)
    assert not list(tmp_path.iterdir())
