"""Messages with their dead letters, for tests: as a stage would have left them on a real broker."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from consumers.dead_letters import dead_letter
from infra.kafka import Publisher, client_arguments, topic_name
from infra.settings import Settings
from streams.errors import Invalid
from streams.topics import DEAD_LETTERS, Topic

Raw = tuple[bytes, bytes | None]


async def set_aside(
    settings: Settings,
    topic: Topic,
    stages: Sequence[str],
    *messages: Raw,
    reason: str = "model refused",
    headers: Sequence[tuple[str, bytes]] = (("trace", b"abc"),),
    at: datetime | None = None,
) -> list[tuple[int, int]]:
    """Publish keys and values, and a letter of each stage for each; where the messages lie."""
    name = topic_name(settings, topic)
    async with AIOKafkaProducer(**client_arguments(settings)) as producer:
        sent = [
            await producer.send(name, value, key=key, headers=list(headers))
            for key, value in messages
        ]
        places = await asyncio.gather(*sent)
    async with Publisher(settings) as publisher:
        letters = [
            await publisher.enqueue(
                DEAD_LETTERS,
                dead_letter(
                    Invalid(reason, "as a test has it"),
                    stage=stage,
                    topic=name,
                    partition=place.partition,
                    offset=place.offset,
                    key=key,
                    value=value,
                    headers=headers,
                    at=at or datetime.now(UTC),
                ),
            )
            for place, (key, value) in zip(places, messages, strict=True)
            for stage in stages
        ]
        await asyncio.gather(*letters)
    return [(place.partition, place.offset) for place in places]
