"""Puts dead letters back on the topics they came from: `kailin dlq replay`.

A message and the word that its letter is settled are one Kafka transaction, so that whatever is
killed, it is put back once. Of `pubmed.articles` only the newest state of a record is ever put
back, by a process that has the right to write that topic, as an ingest has it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from consumers.dead_letters import REPLAY, Replay, replay_header
from consumers.delivery import BATCH_OVERHEAD, broker_away, key_and_value
from infra.dead_letters import Found, as_settled, held, whole
from infra.kafka import (
    LARGEST,
    Publisher,
    client_arguments,
    consuming,
    end_producer,
    group_name,
    start,
    topic_name,
)
from infra.settings import Settings
from infra.stages import EVERY_STATE
from infra.turn import Turn, TurnLost
from streams.citation import Article
from streams.codec import decode, encode
from streams.errors import Invalid, Transient
from streams.operations import Settled, Settling
from streams.records import Cause, DeadLetter
from streams.topics import ARTICLES, MIB, PROGRESS, SETTLED, TOPICS

How: TypeAlias = Literal["replayed", "superseded", "left"]
Headers: TypeAlias = list[tuple[str, bytes]]
# The newest state of a record: by partition and key.
States: TypeAlias = Mapping[tuple[int, bytes | None], ConsumerRecord]

# Letters that are read, and put back in one transaction, at a time.
PART = 100
# Seconds for the broker to end a transaction whose process is gone; until then, the stages that
# read what is in it wait.
TRANSACTION_TIMEOUT = 20.0
# Which of a record's parts a change is news of; the others are in every state.
TEXT, MESH = ("new", "text"), ("mesh", "reinstated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How to go about it: `most` is how often a message may have been put back before."""

    who: str
    why: str
    most: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done about a letter, and why that."""

    found: Found
    how: How
    why: str
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class TakenOver(Exception):
    """Another process does the same now; the message is one line."""


async def replay(
    settings: Settings, found: Sequence[Found], order: Order, say: Callable[[str], None]
) -> list[Step]:
    """Put back the messages of letters that are open; what came of each.

    One whose record has a newer state by now is settled as superseded; what is left stays open.
    Letters of `pubmed.articles` wait for their turn to write that topic, and `say` tells. Raises
    `BrokerUnreachable`, `Transient` and `TakenOver`: what was not settled by then is open still.
    """
    articles = topic_name(settings, ARTICLES)
    states = [each for each in found if each.letter.topic == articles]
    others = [each for each in found if each.letter.topic != articles]
    steps: list[Step] = []
    if others:
        async with _writing(settings, "dlq", order) as producer:
            steps += await _put_back(settings, others, order, producer, turn=None)
    if states and order.dry_run:
        steps += await _put_back(settings, states, order, None, turn=None)
    elif states:
        async with (
            _in_turn(settings, say) as turn,
            # The name that the writer of this topic goes by: it fences, and is fenced.
            _writing(settings, "ingest", order) as producer,
        ):
            steps += await _put_back(settings, states, order, producer, turn)
    return steps


async def drop(settings: Settings, found: Sequence[Found], *, who: str, why: str) -> None:
    """Settle letters as given up. Raises `BrokerUnreachable`, `Transient`."""
    async with Publisher(settings) as publisher:
        for part in _parts(found):
            sent = [
                await publisher.enqueue(SETTLED, _settled(each, "dropped", who, why))
                for each in part
            ]
            await asyncio.gather(*sent)


async def _put_back(
    settings: Settings,
    found: Sequence[Found],
    order: Order,
    producer: AIOKafkaProducer | None,
    turn: Turn | None,
) -> list[Step]:
    # Whoever did this before is shut out by now, so what was settled is known.
    left = [each for each in await as_settled(settings, found) if each.settled is None]
    states = await _newest(settings, left)
    steps: list[Step] = []
    for part in _parts(left):
        made = [_step(settings, each, order, states) for each in await whole(settings, part)]
        if producer:
            if turn:
                await turn.check()
            await _commit(settings, producer, made, order)
        # What was put back need not be remembered.
        small = {each.offset: each for each in part}
        steps += [
            replace(step, found=small[step.found.offset], value=None, headers=()) for step in made
        ]
    return steps


def _step(settings: Settings, found: Found, order: Order, states: States) -> Step:
    letter = found.letter
    topic = {topic_name(settings, topic): topic for topic in TOPICS}.get(letter.topic)
    if topic is None:
        return Step(found=found, how="left", why=f"no topic {letter.topic} in this deployment")
    if found.replays >= order.most:
        why = f"put back {found.replays} times already: mend the cause, then --force"
        return Step(found=found, how="left", why=why)
    key, value, headers = held(letter)
    state = states.get((letter.partition, key))
    if letter.cut and (state is None or state.offset != letter.offset):
        return Step(found=found, how="left", why=f"not kept whole: {'; '.join(letter.cut)}")
    if topic is ARTICLES:
        if overtaken := superseded(letter, value, state):
            return Step(found=found, how="superseded", why=overtaken)
        assert state is not None  # noqa: S101
        value, headers = _renewed(letter, value, state), list(state.headers)
    headers = [(name, data) for name, data in headers if name != REPLAY]
    headers.append(replay_header(Replay(first=_cause(letter), times=found.replays + 1)))
    size = len(key or b"") + len(value or b"") + sum(len(n) + len(v) + 8 for n, v in headers)
    if size + BATCH_OVERHEAD > topic.max_message:
        why = f"{size:,} bytes with its header, and the topic takes {topic.max_message:,} at most"
        return Step(found=found, how="left", why=why)
    return Step(
        found=found,
        how="replayed",
        why=order.why,
        key=key,
        value=value,
        headers=tuple(headers),
    )


def superseded(letter: DeadLetter, value: bytes | None, state: ConsumerRecord | None) -> str | None:
    """Why a message of `pubmed.articles` is not put back, or None where its news still is news.

    `value` is the message's, `state` the newest of its record. A later state with the same text, as
    one that brings MeSH, says nothing of a question that was never asked: then that state is put
    back as the news that this message was.
    """
    if state is None:
        return "its record is not in the topic any more"
    if state.offset == letter.offset or (value is not None and value == state.value):
        return None
    newer = f"offset {state.offset} holds a newer state of its record"
    if state.value is None:
        return f"{newer}: deleted"
    if letter.stage in EVERY_STATE:
        return newer
    try:
        before, now = decode(Article, value or b""), decode(Article, state.value)
    except Invalid as error:
        return f"{newer}, and the two cannot be compared: {error.reason}"
    if before.change in TEXT:
        return None if _text(before) == _text(now) else f"{newer}, with another text"
    if before.change in MESH:
        same = set(before.descriptors) == set(now.descriptors)
        return None if same else f"{newer}, with other MeSH"
    return newer


def _renewed(letter: DeadLetter, value: bytes | None, state: ConsumerRecord) -> bytes | None:
    """The newest state as the news that the letter's message was."""
    newest: bytes | None = state.value
    if state.offset == letter.offset or newest == value or newest is None:
        return newest
    change = decode(Article, value or b"").change
    return encode(replace(decode(Article, newest), change=change))


def _text(article: Article) -> tuple[str, str]:
    return article.title, article.abstract


def _cause(letter: DeadLetter) -> Cause:
    return letter.first or Cause(
        stage=letter.stage,
        reason=letter.reason,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        at=letter.at,
    )


def _settled(found: Found, how: Settling, who: str, why: str) -> Settled:
    letter = found.letter
    return Settled(
        stage=letter.stage,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        letter=letter.at,
        how=how,
        who=who,
        why=why,
        times=found.replays + (how == "replayed"),
        at=datetime.now(UTC),
    )


async def _commit(
    settings: Settings, producer: AIOKafkaProducer, steps: Sequence[Step], order: Order
) -> None:
    """One transaction: what is put back, and that these letters are settled."""
    settled = topic_name(settings, SETTLED)
    sent = []
    try:
        # One that fails is ended by whoever writes next.
        await producer.begin_transaction()
        for step in steps:
            if step.how == "left":
                continue
            letter = step.found.letter
            if step.how == "replayed":
                where = {"key": step.key, "partition": letter.partition}
                sent.append(
                    await producer.send(
                        letter.topic, step.value, headers=list(step.headers), **where
                    )
                )
            word = _settled(step.found, step.how, order.who, step.why)
            key, value = key_and_value(SETTLED, word, settled)
            sent.append(await producer.send(settled, value, key=key))
        await asyncio.gather(*sent)
        await producer.commit_transaction()
    except ProducerFenced:
        raise _taken_over() from None
    except KafkaError as error:
        if broker_away(error):
            raise Transient("broker away", repr(error)) from error
        raise


async def _newest(settings: Settings, found: Iterable[Found]) -> dict[Any, ConsumerRecord]:
    """The newest state of each letter's record, of those letters that hold one.

    It lies where the letter's message lay, or behind it.
    """
    articles = topic_name(settings, ARTICLES)
    wanted: set[tuple[int, bytes | None]] = set()
    begin: dict[TopicPartition, int] = {}
    for letter in (each.letter for each in found if each.letter.topic == articles):
        at = TopicPartition(articles, letter.partition)
        wanted.add((letter.partition, held(letter)[0]))
        begin[at] = min(letter.offset, begin.get(at, letter.offset))
    newest: dict[Any, ConsumerRecord] = {}
    if not begin:
        return newest
    try:
        async with consuming(settings) as consumer:
            consumer.assign(list(begin))
            ends = await consumer.end_offsets(list(begin))
            for at, offset in begin.items():
                consumer.seek(at, offset)
            while any([await consumer.position(at) < last for at, last in ends.items()]):
                for messages in (await consumer.getmany(timeout_ms=200)).values():
                    for message in messages:
                        if (message.partition, message.key) in wanted:
                            newest[message.partition, message.key] = message
    except KafkaError as error:
        raise Transient("broker away", f"{articles}: {error!r}") from error
    return newest


@asynccontextmanager
async def _in_turn(settings: Settings, say: Callable[[str], None]) -> AsyncIterator[Turn]:
    """The right to write `pubmed.articles`, once an ingest that has it gives way."""
    turn = Turn(settings, f"dlq {os.getpid()}", group="ingest", topic=PROGRESS)
    await turn.join()
    try:
        if not await turn.wait(1.0):
            say("waits for its turn: an ingest is at work, and gives way after a file or window")
            while not await turn.wait(60.0):
                pass
        yield turn
    except TurnLost:
        raise _taken_over() from None
    finally:
        await turn.leave()


@asynccontextmanager
async def _writing(
    settings: Settings, name: str, order: Order
) -> AsyncIterator[AIOKafkaProducer | None]:
    """A producer of transactions, which shuts out whoever else goes by the name; none if dry."""
    if order.dry_run:
        yield None
        return
    producer = AIOKafkaProducer(
        **client_arguments(settings),
        transactional_id=group_name(settings, name),
        transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
        request_timeout_ms=40_000,
        max_request_size=LARGEST + MIB,
    )
    # Starting it ends any transaction that was left open, one way or the other.
    await start(producer, settings)
    try:
        yield producer
    finally:
        await end_producer(producer)


def _taken_over() -> TakenOver:
    return TakenOver(
        "another `kailin dlq replay`, or an ingest, has taken over: what is not settled is still "
        "open, run it again"
    )


def _parts(found: Sequence[Found]) -> Iterable[Sequence[Found]]:
    return (found[start : start + PART] for start in range(0, len(found), PART))
