"""The append stage on a real broker: each record once, whatever dies, and nothing in silence."""

import asyncio
import base64
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from deltalake import DeltaTable

from append_engine import (
    PARTITIONS,
    Worker,
    admin,
    answered,
    below,
    create_topics,
    dead_letters,
    make_settings,
    message,
    publish,
    rows,
    tie,
    total,
    training_data,
    until,
    workers,
)
from consumers.stage import MISCONFIGURED
from engines import KafkaEngine
from infra.kafka import client_arguments, group_name, topic_name
from infra.settings import Settings
from streams.topics import IDEAL, PREFERENCES, TRAINING_DATA

pytestmark = pytest.mark.kafka


@pytest.fixture
async def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return await make_settings(kafka_broker.bootstrap, tmp_path)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with workers(settings, tmp_path) as begin:
        yield begin


async def committed(consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> bool:
    try:
        await consumer.commit(offsets)
    except CommitFailedError:
        return False
    return True


async def test_each_record_once_though_the_worker_is_killed_at_random(settings, start):
    """1,500 compared and 1,500 ideal records, 600 of them sent again, and 12 × kill −9.

    A repetition comes after its first, as Kafka keeps the order of a partition.
    """
    chance = random.Random(11)
    pmids = list(range(1, 3001))

    def sent(pmid: int, *, other: bool = False) -> tuple[int, bytes]:
        """Odd ones are ideal; one in five of each is not used, or its repetition is."""
        used = (pmid % 5 != 0) != other
        if pmid % 2:
            return answered(pmid) if used else below(pmid)
        return message(pmid) if used else tie(pmid)

    order = [sent(pmid) for pmid in pmids]
    order += [sent(pmid, other=chance.random() < 0.3) for pmid in chance.sample(pmids, 600)]
    worker = start()
    for at in range(0, len(order), 300):
        await publish(settings, *order[at : at + 300])
        await asyncio.sleep(chance.uniform(0.3, 3.0))
        worker.kill()
        worker.start()
    await until(lambda: total(settings) >= 3000)
    await publish(settings, message(9000), answered(9001), answered(9003))
    await until(lambda: total(settings) >= 3003)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert rows(settings, "dropped") == [pmid for pmid in pmids if pmid % 5 == 0]
    used = [pmid for pmid in pmids if pmid % 5]
    assert rows(settings) == [pmid for pmid in used if pmid % 2 == 0] + [9000]
    assert rows(settings, "ideal") == [pmid for pmid in used if pmid % 2] + [9001, 9003]
    assert await dead_letters(settings) == []


async def test_what_there_is_to_train_on_is_told(settings, start):
    worker = start()
    await publish(settings, message(1), message(2), tie(3), answered(4), below(5))
    await until(lambda: total(settings) == 5)
    await publish(settings, tie(6), below(7))
    await until(lambda: total(settings) == 7)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    told = await training_data(settings)
    added = {
        name: sum(t.added for t in told if t.table == name) for name in ("preferences", "ideal")
    }
    assert added == {"preferences": 2, "ideal": 1}
    for name in added:
        newest = max((t for t in told if t.table == name), key=lambda t: t.version)
        held = DeltaTable(f"{settings.tables_uri}/{name}", version=newest.version)
        assert held.count() == newest.rows == added[name]


async def test_a_topic_that_nobody_hears_on_holds_nothing_up(settings, start):
    """There is no topic for training data, and the producer waits for one."""
    async with admin(settings) as client:
        await client.delete_topics([topic_name(settings, TRAINING_DATA)])
    worker = start()
    for first in range(1, 61, 20):
        await publish(settings, *map(message, range(first, first + 20)))
        await until(lambda first=first: total(settings) == first + 19, within=20)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


async def test_a_worker_that_was_taken_for_dead_writes_nothing_twice(settings, start):
    """Two workers in turn hold the same partitions: the one that was stopped wakes up as a zombie.

    It holds a batch that its successor has committed meanwhile.
    """
    zombie = start(APPEND__ROWS=100_000, APPEND__SECONDS=4)
    await publish(settings, message(1))
    await until(lambda: total(settings) == 1)
    await publish(settings, *map(message, range(2, 302)))
    await until(lambda: 'kailin_in_flight{stage="append"} 300.0' in zombie.metrics(), within=10)
    zombie.signal(signal.SIGSTOP)
    successor = start()
    await until(lambda: total(settings) == 301)
    zombie.signal(signal.SIGCONT)
    await publish(settings, *map(message, range(302, 402)))
    await until(lambda: total(settings) == 401)
    await until(lambda: "this batch is dropped" in zombie.log, within=30)
    for worker in (zombie, successor):
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert rows(settings) == list(range(1, 402))


async def test_unusable_messages_go_to_the_dead_letters_and_the_rest_goes_on(settings, start):
    worker = start()
    long = b'{"schema":"preference/1","id":"' + b"x" * 900_000
    garbage = [
        (1, b"\xff\x00 not JSON"),
        (2, b'{"schema":"article/1"}'),
        (3, b'{"schema":"preference/1","id":7}'),
        (4, None),
        (5, long),
        message(6, id="not hexadecimal"),
        message(7, alignments=()),
    ]
    wrong = [message(8), (9, None), answered(13, alignments=())]
    await publish(settings, message(10), *garbage, message(11), message(12))
    await publish(settings, *wrong, topic=IDEAL)
    await until(lambda: total(settings) == 3)
    await until(lambda: "kailin_dead_letters_total" in worker.metrics())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    letters = {letter.headers[0]: letter for letter in await dead_letters(settings)}
    assert len(letters) == len(garbage) + len(wrong)
    reasons = ["not JSON", "schema", "field", "no value", "not JSON", "field", "field"]
    reasons += ["schema", "no value", "field"]
    for (pmid, value), reason in zip(garbage + wrong, reasons, strict=True):
        letter = letters["trace", base64.b64encode(b"%d" % pmid).decode()]
        assert letter.reason == reason
        assert base64.b64decode(letter.key or "") == b"%d" % pmid
        assert (None if letter.value is None else base64.b64decode(letter.value)) == value
        assert letter.topic == topic_name(settings, PREFERENCES if pmid < 8 else IDEAL)


async def test_too_many_dead_letters_stop_the_stage(settings, start):
    worker = start(WORKERS__DEAD_LETTER_LIMIT=5)
    await publish(settings, message(3), *[(pmid, b"garbage") for pmid in range(6, 60, 3)])
    assert worker.wait() == 3
    assert rows(settings) == [3]
    assert "more than 5 dead letters within 60 s" in worker.log
    assert "Traceback" not in worker.log
    assert len(await dead_letters(settings)) == 5


async def test_a_restart_goes_by_the_tables_not_by_kafka(settings, start):
    worker = start()
    await publish(settings, *map(message, range(1, 31)))
    await until(lambda: total(settings) == 30)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    await publish(settings, *map(message, range(31, 61)))
    # Kafka's offsets say that all was read; the tables know better.
    name = topic_name(settings, PREFERENCES)
    consumer = AIOKafkaConsumer(
        **client_arguments(settings),
        group_id=group_name(settings, "append"),
        enable_auto_commit=False,
    )
    await consumer.start()
    partitions = [TopicPartition(name, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    # Refused until the broker has given up on the member that was stopped.
    await until(lambda: committed(consumer, ends))
    await consumer.stop()
    worker.start()
    await until(lambda: total(settings) == 60)
    assert rows(settings) == list(range(1, 61))


@pytest.mark.parametrize("records", [2, 40], ids=["shorter", "longer"])
async def test_a_topic_made_anew_is_noticed(settings, start, records):
    worker = start()
    await publish(settings, *map(message, range(1, 31)))
    await until(lambda: total(settings) == 30)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    async with admin(settings) as client:
        await client.delete_topics([topic_name(settings, PREFERENCES)])
        await asyncio.sleep(1)
    await create_topics(settings)
    await publish(settings, *map(message, range(101, 101 + PARTITIONS * records)))
    worker.start()
    assert worker.wait() == MISCONFIGURED
    assert "the topic was made anew" in worker.log
    assert "Traceback" not in worker.log
    assert total(settings) == 30


async def test_a_broker_or_store_that_is_away_is_waited_for(
    settings, start, kafka_broker, tmp_path
):
    blocked = tmp_path / "tables"
    await asyncio.to_thread(blocked.write_text, "a file where the directory should be")
    worker = start()
    await until(lambda: "trying again" in worker.log)
    await asyncio.to_thread(blocked.unlink)
    await publish(settings, *map(message, range(1, 31)))
    await until(lambda: total(settings) == 30)
    await asyncio.to_thread(kafka_broker.kill)
    try:
        await asyncio.sleep(2)
        assert worker.process.poll() is None
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0
        worker.start()
        await until(lambda: "no Kafka broker to be reached" in worker.log)
    finally:
        await asyncio.to_thread(kafka_broker.start)
    await publish(settings, *map(message, range(31, 61)))
    await until(lambda: total(settings) == 60)
    assert rows(settings) == list(range(1, 61))
    assert "Traceback" not in worker.log


async def test_what_it_measures(settings, start):
    worker = start()
    await publish(settings, *map(message, range(1, 31)), *map(message, range(1, 11)), tie(50))
    await until(lambda: "kailin_rows_repeated_total{" in worker.metrics())
    await until(lambda: 'kailin_records_in_total{stage="append"} 41.0' in worker.metrics())
    await asyncio.sleep(1)
    page = worker.metrics()
    for line in (
        'kailin_records_out_total{stage="append"} 31.0',
        'kailin_rows_appended_total{table="preferences"} 30.0',
        'kailin_rows_repeated_total{table="preferences"} 10.0',
        'kailin_table_rows{table="dropped"} 1.0',
        'kailin_end_to_end_seconds_count{stage="append"} 31.0',
        'kailin_behind_seconds{stage="append"} 0.0',
    ):
        assert line in page
    lag = [line for line in page.splitlines() if line.startswith("kailin_consumer_lag_records{")]
    assert len(lag) == 2 * PARTITIONS
    assert all(line.endswith(" 0.0") for line in lag)


async def test_a_port_that_is_taken_is_one_line(settings, start):
    first = start()
    await until(lambda: "working" in first.log)
    second = start(PORTS__APPEND=first.port)
    assert second.wait() == 2
    assert f"ports.append = {first.port}: cannot serve /metrics" in second.log
    assert "Traceback" not in second.log
