"""Creates the topics of `streams/topics.py`, and says where a broker's topics differ from them."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from infra.kafka import client_arguments, start, topic_name
from infra.settings import Settings
from streams.topics import TOPICS, Topic

# Seconds until every partition of a new topic has a leader.
SERVED_WITHIN = 30.0


class TopicError(Exception):
    """A broker refuses to create or describe a topic; the message is one line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A topic on the broker is not as the table has it. `str()` is the line to show."""

    topic: str
    setting: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"topic {self.topic}: {self.setting} is {self.found}, expected {self.expected}: "
            f"{self.remedy}"
        )


async def create_topics(
    settings: Settings, topics: Sequence[Topic] = TOPICS
) -> tuple[Difference, ...]:
    """Create the topics that the broker lacks and wait until it serves them all.

    Nothing that exists is altered; where it differs is returned. Raises `BrokerUnreachable`,
    `SettingsError`, and `TopicError` where the broker refuses.
    """
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        await _create(admin, settings, topics)
        found = await _describe(admin, [topic_name(settings, topic) for topic in topics])
    finally:
        await admin.close()
    return tuple(_differences(settings, topics, found))


async def compare_topics(
    settings: Settings, topics: Sequence[Topic] = TOPICS
) -> tuple[Difference, ...]:
    """Where the broker's topics differ from the table; nothing is made or altered.

    Raises `BrokerUnreachable`, and `TopicError` where the broker refuses.
    """
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        # Of all topics: to ask for one by name may make it.
        there = {topic["topic"] for topic in await admin.describe_topics()}
        held = [topic for topic in topics if topic_name(settings, topic) in there]
        found = await _describe(admin, [topic_name(settings, topic) for topic in held])
    finally:
        await admin.close()
    missing = [
        Difference(topic_name(settings, topic), "it", "there", "missing", "`kailin up` makes it")
        for topic in topics
        if topic not in held
    ]
    return (*missing, *_differences(settings, held, found))


def _differences(
    settings: Settings, topics: Sequence[Topic], found: Mapping[str, Mapping[str, str]]
) -> Iterator[Difference]:
    for topic in topics:
        name = topic_name(settings, topic)
        for setting, value in expected_settings(topic, settings.kafka.replication_factor).items():
            if found[name][setting] != value:
                remedy = _remedy(name, setting, value)
                yield Difference(name, setting, value, found[name][setting], remedy)


def topic_configs(topic: Topic) -> dict[str, str]:
    """The topic-level configuration of Kafka that a row of the table stands for."""
    return {
        "cleanup.policy": "compact" if topic.compact else "delete",
        "min.compaction.lag.ms": str(topic.compaction_lag * 1000),
        "retention.ms": str(-1 if topic.retention is None else topic.retention * 1000),
        "max.message.bytes": str(topic.max_message),
    }


def expected_settings(topic: Topic, replication_factor: int) -> dict[str, str]:
    """Everything of a topic that is compared: its configuration, partitions and replicas."""
    return {
        "partitions": str(topic.partitions),
        "replication factor": str(replication_factor),
        **topic_configs(topic),
    }


async def _create(admin: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> None:
    response = await admin.create_topics(
        [
            NewTopic(
                topic_name(settings, topic),
                topic.partitions,
                settings.kafka.replication_factor,
                topic_configs=topic_configs(topic),
            )
            for topic in topics
        ]
    )
    # One answer a topic; an error is a code in it, never an exception.
    for name, code, message, *_ in response.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicError(
                f"topic {name}: cannot be created: {message or for_code(code).__name__}"
            )


async def _describe(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """What the broker has for each topic, under the same names as `expected_settings`."""
    found: dict[str, dict[str, str]] = {}
    for topic in await _served(admin, names):
        partitions: list[dict[str, Any]] = topic["partitions"]
        found[topic["topic"]] = {
            "partitions": str(len(partitions)),
            "replication factor": str(min(len(p["replicas"]) for p in partitions)),
        }
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for response in await admin.describe_configs(resources):
        for code, _, _, name, entries in response.resources:
            if code:
                raise _undescribed(name, code)
            found[name] |= {key: value for key, value, *_ in entries}
    return found


async def _served(admin: AIOKafkaAdminClient, names: list[str]) -> list[dict[str, Any]]:
    """The topics' metadata, once each has a leader for every partition.

    The controller confirms a topic before the brokers know of it.
    """
    deadline = time.monotonic() + SERVED_WITHIN
    while True:
        topics: list[dict[str, Any]] = await admin.describe_topics(names)
        failed = [
            (topic["topic"], code)
            for topic in topics
            for code in (topic["error_code"], *(p["error_code"] for p in topic["partitions"]))
            if code
        ]
        if not failed:
            return topics
        if not for_code(failed[0][1]).retriable or time.monotonic() > deadline:
            raise _undescribed(*failed[0])
        await asyncio.sleep(0.05)


def _undescribed(name: str, code: int) -> TopicError:
    return TopicError(f"topic {name}: cannot be described: {for_code(code).__name__}")


def _remedy(name: str, setting: str, value: str) -> str:
    if setting == "partitions":
        return (
            "stop the stages, move its records to a new topic and delete this one "
            "(more partitions put a key's new records behind another partition's old ones)"
        )
    if setting == "replication factor":
        return "run kafka-reassign-partitions.sh, or set kafka.replication_factor to what there is"
    return (
        f"run kafka-configs.sh --alter --entity-type topics --entity-name {name} "
        f"--add-config {setting}={value}"
    )
