"""Topics and clients against a real broker: creation, differences, security, clear errors."""

import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from engines import KafkaEngine, free_port
from infra.kafka import (
    BrokerUnreachable,
    Publisher,
    client_arguments,
    group_name,
    start,
    topic_name,
)
from infra.settings import Kafka, Settings, SettingsError
from infra.topic_admin import TopicError, create_topics, expected_settings
from secured_engine import PASSWORD, SecuredKafka
from streams.topics import ARTICLES, DEAD_LETTERS, TOPICS, Topic


@pytest.fixture
def settings(kafka_broker: KafkaEngine) -> Settings:
    return Settings(
        kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}.")
    )


def test_names_carry_the_prefix() -> None:
    settings = Settings(kafka=Kafka(prefix="study."))
    assert topic_name(settings, ARTICLES) == "study.pubmed.articles"
    assert group_name(settings, "index") == "study.kailin.index"


@pytest.mark.kafka
async def test_topics_are_created_as_the_table_has_them(settings: Settings) -> None:
    assert await create_topics(settings) == ()
    assert await create_topics(settings) == ()  # compared this time
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        names = {topic_name(settings, topic) for topic in TOPICS}
        described = {t["topic"]: t for t in await admin.describe_topics() if t["topic"] in names}
    finally:
        await admin.close()
    assert {name: len(topic["partitions"]) for name, topic in described.items()} == {
        topic_name(settings, topic): topic.partitions for topic in TOPICS
    }


@pytest.mark.kafka
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
async def test_every_setting_that_differs_is_a_line_and_stays_as_it_is(
    settings: Settings, topic: Topic
) -> None:
    name = topic_name(settings, topic)
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        configs = {
            "cleanup.policy": "compact,delete",
            "retention.ms": "60000",
            "max.message.bytes": "2048",
        }
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs=configs)])
    finally:
        await admin.close()

    for _ in range(2):  # a first look changed nothing
        found = {d.setting: d for d in await create_topics(settings, [topic])}
        lag = {"min.compaction.lag.ms": "0"} if topic.compaction_lag else {}
        assert {key: d.found for key, d in found.items()} == {"partitions": "2", **configs, **lag}
        expected = expected_settings(topic, 1)
        assert all(d.expected == expected[key] for key, d in found.items())
    line = str(found["retention.ms"])
    assert line.startswith(f"topic {name}: retention.ms is 60000, expected ")
    assert f"--entity-name {name} --add-config retention.ms=" in line


@pytest.mark.kafka
async def test_what_the_broker_refuses_is_one_line(settings: Settings) -> None:
    impossible = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"replication_factor": 3})}
    )
    with pytest.raises(TopicError, match=r"pubmed\.articles: cannot be created: .*replication"):
        await create_topics(impossible)


async def test_no_broker_is_one_line_that_names_the_setting() -> None:
    port = free_port()
    with pytest.raises(BrokerUnreachable) as embedded:
        await create_topics(Settings(kafka=Kafka(port=port)))
    assert str(embedded.value).startswith(f"kafka.port = {port}: no Kafka broker")
    assert "kailin up" in str(embedded.value)
    elsewhere = Settings(kafka=Kafka(bootstrap=f"127.0.0.1:{port}"))
    with pytest.raises(BrokerUnreachable) as external:
        async with Publisher(elsewhere):
            pass
    assert str(external.value).startswith(f"kafka.bootstrap = '127.0.0.1:{port}'")
    assert "\n" not in str(external.value)


def test_certificates_that_cannot_be_used_name_the_setting(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    for kafka, setting in (
        (Kafka(security_protocol="SSL", ca_file=wrong), r"kafka\.ca_file"),
        (Kafka(security_protocol="SSL", ca_file=tmp_path / "none"), r"kafka\.ca_file"),
        (Kafka(security_protocol="SSL", cert_file=wrong), r"kafka\.cert_file"),
        (Kafka(security_protocol="SSL", key_file=wrong), r"kafka\.key_file"),
    ):
        with pytest.raises(SettingsError, match=setting):
            client_arguments(Settings(kafka=kafka))


@pytest.mark.kafka
async def test_scram_over_tls_creates_publishes_and_reads(
    secured_kafka: SecuredKafka,
) -> None:
    settings = Settings(kafka=secured_kafka.ways["SASL_SSL"].model_copy(update={"prefix": "tls."}))
    assert await create_topics(settings, [ARTICLES]) == ()
    async with Publisher(settings) as publisher:
        await publisher.delete(ARTICLES, b"7")
    consumer = AIOKafkaConsumer(
        topic_name(settings, ARTICLES),
        **client_arguments(settings),
        auto_offset_reset="earliest",
    )
    await start(consumer, settings)
    try:
        message = await consumer.getone()
    finally:
        await consumer.stop()
    assert (message.key, message.value) == (b"7", None)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"password": "another"}, "[Aa]uthentication"),
        ({"ca_file": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"security_protocol": "PLAINTEXT"}, "kafka.bootstrap"),
        ({"cert_file": None, "key_file": None}, "kafka.bootstrap"),
    ],
)
async def test_wrong_credentials_are_one_line_with_the_cause(
    secured_kafka: SecuredKafka, wrong: dict[str, object], cause: str
) -> None:
    given = secured_kafka.ways["SASL_SSL"].model_dump() | wrong
    with pytest.raises(BrokerUnreachable, match=cause) as refused:
        await create_topics(Settings(kafka=Kafka(**given)), [DEAD_LETTERS])
    assert "\n" not in str(refused.value)
    assert PASSWORD not in str(refused.value)
