"""Topics and clients against a real broker: creation, differences, security, clear errors."""

import datetime as dt
import ipaddress
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engines import Engine, KafkaEngine, free_port
from infra.artifacts import ArtifactError
from infra.kafka import (
    BrokerUnreachable,
    Publisher,
    client_arguments,
    group_name,
    start,
    topic_name,
)
from infra.kafka_broker import kafka_broker as embedded_broker
from infra.settings import Kafka, Settings, SettingsError
from infra.topic_admin import TopicError, create_topics, expected_settings
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
        assert {key: d.found for key, d in found.items()} == {"partitions": "2", **configs}
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


@dataclass
class Authority:
    """A CA that the broker's and the client's certificates are of."""

    ca: Path
    issue: Callable[[str], tuple[Path, Path]]


def authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A CA for tests")])
    now = dt.datetime.now(dt.UTC)

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )

    def issue(common_name: str) -> tuple[Path, Path]:
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        files = folder / f"{common_name}.crt", folder / f"{common_name}.key"
        files[0].write_bytes(_pem(certificate(subject, own.public_key(), ca=False)))
        files[1].write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    path = folder / "ca.crt"
    path.write_bytes(_pem(certificate(name, key.public_key(), ca=True)))
    return Authority(path, issue)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, Path]]:
    """Settings of a broker with SASL_SSL and SCRAM that wants client certificates; its folder."""
    folder = tmp_path_factory.mktemp("secure")
    trusted = authority(folder)
    broker_cert, broker_key = trusted.issue("broker")
    client_cert, client_key = trusted.issue("client")
    plain = Kafka(
        port=free_port(),
        controller_port=free_port(),
        security_protocol="SASL_PLAINTEXT",
        username="reader",
        password="a password",
    )
    settings = plain.model_copy(
        update={
            "bootstrap": plain.servers,
            "security_protocol": "SASL_SSL",
            "ca_file": trusted.ca,
            "cert_file": client_cert,
            "key_file": client_key,
        }
    )
    keystore = folder / "keystore.pem"
    keystore.write_bytes(broker_key.read_bytes() + broker_cert.read_bytes())
    try:
        component = embedded_broker(plain, folder, java=("-XX:TieredStopAtLevel=1",))
    except ArtifactError as error:
        from engines import unavailable

        unavailable(str(error))
    properties = Path(component.command[-1])
    properties.write_text(
        properties.read_text().replace("CLIENT:SASL_PLAINTEXT", "CLIENT:SASL_SSL")
        + "listener.name.client.ssl.client.auth=required\n"
        + "ssl.keystore.type=PEM\nssl.truststore.type=PEM\n"
        + f"ssl.keystore.location={keystore}\nssl.truststore.location={trusted.ca}\n"
    )

    async def ready() -> bool:
        try:
            async with Publisher(Settings(kafka=settings)):
                return True
        except BrokerUnreachable:
            return False

    engine = Engine(replace(component, ready=ready))
    try:
        engine.start()
        yield settings, folder
    finally:
        engine.kill()


@pytest.mark.kafka
async def test_scram_over_tls_creates_publishes_and_reads(secure: tuple[Kafka, Path]) -> None:
    settings = Settings(kafka=secure[0].model_copy(update={"prefix": "tls."}))
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
    secure: tuple[Kafka, Path], wrong: dict[str, object], cause: str
) -> None:
    given = secure[0].model_dump() | wrong
    with pytest.raises(BrokerUnreachable, match=cause) as refused:
        await create_topics(Settings(kafka=Kafka(**given)), [DEAD_LETTERS])
    assert "\n" not in str(refused.value)
    assert "a password" not in str(refused.value)
