"""Dead letters put back on a real broker: for whom, how often, and never over something newer."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from agent_engine import Bench, as_questions, make_bench, until
from consumers.dead_letters import replayed
from consumers.stage import Message
from engines import KafkaEngine
from fakes import records
from infra.dead_letter_replay import Order, Step, drop, replay, superseded
from infra.dead_letters import Found, Wanted, find
from infra.kafka import Publisher, topic_name
from infra.settings import Settings
from letters import set_aside
from published import messages
from streams.citation import AbstractSection, Article
from streams.codec import decode, encode
from streams.errors import Invalid
from streams.records import DeadLetter, Record
from streams.topics import ARTICLES, CONTEXTS, DEAD_LETTERS, QUESTIONS, Topic

AT = datetime(2026, 3, 7, tzinfo=UTC)


def letter(value: bytes | None, stage: str = "generate") -> DeadLetter:
    return DeadLetter(
        stage=stage,
        reason="model refused",
        detail="",
        stack="",
        topic="pubmed.articles",
        partition=0,
        offset=12,
        key="MQ==",
        value=None,
        headers=(),
        at=AT,
    )


def state(offset: int, value: bytes | None) -> ConsumerRecord:
    return ConsumerRecord("pubmed.articles", 0, offset, 0, 0, b"1", value, None, 1, 1, ())


NEW = records.article(1)
OTHER_TEXT = replace(NEW, sections=(AbstractSection(text="Another text."),), change="text")
WITH_MESH = replace(NEW, mesh=NEW.mesh[:1], change="mesh")


@pytest.mark.parametrize(
    ("stage", "set_aside_", "newest", "why"),
    [
        ("generate", NEW, NEW, None),
        # A question that was never asked is still to be asked, whatever MeSH has come since.
        ("generate", NEW, WITH_MESH, None),
        ("generate", NEW, replace(WITH_MESH, change="other"), None),
        ("generate", NEW, OTHER_TEXT, "another text"),
        ("generate", NEW, None, "deleted"),
        ("rescore", WITH_MESH, replace(WITH_MESH, change="other"), None),
        ("rescore", WITH_MESH, replace(NEW, change="mesh"), "other MeSH"),
        ("rescore", replace(NEW, change="other"), WITH_MESH, "a newer state"),
        # These go by states, and have the newer one.
        ("index", NEW, WITH_MESH, "a newer state"),
        ("backlog", NEW, WITH_MESH, "a newer state"),
    ],
)
def test_what_is_not_news_any_more_is_superseded(
    stage: str, set_aside_: Article, newest: Article | None, why: str | None
):
    value = None if newest is None else encode(newest)
    found = superseded(letter(None, stage), encode(set_aside_), state(40, value))
    assert (why in found) if why and found else found == why


def test_the_newest_state_itself_is_put_back_whatever_it_holds():
    assert superseded(letter(None), b"{not JSON", state(12, b"{not JSON")) is None
    assert superseded(letter(None), None, state(12, None)) is None


def test_one_that_cannot_be_compared_is_not_put_over_a_newer_one():
    found = superseded(letter(None), b"{not JSON", state(40, encode(NEW)))
    assert found
    assert "cannot be compared: not JSON" in found
    assert superseded(letter(None), b"{not JSON", None)
    # Put back for another stage already.
    assert superseded(letter(None), b"{not JSON", state(40, b"{not JSON")) is None


needs_kafka = pytest.mark.kafka


@pytest.fixture
async def bench(kafka_broker: KafkaEngine, tmp_path: Path) -> Bench:
    return await make_bench(kafka_broker, tmp_path)


async def open_letters(settings: Settings, **wanted: Any) -> list[Found]:
    found, unreadable = await find(settings, Wanted(**wanted))
    assert unreadable == 0
    return [each for each in found if each.settled is None]


async def put_back(settings: Settings, most: int = 3, **changes: Any) -> list[Step]:
    order = Order(who="ana", why="mended", most=most, **changes)
    return await replay(settings, await open_letters(settings), order, lambda _: None)


async def read(settings: Settings, topic: Topic) -> list[ConsumerRecord]:
    return await asyncio.to_thread(messages, settings, topic)


@needs_kafka
async def test_once_the_cause_is_mended_a_replay_goes_through(bench: Bench):
    mended = False

    async def refuses(message: Message[Article]) -> list[Record]:
        if not mended:
            raise Invalid("model refused", "the prompt is wrong")
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in (1, 2, 3)), headers=[("state", b"known")])
    async with bench.running(bench.stage(refuses)):
        await bench.read(DEAD_LETTERS, 3)
        assert len(await open_letters(bench.settings, stage="generate")) == 3
        dry = await put_back(bench.settings, dry_run=True)
        assert [step.how for step in dry] == ["replayed"] * 3
        assert len(await open_letters(bench.settings)) == 3
        mended = True
        steps = await put_back(bench.settings)
        made = await bench.asked_about(1, 2, 3)
    assert [step.how for step in steps] == ["replayed"] * 3
    assert sorted(q.source.pmid for q in made) == [1, 2, 3]
    assert await open_letters(bench.settings) == []
    assert await put_back(bench.settings) == []
    found, _ = await find(bench.settings, Wanted())
    assert {(each.settled.how, each.settled.who, each.settled.why) for each in found} == {
        ("replayed", "ana", "mended")
    }
    # Byte for byte, with what ingest keeps in its headers, and why it is there again.
    states = await read(bench.settings, ARTICLES)
    assert [each.value for each in states[3:]] == [each.value for each in states[:3]]
    for each in states[3:]:
        assert dict(each.headers)["state"] == b"known"
        told = replayed(each.headers)
        assert told
        assert (told.first.reason, told.times) == ("model refused", 1)


@needs_kafka
async def test_what_fails_again_keeps_the_first_cause_and_is_left_after_some_times(bench: Bench):
    reasons = iter(["the first", "another", "another", "another", "another"])

    async def refuses(message: Message[Article]) -> list[Record]:
        raise Invalid(next(reasons))

    await bench.publish(records.article(1))
    async with bench.running(bench.stage(refuses)):
        for times in range(3):
            letters = await bench.read(DEAD_LETTERS, times + 1)
            assert letters[-1].replays == times
            (step,) = await put_back(bench.settings)
            assert step.how == "replayed"
        last = (await bench.read(DEAD_LETTERS, 4))[-1]
        (left,) = await put_back(bench.settings)
        assert left.how == "left"
        assert "put back 3 times already" in left.why
        assert len(await read(bench.settings, ARTICLES)) == 4
        (forced,) = await put_back(bench.settings, most=100)
        assert forced.how == "replayed"
        await bench.read(DEAD_LETTERS, 5)
    assert (last.reason, last.replays) == ("another", 3)
    assert last.first
    assert (last.first.reason, last.first.offset) == ("the first", 0)


@needs_kafka
async def test_a_record_that_got_mesh_meanwhile_is_asked_about_as_it_is_now(bench: Bench):
    key = b"1"
    await set_aside(bench.settings, ARTICLES, ["generate", "index"], (key, encode(NEW)))
    async with Publisher(bench.settings) as publisher:
        await publisher.send(ARTICLES, WITH_MESH)
    steps = {step.found.letter.stage: step.how for step in await put_back(bench.settings)}
    assert steps == {"generate": "replayed", "index": "superseded"}
    states = [decode(Article, each.value) for each in await read(bench.settings, ARTICLES)]
    assert states[1:] == [WITH_MESH, replace(WITH_MESH, change="new")]
    assert await open_letters(bench.settings) == []


@needs_kafka
async def test_a_deleted_record_stays_deleted(bench: Bench):
    await set_aside(bench.settings, ARTICLES, ["generate"], (b"1", encode(NEW)))
    async with Publisher(bench.settings) as publisher:
        await publisher.delete(ARTICLES, b"1")
    (step,) = await put_back(bench.settings)
    assert (step.how, step.why.endswith("deleted")) == ("superseded", True)
    assert [each.value for each in await read(bench.settings, ARTICLES)] == [encode(NEW), None]


@needs_kafka
async def test_each_stage_that_set_a_message_aside_gets_it_back(bench: Bench):
    async def nothing(message: Message[Article]) -> list[Record]:
        return []

    stages = ("index", "generate", "rescore")
    await set_aside(bench.settings, ARTICLES, stages, (b"1", encode(NEW)))
    steps = await put_back(bench.settings)
    assert [step.how for step in steps] == ["replayed"] * 3
    told = [replayed(each.headers) for each in (await read(bench.settings, ARTICLES))[1:]]
    assert [each.first.stage for each in told if each] == list(stages)
    async with bench.running(replace(bench.stage(nothing, sink=None), name="rescore")):
        await until(
            lambda: (
                bench.count("kailin_records_in_total", stage="rescore") == 4
                and bench.count("kailin_in_flight", stage="rescore") == 0
            )
        )
    # The first one, and the one that is its own.
    assert bench.count("kailin_handler_seconds_count", stage="rescore") == 2


@needs_kafka
async def test_two_replays_at_once_put_each_back_once(bench: Bench):
    raw = [(b"%d" % pmid, encode(records.contexts(pmid))) for pmid in range(1, 301)]
    await set_aside(bench.settings, CONTEXTS, ["score"], *raw)
    both = await asyncio.gather(
        put_back(bench.settings), put_back(bench.settings), return_exceptions=True
    )
    assert any(isinstance(each, list) for each in both)
    await put_back(bench.settings)
    assert await open_letters(bench.settings) == []
    again = [each.key for each in await read(bench.settings, CONTEXTS) if replayed(each.headers)]
    assert sorted(again) == sorted(key for key, _ in raw)


@needs_kafka
async def test_what_was_not_kept_whole_is_left(bench: Bench):
    headers = [("note", b"n" * 100_000)]
    raw = (b"1", encode(records.questions(1)))
    await set_aside(bench.settings, QUESTIONS, ["retrieve"], raw, headers=headers)
    (step,) = await put_back(bench.settings)
    assert (step.how, step.why) == ("left", "not kept whole: 0 of 1 headers kept")
    assert len(await open_letters(bench.settings)) == 1
    assert len(await read(bench.settings, QUESTIONS)) == 1


@needs_kafka
async def test_a_letter_that_is_written_later_is_open_again(bench: Bench):
    settings = bench.settings
    raw = (b"1", encode(records.contexts(1)))
    await set_aside(settings, CONTEXTS, ["score", "other"], raw)
    await drop(settings, await open_letters(settings, stage="score"), who="ana", why="a test")
    (left,) = await open_letters(settings)
    assert left.letter.stage == "other"
    (settled,) = [e.settled for e in (await find(settings, Wanted(stage="score")))[0]]
    assert (settled.how, settled.why, settled.times) == ("dropped", "a test", 0)
    # As when the offsets of its group are put back.
    later = replace(
        left.letter, stage="score", at=datetime.now(UTC) + timedelta(seconds=1), value="e30="
    )
    async with Publisher(settings) as publisher:
        await publisher.send(DEAD_LETTERS, later)
    assert [each.letter.stage for each in await open_letters(settings)] == ["other", "score"]


@needs_kafka
async def test_letters_are_found_by_stage_reason_topic_message_and_time(bench: Bench):
    settings = bench.settings
    raw = [(b"%d" % pmid, encode(records.contexts(pmid))) for pmid in (1, 2)]
    await set_aside(settings, CONTEXTS, ["score"], *raw, reason="field", at=AT)
    places = await set_aside(settings, QUESTIONS, ["retrieve"], *raw, reason="schema")
    name = topic_name(settings, QUESTIONS)
    here = f"{name}/{places[0][0]}/{places[0][1]}"

    async def count(**wanted: Any) -> int:
        return len(await open_letters(settings, **wanted))

    assert await count() == 4
    assert await count(stage="score") == 2
    assert await count(reason="schema", topic=name) == 2
    assert await count(reason="schema", stage="score") == 0
    assert await count(origins=frozenset([here])) == 1
    assert await count(until=AT + timedelta(days=1)) == 2
    assert await count(since=datetime.now(UTC) - timedelta(hours=1)) == 2
    assert await count(since=datetime.now(UTC) + timedelta(hours=1)) == 0
