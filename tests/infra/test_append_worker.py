"""The append stage on a real broker: each record once, whatever dies, and nothing in silence."""

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError
from deltalake import DeltaTable

from consumers.stage import MISCONFIGURED
from engines import KafkaEngine, free_port
from fakes.records import preference
from infra.kafka import client_arguments, group_name, topic_name
from infra.settings import Settings
from infra.tables import row_counts
from streams.codec import decode, encode
from streams.records import DeadLetter
from streams.topics import DEAD_LETTERS, PREFERENCES

pytestmark = pytest.mark.kafka

PARTITIONS = 3


class Worker:
    """The append stage in a process of its own, as `settings` have it."""

    def __init__(self, settings: Settings, directory: Path, **changes: object) -> None:
        self.port = free_port()
        self._log = directory / f"worker-{self.port}.log"
        variables = {
            "TABLES": settings.tables,
            "KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
            "KAFKA__PREFIX": settings.kafka.prefix,
            "APPEND__ROWS": settings.append.rows,
            "APPEND__SECONDS": settings.append.seconds,
            "APPEND__COMPACT_EVERY": settings.append.compact_every,
            "WORKERS__DEAD_LETTER_LIMIT": settings.workers.dead_letter_limit,
            "WORKERS__RETRY_FIRST": 0.1,
            "WORKERS__RETRY_LONGEST": 1,
            "PORTS__APPEND": self.port,
            **changes,
        }
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **{f"KAILIN_{name}": str(value) for name, value in variables.items()},
        }
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "run", "append"],
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def wait(self, within: float = 60) -> int:
        assert self.process
        return self.process.wait(within)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def metrics(self) -> str:
        """The page of metrics, empty while none is served."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
                return page.read().decode()
        except URLError:
            return ""


@pytest.fixture
async def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    """Settings with a prefix and tables of their own, their topics made."""
    settings = Settings(
        tables=str(tmp_path / "tables"),
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"t{uuid4().hex[:8]}."},
        append={"rows": 100, "seconds": 0.2, "compact_every": 7},
    )
    await create_topics(settings)
    return settings


async def create_topics(settings: Settings) -> None:
    async with admin(settings) as client:
        await client.create_topics(
            [
                NewTopic(topic_name(settings, PREFERENCES), PARTITIONS, 1),
                NewTopic(
                    topic_name(settings, DEAD_LETTERS),
                    1,
                    1,
                    topic_configs={"max.message.bytes": str(DEAD_LETTERS.max_message)},
                ),
            ]
        )


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**client_arguments(settings))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def begin(**changes: object) -> Worker:
        worker = Worker(settings, tmp_path, **changes)
        workers.append(worker)
        worker.start()
        return worker

    yield begin
    for worker in workers:
        worker.kill()
        print(worker.log[-4000:])


async def publish(settings: Settings, *messages: tuple[int, bytes | None]) -> None:
    """Messages by PMID; a record's partition is a function of it."""
    producer = AIOKafkaProducer(**client_arguments(settings), enable_idempotence=True)
    await producer.start()
    try:
        name = topic_name(settings, PREFERENCES)
        sent = [
            await producer.send(
                name,
                value,
                key=b"%d" % pmid,
                partition=pmid % PARTITIONS,
                headers=[("trace", b"%d" % pmid)],
            )
            for pmid, value in messages
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def message(pmid: int, **changes: object) -> tuple[int, bytes]:
    return pmid, encode(preference(pmid, **changes))


def tie(pmid: int) -> tuple[int, bytes]:
    return message(pmid, outcome="tie", reason="gap under the margin")


async def until(condition: Callable[[], object], within: float = 60) -> None:
    """Wait until a condition, plain or awaitable, holds."""
    deadline = time.monotonic() + within
    while not (await held if isawaitable(held := condition()) else held):
        assert time.monotonic() < deadline, f"not within {within} s"
        await asyncio.sleep(0.1)


async def committed(consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> bool:
    try:
        await consumer.commit(offsets)
    except CommitFailedError:
        return False
    return True


def rows(settings: Settings, table: str = "preferences") -> list[int]:
    """The PMIDs of a table's rows, each as often as it is there."""
    data = DeltaTable(f"{settings.tables_uri}/{table}").to_pyarrow_dataset()
    return sorted(data.to_table(columns=["pmid"]).column("pmid").to_pylist())


def total(settings: Settings) -> int:
    return sum(row_counts(settings).values())


async def all_messages(settings: Settings, name: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(**client_arguments(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [
            TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()
        ] or [TopicPartition(name, 0)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[bytes | None] = []
        while len(found) < sum(ends.values()):
            for some in (await consumer.getmany(timeout_ms=500)).values():
                found += [message.value for message in some]
        return found
    finally:
        await consumer.stop()


async def dead_letters(settings: Settings) -> list[DeadLetter]:
    name = topic_name(settings, DEAD_LETTERS)
    return [decode(DeadLetter, value or b"") for value in await all_messages(settings, name)]


async def test_each_record_once_though_the_worker_is_killed_at_random(settings, start):
    """3,000 records, 900 of them sent again, some with another outcome, and 15 × kill −9."""
    chance = random.Random(7)
    pmids = list(range(1, 3001))
    first = [tie(pmid) if pmid % 5 == 0 else message(pmid) for pmid in pmids]
    again = [
        tie(pmid) if chance.random() < 0.3 else message(pmid) for pmid in chance.sample(pmids, 900)
    ]
    order = [*first, *again]
    # A repetition comes after its first, as Kafka keeps the order of a partition.
    parts = [order[at : at + 260] for at in range(0, len(order), 260)]
    worker = start()
    for part in parts:
        await publish(settings, *part)
        await asyncio.sleep(chance.uniform(0.3, 3.0))
        worker.kill()
        worker.start()
    await until(lambda: total(settings) >= 3000)
    await publish(settings, message(9000), message(9001), message(9002))
    await until(lambda: total(settings) >= 3003)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert rows(settings, "dropped") == [pmid for pmid in pmids if pmid % 5 == 0]
    assert rows(settings) == [pmid for pmid in pmids if pmid % 5] + [9000, 9001, 9002]
    assert await dead_letters(settings) == []


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
    await publish(settings, message(10), *garbage, message(11), message(12))
    await until(lambda: total(settings) == 3)
    await until(lambda: "kailin_dead_letters_total" in worker.metrics())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    letters = {letter.headers[0]: letter for letter in await dead_letters(settings)}
    assert len(letters) == len(garbage)
    reasons = ["not JSON", "schema", "field", "no value", "not JSON", "field", "field"]
    for (pmid, value), reason in zip(garbage, reasons, strict=True):
        letter = letters["trace", base64.b64encode(b"%d" % pmid).decode()]
        assert letter.reason == reason
        assert base64.b64decode(letter.key or "") == b"%d" % pmid
        assert (None if letter.value is None else base64.b64decode(letter.value)) == value
        assert letter.topic == topic_name(settings, PREFERENCES)


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
    ):
        assert line in page
    lag = [line for line in page.splitlines() if line.startswith("kailin_consumer_lag_records{")]
    assert len(lag) == PARTITIONS
    assert all(line.endswith(" 0.0") for line in lag)


async def test_a_port_that_is_taken_is_one_line(settings, start):
    first = start()
    await until(lambda: "working" in first.log)
    second = start(PORTS__APPEND=first.port)
    assert second.wait() == 2
    assert f"ports.append = {first.port}: cannot serve /metrics" in second.log
    assert "Traceback" not in second.log
