"""Messages that were put back, on a real broker: for whom they are, and what becomes of them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent_engine import Bench, as_questions, make_bench, until
from consumers.dead_letters import Replay, replay_header
from consumers.stage import Message
from engines import KafkaEngine
from fakes import records
from streams.citation import Article
from streams.errors import Invalid
from streams.records import Cause, Record
from streams.topics import DEAD_LETTERS, QUESTIONS

pytestmark = pytest.mark.kafka


def put_back(stage: str, times: int = 1) -> tuple[str, bytes]:
    """The header of a message that is there again for a stage."""
    first = Cause(
        stage=stage,
        reason="model refused",
        topic="pubmed.articles",
        partition=0,
        offset=7,
        at=datetime(2026, 3, 7, tzinfo=UTC),
    )
    return replay_header(Replay(first=first, times=times))


@pytest.fixture
async def bench(kafka_broker: KafkaEngine, tmp_path: Path) -> Bench:
    return await make_bench(kafka_broker, tmp_path)


async def test_what_was_put_back_for_another_stage_is_passed_over_and_committed(bench: Bench):
    await bench.publish(records.article(1), headers=[put_back("rescore")])
    await bench.publish(records.article(2), headers=[put_back("generate")])
    await bench.publish(records.article(3), headers=[("kailin-replay", b"{not ours")])
    async with bench.running(bench.stage(as_questions)):
        made = await bench.asked_about(2, 3)
        await until(lambda: bench.count("kailin_in_flight") == 0)
    assert sorted(q.source.pmid for q in made) == [2, 3]
    assert await bench.committed() == 3


async def test_a_stage_that_goes_by_states_takes_it_all_the_same(bench: Bench):
    await bench.publish(records.article(1), headers=[put_back("rescore")])
    async with bench.running(bench.stage(as_questions, states=True)):
        assert [q.source.pmid for q in await bench.asked_about(1)] == [1]


async def test_one_that_fails_again_keeps_its_first_cause_and_is_counted(bench: Bench):
    async def refuses(message: Message[Article]) -> list[Record]:
        raise Invalid("too long", "the prompt has 4,000 tokens")

    await bench.publish(records.article(1), headers=[put_back("generate", times=2)])
    async with bench.running(bench.stage(refuses)):
        (letter,) = await bench.read(DEAD_LETTERS, 1)
    assert (letter.reason, letter.offset, letter.replays) == ("too long", 0, 2)
    assert letter.first
    assert (letter.first.reason, letter.first.offset) == ("model refused", 7)
    assert await bench.read(QUESTIONS, 0) == []
