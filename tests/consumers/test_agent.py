"""The worker on a real broker: what it commits, sets aside, tries again and stops for."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client import CollectorRegistry

from agent_engine import QUICK, Bench, as_questions, make_bench, until
from consumers import agent
from consumers.stage import MISCONFIGURED, Message
from engines import KafkaEngine, free_port
from fakes import records
from infra.kafka import topic_name
from infra.logs import OncePer
from infra.settings import Settings, SettingsError
from streams.citation import Article
from streams.codec import encode
from streams.errors import Invalid, Transient
from streams.metrics import Metrics
from streams.records import Record
from streams.topics import ARTICLES, DEAD_LETTERS, QUESTIONS, Topic

pytestmark = pytest.mark.kafka


@pytest.fixture
async def bench(kafka_broker: KafkaEngine, tmp_path: Path) -> Bench:
    return await make_bench(kafka_broker, tmp_path)


async def test_every_record_goes_through_the_handler_and_is_committed(bench: Bench):
    await bench.publish(*(records.article(n) for n in range(1, 101)))
    async with bench.running(bench.stage(as_questions)) as worker:
        made = await bench.read(QUESTIONS, 100)
    assert sorted(q.source.pmid for q in made) == list(range(1, 101))
    assert worker.result() == agent.DONE
    assert await bench.committed() == 100
    assert bench.count("kailin_records_in_total") == 100
    assert bench.count("kailin_records_out_total") == 100
    assert bench.count("kailin_end_to_end_seconds_count") == 100


async def test_an_arrival_without_a_time_zone_is_taken_as_utc(bench: Bench):
    await bench.publish(records.article(1, arrived=datetime.now(UTC).replace(tzinfo=None)))
    async with bench.running(bench.stage(as_questions)):
        await bench.asked_about(1)
        await until(lambda: bench.count("kailin_end_to_end_seconds_count") == 1)
    assert bench.count("kailin_end_to_end_seconds_sum") < 60


async def test_a_restarted_worker_begins_after_the_last_commit(bench: Bench):
    await bench.publish(records.article(1), records.article(2))
    async with bench.running(bench.stage(as_questions)):
        await bench.read(QUESTIONS, 2)
    await bench.publish(records.article(3))
    async with bench.running(bench.stage(as_questions)):
        made = await bench.read(QUESTIONS, 3)
    assert sorted(q.source.pmid for q in made) == [1, 2, 3]


async def test_nothing_is_committed_past_a_message_that_is_not_finished(bench: Bench):
    gate = asyncio.Event()

    async def first_waits(message: Message[Article]) -> list[Record]:
        if message.offset == 0:
            await gate.wait()
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 6)))
    async with bench.running(bench.stage(first_waits)):
        assert len(await bench.read(QUESTIONS, 4)) == 4
        await asyncio.sleep(2 * agent.COMMIT_EVERY)
        assert await bench.committed() is None
        gate.set()
        await bench.read(QUESTIONS, 5)
    assert await bench.committed() == 5


async def test_a_transient_error_is_tried_again_until_it_passes(bench: Bench):
    attempts = 0

    async def third_time_lucky(message: Message[Article]) -> list[Record]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Transient("model away", "connection refused")
        return await as_questions(message)

    await bench.publish(records.article(1))
    async with bench.running(bench.stage(third_time_lucky)):
        assert len(await bench.read(QUESTIONS, 1)) == 1
    assert attempts == 3
    assert bench.count("kailin_retries_total", reason="model away") == 2
    assert await bench.committed() == 1


@pytest.mark.parametrize(
    ("message", "reason", "named"),
    [
        (b"{", "not JSON", ""),
        (b"\xff\xfe", "not JSON", ""),
        (encode(records.questions(1)), "schema", "questions/1"),
        (encode(records.article(1)).replace(b'"pmid":1,', b'"pmid":"one",'), "field", "pmid"),
        (encode(records.article(1)).replace(b'"pmid":1,', b""), "field", "pmid"),
        (encode(records.article(1)), "key", "expected b'1', as the record says, got b'k'"),
    ],
    ids=[
        *("half an object", "not UTF-8", "another record", "wrong type", "missing field"),
        "another key",
    ],
)
async def test_a_message_that_does_not_decode_becomes_a_dead_letter(
    bench: Bench, message: bytes, reason: str, named: str
):
    await bench.publish(message, key=b"k", headers=[("trace", b"abc")])
    await bench.publish(records.article(2))
    async with bench.running(bench.stage(as_questions)):
        (letter,) = await bench.read(DEAD_LETTERS, 1)
        assert [q.source.pmid for q in await bench.read(QUESTIONS, 1)] == [2]
    assert (letter.stage, letter.reason) == ("generate", reason)
    assert named in letter.detail
    assert (letter.topic, letter.partition, letter.offset) == (
        topic_name(bench.settings, ARTICLES),
        0,
        0,
    )
    assert letter.headers == (("trace", "YWJj"),)
    assert "Invalid" in letter.stack
    assert bench.count("kailin_dead_letters_total", reason=reason) == 1
    assert bench.count("kailin_records_failed_total", reason=reason) == 1
    assert await bench.committed() == 2


async def test_what_a_handler_calls_invalid_becomes_a_dead_letter(bench: Bench):
    async def refuses(message: Message[Article]) -> list[Record]:
        raise Invalid("prompt refused", "the prompt has 4,000 tokens")

    await bench.publish(records.article(1))
    async with bench.running(bench.stage(refuses)):
        (letter,) = await bench.read(DEAD_LETTERS, 1)
    assert (letter.reason, letter.detail) == ("prompt refused", "the prompt has 4,000 tokens")
    assert "refuses" in letter.stack


async def test_an_output_above_the_topics_limit_becomes_a_dead_letter_and_spoils_no_neighbour(
    bench: Bench,
):
    async def third_is_huge(message: Message[Article]) -> list[Record]:
        made = records.questions(message.record.pmid)
        if message.record.pmid == 3:
            made = replace(made, source=replace(made.source, abstract="a" * 2_000_000))
        return [made]

    await bench.publish(*(records.article(n) for n in range(1, 6)))
    async with bench.running(bench.stage(third_is_huge)):
        (letter,) = await bench.read(DEAD_LETTERS, 1)
        made = await bench.read(QUESTIONS, 4)
    assert (letter.reason, letter.offset) == ("too large", 2)
    assert sorted(q.source.pmid for q in made) == [1, 2, 4, 5]
    assert await bench.committed() == 5


async def test_a_broker_that_takes_less_than_the_table_says_spoils_no_neighbour(bench: Bench):
    """Batches that the broker refuses are sent again, each record alone."""
    name = topic_name(bench.settings, QUESTIONS)
    await lower_limit(bench.kafka.bootstrap, name, 5_000)

    async def third_is_large(message: Message[Article]) -> list[Record]:
        made = records.questions(7)
        if message.record.pmid == 3:
            made = replace(made, source=replace(made.source, abstract="a" * 10_000))
        return [replace(made, id=str(message.record.pmid))]

    await bench.publish(*(records.article(n) for n in range(1, 13)))
    async with bench.running(bench.stage(third_is_large)):
        (letter,) = await bench.read(DEAD_LETTERS, 1)
        made = await bench.read(QUESTIONS, 11)
    assert (letter.reason, letter.offset) == ("too large", 2)
    assert sorted(int(q.id) for q in made) == [1, 2, *range(4, 13)]
    assert await bench.committed() == 12


async def lower_limit(bootstrap: str, topic: str, size: int) -> None:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size)})]
        )
    finally:
        await admin.close()


async def test_a_fault_stops_the_worker_and_the_record_is_done_after_a_restart(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    async def breaks_on_three(message: Message[Article]) -> list[Record]:
        if message.record.pmid == 3:
            raise KeyError("no such thing")
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 6)))
    async with bench.running(bench.stage(breaks_on_three)) as worker:
        assert await asyncio.wait_for(asyncio.shield(worker), 30) == agent.FAILED
    assert await bench.committed() == 2
    assert "KeyError" in caplog.text
    assert "offset 2 is not committed" in caplog.text
    async with bench.running(bench.stage(as_questions)):
        await bench.asked_about(1, 2, 3, 4, 5)
    assert await bench.committed() == 5


async def test_work_that_is_cancelled_from_within_stops_the_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    async def waits_for_what_was_given_up(message: Message[Article]) -> list[Record]:
        if message.record.pmid == 2:
            given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            given_up.cancel()
            await given_up
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 4)))
    async with bench.running(bench.stage(waits_for_what_was_given_up)) as worker:
        assert await asyncio.wait_for(asyncio.shield(worker), 30) == agent.FAILED
    assert await bench.committed() == 1
    assert "offset 1 is not committed" in caplog.text


async def test_a_fault_beside_the_work_is_not_laid_to_kafka(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    faults = 0

    def breaks_once_at_work(settings: Settings, topic: Topic) -> str:
        nonlocal faults
        if bench.count("kailin_handler_seconds_count") and topic == ARTICLES and not faults:
            faults += 1
            raise LookupError("no such topic")
        return topic_name(settings, topic)

    await bench.publish(records.article(1))
    async with replace(bench, name=breaks_once_at_work).running(
        bench.stage(as_questions)
    ) as worker:
        assert await asyncio.wait_for(asyncio.shield(worker), 30) == agent.FAILED
    stopped = [r for r in caplog.records if "stopped" in r.getMessage()]
    assert [r.getMessage() for r in stopped] == ["generate: stopped by a fault of its own"]
    assert isinstance(stopped[0].exc_info[1], LookupError)


async def test_each_dead_letter_has_its_line_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    await bench.publish(*[b"not JSON"] * 5)
    async with bench.running(bench.stage(as_questions)):
        await bench.read(DEAD_LETTERS, 5)
    thinned = OncePer(60)
    lines = [r.getMessage() for r in caplog.records if thinned.filter(r)]
    for offset in range(5):
        assert any(f"partition 0 offset {offset}: not JSON" in line for line in lines)


async def test_a_wrong_setting_stops_the_worker_with_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    refused = SettingsError("elasticsearch: the server refused (status 401); check api_key")

    async def from_the_second_on_refused(message: Message[Article]) -> list[Record]:
        if message.offset >= 1:
            # As where one request answers for many records.
            raise refused
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 6)))
    async with bench.running(bench.stage(from_the_second_on_refused)) as worker:
        assert await asyncio.wait_for(asyncio.shield(worker), 30) == MISCONFIGURED
    assert await bench.committed() == 1
    (line,) = [r for r in caplog.records if r.levelname == "ERROR" and r.name == "consumers.agent"]
    name = topic_name(bench.settings, ARTICLES)
    assert line.getMessage() == (
        f"generate: stopped: {refused}; {name} partition 0 offset 1 is not committed"
    )
    assert line.exc_info is None
    assert await bench.read(DEAD_LETTERS, 0) == []


async def test_too_many_dead_letters_stop_the_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    policy = replace(QUICK, dead_letter_limit=5)
    await bench.publish(*[b"not JSON"] * 20)
    async with bench.running(bench.stage(as_questions), policy) as worker:
        status = await asyncio.wait_for(asyncio.shield(worker), 30)
    assert status == agent.TOO_MANY_DEAD_LETTERS
    assert len(await bench.read(DEAD_LETTERS, 5)) == 5
    assert await bench.committed() == 5
    assert "more than 5 dead letters in 60 s" in caplog.text
    assert "offset 5 is not committed" in caplog.text


async def test_tombstones_are_passed_over_unless_the_stage_takes_them(bench: Bench):
    seen: list[Any] = []

    async def notes(message: Message[Article]) -> list[Record]:
        seen.append((message.key, message.record, message.offset))
        return []

    await bench.publish(None, key=b"12")
    async with bench.running(bench.stage(notes)):
        await until(lambda: bench.count("kailin_records_in_total") == 1)
        await asyncio.sleep(0.1)
    assert seen == []
    assert await bench.committed() == 1

    await bench.publish(None, key=b"13")
    async with bench.running(bench.stage(notes, sink=None, tombstones=True)):
        await until(lambda: bool(seen))
    assert seen == [(b"13", None, 1)]
    assert await bench.committed() == 2


async def test_a_worker_that_is_told_to_stop_finishes_what_it_has_begun(bench: Bench):
    begun = asyncio.Event()

    async def slow(message: Message[Article]) -> list[Record]:
        begun.set()
        await asyncio.sleep(0.5)
        return await as_questions(message)

    await bench.publish(records.article(1))
    async with bench.running(bench.stage(slow)) as worker:
        await begun.wait()
    assert worker.result() == agent.DONE
    assert len(await bench.read(QUESTIONS, 1)) == 1
    assert await bench.committed() == 1


async def test_a_worker_that_is_told_to_stop_leaves_what_takes_too_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(agent, "GRACE", 0.5)
    begun = asyncio.Event()

    async def endless(message: Message[Article]) -> list[Record]:
        begun.set()
        await asyncio.Event().wait()
        return []

    await bench.publish(records.article(1))
    async with bench.running(bench.stage(endless)) as worker:
        await begun.wait()
    assert worker.result() == agent.DONE
    assert await bench.committed() is None


async def test_the_window_bounds_how_many_are_in_hand(bench: Bench):
    now = most = 0

    async def counts(message: Message[Article]) -> list[Record]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)
        now -= 1
        return []

    await bench.publish(*(records.article(n) for n in range(1, 61)))
    async with bench.running(bench.stage(counts, sink=None), replace(QUICK, window=7)):
        await until(lambda: bench.count("kailin_handler_seconds_count") == 60)
    assert most == 7


async def test_the_message_that_holds_the_worker_back_is_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    gate = asyncio.Event()

    async def fourth_waits(message: Message[Article]) -> list[Record]:
        if message.offset == 3:
            await gate.wait()
        return []

    await bench.publish(*(records.article(n) for n in range(1, 41)))
    line = (
        f"generate: takes nothing more until {topic_name(bench.settings, ARTICLES)} "
        "partition 0 offset 3 is done"
    )
    async with bench.running(bench.stage(fourth_waits, sink=None), replace(QUICK, window=2)):
        await until(lambda: line in caplog.messages)
        gate.set()
        await until(lambda: bench.count("kailin_handler_seconds_count") == 40)
    assert await bench.committed() == 40


async def test_the_observer_sees_a_message_and_what_became_of_it(bench: Bench):
    seen: list[Any] = []
    await bench.publish(records.article(1))
    stage = bench.stage(
        as_questions, observe=lambda message, made: seen.append((message.record.pmid, len(made)))
    )
    async with bench.running(stage):
        await until(lambda: bool(seen))
    assert seen == [(1, 1)]


async def test_only_what_is_committed_is_read_and_the_lag_ends_at_nothing(bench: Bench):
    """A transaction's end has an offset, which no message ever has."""
    name = topic_name(bench.settings, ARTICLES)
    producer = AIOKafkaProducer(
        bootstrap_servers=bench.kafka.bootstrap, transactional_id=f"{name}.writer"
    )

    def lag() -> float:
        return bench.count("kailin_consumer_lag_records", topic=name, partition="0")

    async def write(*pmids: int) -> None:
        for pmid in pmids:
            value = encode(records.article(pmid))
            await (await producer.send(name, value, key=b"%d" % pmid, partition=0))

    async with producer, bench.running(bench.stage(as_questions)):
        await producer.begin_transaction()
        await write(1, 2)
        await producer.abort_transaction()
        async with producer.transaction():
            await write(3, 4)
        assert {made.source.pmid for made in await bench.asked_about(3, 4)} == {3, 4}
        await until(lambda: lag() == 0)
        await producer.begin_transaction()
        await write(5)
        await asyncio.sleep(2)
        assert bench.count("kailin_records_in_total") == 2
        await producer.commit_transaction()
        await bench.asked_about(5)
        await until(lambda: lag() == 0)
        assert bench.count("kailin_records_in_total") == 3
    # Started anew, there is nothing to read but the end of the last transaction.
    bench.metrics = Metrics(CollectorRegistry())
    labels = {"stage": "generate", "topic": name, "partition": "0"}
    async with bench.running(bench.stage(as_questions)):
        sample = bench.metrics.registry.get_sample_value
        await until(lambda: sample("kailin_consumer_lag_records", labels) == 0)


async def test_lag_is_what_comes_after_the_last_finished_message(bench: Bench):
    gate = asyncio.Event()

    async def from_the_third_on_waits(message: Message[Article]) -> list[Record]:
        if message.offset >= 2:
            await gate.wait()
        return []

    name = topic_name(bench.settings, ARTICLES)

    def lag() -> float:
        return bench.count("kailin_consumer_lag_records", topic=name, partition="0")

    await bench.publish(*(records.article(n) for n in range(1, 11)))
    async with bench.running(bench.stage(from_the_third_on_waits, sink=None)):
        await until(lambda: lag() == 8)
        before = bench.count("kailin_behind_seconds")
        await asyncio.sleep(1)
        assert bench.count("kailin_behind_seconds") == pytest.approx(before + 1, abs=0.5)
        gate.set()
        await until(lambda: lag() == 0)
        await until(lambda: bench.count("kailin_behind_seconds") == 0)


async def test_two_workers_share_the_partitions_and_nothing_is_lost_when_one_leaves(bench: Bench):
    for partition in range(6):
        pmids = range(partition * 100 + 1, partition * 100 + 51)
        await bench.publish(*(records.article(n) for n in pmids), partition=partition)

    async def slowly(message: Message[Article]) -> list[Record]:
        await asyncio.sleep(0.1)
        return await as_questions(message)

    async with bench.running(bench.stage(slowly)):
        await until(lambda: bench.count("kailin_records_out_total") >= 40)
        async with bench.running(bench.stage(slowly)):
            await until(lambda: bench.count("kailin_records_out_total") >= 150)
        await bench.asked_about(*(p * 100 + n for p in range(6) for n in range(1, 51)))
    assert [await bench.committed(p) for p in range(6)] == [50] * 6


async def test_a_broker_that_is_away_delays_and_loses_nothing(bench: Bench):
    async def as_fast_as_it_goes(message: Message[Article]) -> list[Record]:
        await asyncio.sleep(0.05)
        return await as_questions(message)

    await bench.publish(*(records.article(n) for n in range(1, 401)))
    async with bench.running(bench.stage(as_fast_as_it_goes)) as worker:
        await until(lambda: bench.count("kailin_records_out_total") >= 50)
        await asyncio.to_thread(bench.kafka.kill)
        await asyncio.sleep(3)
        await asyncio.to_thread(bench.kafka.start)
        await bench.asked_about(*range(1, 401))
        assert not worker.done()
    assert await bench.committed() == 400


async def test_a_worker_is_told_to_stop_while_the_broker_is_away(bench: Bench):
    await bench.publish(records.article(1))
    try:
        async with asyncio.timeout(60), bench.running(bench.stage(as_questions)) as worker:
            await bench.asked_about(1)
            await asyncio.to_thread(bench.kafka.kill)
            await asyncio.sleep(1)
        assert worker.result() == agent.DONE
    finally:
        await asyncio.to_thread(bench.kafka.start)


async def test_a_worker_that_finds_no_broker_ends_with_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    nowhere = replace(bench, kafka=SimpleNamespace(bootstrap=f"127.0.0.1:{free_port()}"))
    async with nowhere.running(bench.stage(as_questions)) as worker:
        assert await asyncio.wait_for(asyncio.shield(worker), 60) == agent.FAILED
    (line,) = [r for r in caplog.records if r.name == "consumers.agent"]
    assert "generate: cannot start" in line.getMessage()
    assert line.exc_info is None
