"""Kafka as the settings describe it: client arguments, names with the prefix, and a publisher."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError

from consumers.delivery import broker_away, key_and_value, too_large_for_broker
from infra.settings import Kafka, Settings, SettingsError
from infra.trust import trust
from streams.errors import Transient
from streams.records import Record
from streams.topics import MIB, TOPICS, Topic

log = logging.getLogger(__name__)

# Seconds for a producer to end.
GRACE = 5.0
# Bytes of a message of any topic, at the most.
LARGEST = max(topic.max_message for topic in TOPICS)


class BrokerUnreachable(Exception):
    """No broker answers; the message is one line that names the setting and the likely causes."""


Client: TypeAlias = AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient


def topic_name(settings: Settings, topic: Topic) -> str:
    """The name of a topic on the broker."""
    return settings.kafka.prefix + topic.name


def group_name(settings: Settings, stage: str) -> str:
    """The consumer group of a stage."""
    return f"{settings.kafka.prefix}kailin.{stage}"


def absent(settings: Settings, name: str) -> str:
    """Why a topic may not be there, for a message that names it."""
    hidden = settings.kafka.security_protocol != "PLAINTEXT"
    return f"{name}: `kailin up` makes it" + (
        ", and `kailin acls` shows what a user needs to see it" if hidden else ""
    )


def client_arguments(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for every client of aiokafka: address, encryption and authentication.

    Raises `SettingsError` where a certificate or key cannot be used.
    """
    kafka = settings.kafka
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.servers,
        "security_protocol": kafka.security_protocol,
    }
    context = ssl_context(kafka)
    if context:
        arguments["ssl_context"] = context
    if kafka.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        arguments["sasl_plain_username"] = kafka.username
        arguments["sasl_plain_password"] = kafka.password.get_secret_value()
    return arguments


def ssl_context(kafka: Kafka) -> ssl.SSLContext | None:
    """The TLS context of the settings: the system's CAs where no `ca_file` is named.

    None for a protocol without TLS. Raises `SettingsError`.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    context = trust(kafka.ca_file, "kafka.ca_file")
    if kafka.key_file and not kafka.cert_file:
        raise SettingsError(
            f"kafka.key_file = '{kafka.key_file}': kafka.cert_file must be given too"
        )
    if kafka.cert_file:
        try:
            # Without a password function OpenSSL would ask for one on the terminal.
            context.load_cert_chain(kafka.cert_file, kafka.key_file, password=lambda: "")
        except OSError as error:
            raise SettingsError(
                f"kafka.cert_file = '{kafka.cert_file}', kafka.key_file = '{kafka.key_file}': "
                f"expected a PEM certificate and its key, without a pass phrase: {error}"
            ) from None
    return context


async def start(client: Client, settings: Settings) -> None:
    """Start a client of aiokafka; it is stopped again where this raises.

    Raises `BrokerUnreachable`.
    """
    # aiokafka raises "Unable to bootstrap" whatever the cause and only logs the cause itself.
    log = logging.getLogger("aiokafka")
    causes = _Causes()
    log.addFilter(causes)
    stop = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    try:
        await client.start()
    except KafkaConnectionError:
        await stop()
        raise BrokerUnreachable(_unreachable(settings.kafka, causes.heard)) from None
    except BaseException:
        await stop()
        raise
    finally:
        log.removeFilter(causes)


async def reach(settings: Settings) -> None:
    """Connect to the broker once, to see that it can be done. Raises `BrokerUnreachable`."""
    client = AIOKafkaAdminClient(**client_arguments(settings))
    await start(client, settings)
    await client.close()


async def partitions(settings: Settings) -> dict[str, list[int]]:
    """Every topic of the broker with its partitions. Raises `BrokerUnreachable`, `KafkaError`.

    To ask for one by name may make it.
    """
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        return {
            topic["topic"]: sorted(partition["partition"] for partition in topic["partitions"])
            for topic in await admin.describe_topics()
        }
    finally:
        await admin.close()


@asynccontextmanager
async def consuming(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of committed messages that is in no group; it is assigned what it is to read.

    Raises `BrokerUnreachable`.
    """
    consumer = AIOKafkaConsumer(
        **client_arguments(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * LARGEST,
        **options,
    )
    await start(consumer, settings)
    try:
        yield consumer
    finally:
        # aiokafka lets the cancellation of its own tasks out of `stop`.
        with suppress(asyncio.CancelledError, KafkaError):
            await consumer.stop()


def idempotent_producer(settings: Settings) -> AIOKafkaProducer:
    """A producer whose records all in-sync replicas confirm; to `start`, and to `end_producer`."""
    return AIOKafkaProducer(
        **client_arguments(settings),
        enable_idempotence=True,
        acks="all",
        linger_ms=5,
        # How long a record waits for a broker that is restarting.
        request_timeout_ms=90_000,
        max_batch_size=256 * 1024,
        max_request_size=LARGEST + MIB,
    )


async def end_producer(producer: AIOKafkaProducer) -> None:
    """Stop a producer, whose senders have waited for what they sent.

    By itself it waits for a broker that is away for as long as that is, to send what was given up.
    """
    try:
        await asyncio.wait_for(producer.stop(), GRACE)
    except (KafkaError, TimeoutError) as error:
        log.info("the producer ended without a goodbye: %r", error)
        await producer.client.close()


async def end_offset(settings: Settings, topic: Topic) -> int:
    """The greatest end offset of a topic's partitions, 0 where there is no such topic.

    Raises `BrokerUnreachable`, and `Transient` where the broker goes away meanwhile.
    """
    name = topic_name(settings, topic)
    try:
        numbers = (await partitions(settings)).get(name, [])
    except KafkaError as error:
        raise _sorted(error, name) from error
    if not numbers:
        return 0
    consumer = AIOKafkaConsumer(**client_arguments(settings))
    await start(consumer, settings)
    try:
        ends = await consumer.end_offsets([TopicPartition(name, number) for number in numbers])
    except KafkaError as error:
        raise _sorted(error, name) from error
    finally:
        await consumer.stop()
    greatest: int = max(ends.values())
    return greatest


class _Causes(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.heard.append(record.getMessage())
            return False
        return True


def _unreachable(kafka: Kafka, causes: list[str]) -> str:
    setting, hint = f"kafka.port = {kafka.port}", "is it running (`kailin up`)?"
    if not kafka.embedded:
        setting, hint = f"kafka.bootstrap = '{kafka.servers}'", "is it running, the address right?"
    if kafka.security_protocol != "PLAINTEXT":
        hint += (
            " Or a wrong user name or password, an untrusted CA (kafka.ca_file), or a listener"
            f" that does not speak {kafka.security_protocol}."
        )
    cause = "; ".join(dict.fromkeys(" ".join(heard.split()) for heard in causes)) or "no answer"
    return f"{setting}: no Kafka broker to be reached at {kafka.servers}: {hint} ({cause})"


class Publisher:
    """An idempotent producer of records: each is confirmed by all in-sync replicas.

    Use as an async context manager; entering raises `BrokerUnreachable`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> Self:
        self._producer = idempotent_producer(self._settings)
        await start(self._producer, self._settings)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await end_producer(self._producer)

    async def send(self, topic: Topic, record: Record) -> None:
        """Publish one record and wait until the broker has it. Raises as `enqueue` does."""
        await (await self.enqueue(topic, record))

    async def delete(self, topic: Topic, key: bytes) -> None:
        """Publish a tombstone and wait until the broker has it. Raises `Transient`."""
        await (await self.enqueue_delete(topic, key))

    async def enqueue(self, topic: Topic, record: Record) -> "asyncio.Future[None]":
        """Queue one record, after those queued before; the future is done when the broker has it.

        Raises `Invalid` ("too large") at once; the future raises `Transient` when the broker is
        away, `Invalid` when it takes less, and aiokafka's own error when it refuses otherwise.
        """
        key, value = key_and_value(topic, record, topic_name(self._settings, topic))
        return await self._queue(topic, key, value)

    async def enqueue_delete(self, topic: Topic, key: bytes) -> "asyncio.Future[None]":
        """Queue a tombstone (a null value) for a key; otherwise as `enqueue`."""
        return await self._queue(topic, key, None)

    async def _queue(self, topic: Topic, key: bytes, value: bytes | None) -> "asyncio.Future[None]":
        name = topic_name(self._settings, topic)
        try:
            sent = await self._producer.send(name, value, key=key)
        except KafkaError as error:
            raise _sorted(error, name) from error
        return asyncio.ensure_future(_confirmed(sent, name))


async def _confirmed(sent: "asyncio.Future[Any]", name: str) -> None:
    try:
        await sent
    except KafkaError as error:
        raise _sorted(error, name) from error


def _sorted(error: KafkaError, name: str) -> Exception:
    """The verdict that an error of aiokafka amounts to; itself where it is neither of the two."""
    if isinstance(error, MessageSizeTooLargeError):
        return too_large_for_broker(name, error)
    if broker_away(error):
        return Transient("broker away", f"topic {name}: {error}")
    unusable: Exception = error
    return unusable
