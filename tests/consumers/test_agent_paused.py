"""A paused worker on a real broker: it takes nothing more, finishes what it has, and goes on."""

import asyncio
from pathlib import Path

import pytest

from agent_engine import QUICK, Bench, as_questions, make_bench, until
from consumers import agent
from consumers.stage import Message
from engines import KafkaEngine
from fakes import records
from streams.citation import Article
from streams.records import Record
from streams.topics import QUESTIONS

pytestmark = pytest.mark.kafka


@pytest.fixture
async def bench(kafka_broker: KafkaEngine, tmp_path: Path) -> Bench:
    return await make_bench(kafka_broker, tmp_path)


@pytest.fixture
def going() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_under_load_nothing_is_taken_after_the_pause_and_nothing_lost(
    bench: Bench, going: asyncio.Event
):
    taken: list[int] = []

    async def takes_a_moment(message: Message[Article]) -> list[Record]:
        taken.append(message.offset)
        await asyncio.sleep(0.01)
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 3001)))
    async with bench.running(bench.stage(takes_a_moment), going=going):
        await until(lambda: len(taken) > 300)
        going.clear()
        at_the_pause = int(bench.count("kailin_records_in_total"))
        assert at_the_pause < 2900
        await until(lambda: bench.count("kailin_in_flight") == 0)
        await bench.publish(*(records.article(n) for n in range(3001, 6001)))
        # What was in hand is finished and committed, and what waits is counted.
        waits = {"topic": bench.source, "partition": "0"}
        await until(
            lambda: bench.count("kailin_consumer_lag_records", **waits) == 6000 - at_the_pause
        )
        await asyncio.sleep(3 * agent.COMMIT_EVERY)
        assert len(taken) == at_the_pause
        assert await bench.committed() == at_the_pause
        going.set()
        made = await bench.read(QUESTIONS, 6000)
    assert sorted(q.source.pmid for q in made) == list(range(1, 6001))
    assert sorted(taken) == list(range(6000))
    assert await bench.committed() == 6000


async def test_one_that_waits_for_its_next_message_does_not_take_it(
    bench: Bench, going: asyncio.Event
):
    async with bench.running(bench.stage(as_questions), going=going):
        await bench.publish(records.article(1))
        await bench.asked_about(1)
        going.clear()
        await bench.publish(records.article(2))
        await asyncio.sleep(2)
        assert bench.count("kailin_records_in_total") == 1
        going.set()
        await bench.asked_about(1, 2)


async def test_one_that_is_stopped_while_paused_has_taken_nothing(
    bench: Bench, going: asyncio.Event
):
    going.clear()
    await bench.publish(records.article(1))
    async with bench.running(bench.stage(as_questions), going=going) as worker:
        await asyncio.sleep(3)
    assert worker.result() == agent.DONE
    assert await bench.committed() is None
    going.set()
    async with bench.running(bench.stage(as_questions), going=going):
        assert len(await bench.asked_about(1)) == 1


async def test_a_rebalance_during_a_pause_hands_over_what_was_fetched(
    bench: Bench, going: asyncio.Event
):
    """The message that the paused worker holds is done once, by whoever has its partition then."""
    going.clear()
    for partition in range(6):
        pmids = range(100 * partition + 1, 100 * partition + 21)
        await bench.publish(*(records.article(n) for n in pmids), partition=partition)
    everyone = {100 * partition + n for partition in range(6) for n in range(1, 21)}
    async with bench.running(bench.stage(as_questions), going=going):
        await asyncio.sleep(3)
        async with bench.running(bench.stage(as_questions)):
            # The second worker is not paused, and has half of the partitions.
            await until(lambda: bench.count("kailin_records_out_total") >= 60)
            going.set()
            made = await bench.asked_about(*everyone)
    assert sorted(q.source.pmid for q in made) == sorted(everyone)


async def test_the_window_is_kept_after_a_pause(bench: Bench, going: asyncio.Event):
    at_work = most = 0

    async def counts(message: Message[Article]) -> list[Record]:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.02)
        at_work -= 1
        return await as_questions(message)

    going.clear()
    await bench.publish(*(records.article(n) for n in range(1, 101)))
    async with bench.running(bench.stage(counts), going=going):
        await asyncio.sleep(2)
        going.set()
        await bench.read(QUESTIONS, 100)
    assert most == QUICK.window
