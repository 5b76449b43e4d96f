"""The letters of the topic `dead.letters`, and what has been done about each.

Kafka cannot take one message out of a topic. What is done about a letter is told in the topic
`dead.letters.settled`; a letter that nothing is told of there, or that was written after it was
told, is open.
"""

import base64
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from infra import topic_view
from infra.kafka import consuming, topic_name
from infra.settings import Settings
from streams.codec import decode
from streams.errors import Invalid, Transient
from streams.operations import Settled
from streams.records import DeadLetter
from streams.topics import DEAD_LETTERS, SETTLED

POLL_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are meant: all that agree with everything that is given.

    `topic` is as the broker calls it, `since` and `until` bound the time of the letter, and an
    origin is "topic/partition/offset".
    """

    stage: str | None = None
    reason: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    origins: frozenset[str] = frozenset()

    def takes(self, letter: DeadLetter) -> bool:
        return (
            self.stage in (None, letter.stage)
            and self.reason in (None, letter.reason)
            and self.topic in (None, letter.topic)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
            and (not self.origins or origin(letter) in self.origins)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A letter, the offset at which the topic has it, and what was done about it, if anything.

    `replays` is how often its message was put back. What the message holds is left out, and so is
    the stack: see `whole`.
    """

    offset: int
    letter: DeadLetter
    settled: Settled | None = None
    replays: int = 0


def origin(letter: DeadLetter) -> str:
    """Where its message was, as a person names it."""
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


async def find(settings: Settings, wanted: Wanted) -> tuple[list[Found], int]:
    """The letters that are meant, oldest first, and how many of the topic cannot be read.

    Of those that a stage wrote twice about one message, the newest. Raises `BrokerUnreachable`, and
    `Transient` where the broker goes away.
    """
    found: dict[str, Found] = {}
    unreadable = 0
    async with _reading(settings) as consumer:
        async for message in _messages(settings, consumer, wanted.since):
            try:
                letter = decode(DeadLetter, message.value or b"")
            except Invalid:
                unreadable += 1
                continue
            if wanted.takes(letter):
                small = replace(letter, value=None, headers=(), stack="")
                found.pop(letter.id, None)
                found[letter.id] = Found(offset=message.offset, letter=small)
    return await as_settled(settings, found.values()), unreadable


async def as_settled(settings: Settings, found: Iterable[Found]) -> list[Found]:
    """The same letters with what is done about them by now. Raises as `find` does."""
    told = await topic_view.read(settings, SETTLED, Settled)
    return [_with(each, told.get(each.letter.id)) for each in found]


def _with(found: Found, told: Settled | None) -> Found:
    letter = found.letter
    return replace(
        found,
        # What was done about an earlier letter of the message does not settle this one.
        settled=told if told and told.letter >= letter.at else None,
        replays=max(letter.replays, told.times if told else 0),
    )


async def whole(settings: Settings, found: Iterable[Found]) -> list[Found]:
    """These letters with all that they hold, in the order of the topic.

    One that the broker has removed meanwhile is not among them. Raises as `find` does.
    """
    wanted = {each.offset: each for each in found}
    letters: list[Found] = []
    if not wanted:
        return letters
    async with _reading(settings) as consumer:
        consumer.seek(_at(settings), min(wanted))
        async for message in _until(settings, consumer, max(wanted) + 1):
            if each := wanted.get(message.offset):
                letters.append(replace(each, letter=decode(DeadLetter, message.value)))
    return letters


def held(letter: DeadLetter) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """Key, value and headers of its message, as far as they were kept."""
    headers = [(name, base64.b64decode(data)) for name, data in letter.headers]
    return _bytes(letter.key), _bytes(letter.value), headers


def grouped(found: Iterable[Found]) -> dict[tuple[str, str], list[Found]]:
    """By stage and reason, the largest group first."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        groups.setdefault((each.letter.stage, each.letter.reason), []).append(each)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _at(settings: Settings) -> TopicPartition:
    return TopicPartition(topic_name(settings, DEAD_LETTERS), 0)


@asynccontextmanager
async def _reading(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    at = _at(settings)
    try:
        async with consuming(settings) as consumer:
            if at.topic not in await consumer.topics():
                raise Transient("no topic", f"{at.topic}: `kailin up` makes it")
            consumer.assign([at])
            yield consumer
    except KafkaError as error:
        raise Transient("broker away", f"{at.topic}: {error!r}") from error


async def _messages(
    settings: Settings, consumer: AIOKafkaConsumer, since: datetime | None
) -> AsyncIterator[ConsumerRecord]:
    """All messages from a time on, up to the present end."""
    at = _at(settings)
    (end,) = (await consumer.end_offsets([at])).values()
    if since is None:
        await consumer.seek_to_beginning(at)
    else:
        # A letter is written a moment after the time that it gives.
        moment = int(since.timestamp() * 1000)
        (first,) = (await consumer.offsets_for_times({at: moment})).values()
        consumer.seek(at, first.offset if first else end)
    async for message in _until(settings, consumer, end):
        yield message


async def _until(
    settings: Settings, consumer: AIOKafkaConsumer, end: int
) -> AsyncIterator[ConsumerRecord]:
    at = _at(settings)
    while await consumer.position(at) < end:
        for messages in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            for message in messages:
                if message.offset < end:
                    yield message


def utc(moment: datetime | None) -> datetime | None:
    """A moment that an operator named without a zone, which is then meant in UTC."""
    return moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None
