"""The append stage as a process, for tests: started, killed, and what it left in topics and tables.

with workers(settings, directory) as start:
    worker = start(APPEND__ROWS=10)
    await publish(settings, message(1), tie(2))
    worker.signal(signal.SIGTERM), worker.wait(), worker.kill(), worker.log
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from inspect import isawaitable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from deltalake import DeltaTable

from engines import free_port
from fakes.records import ideal, preference
from infra.kafka import client_arguments, topic_name
from infra.settings import Settings
from infra.tables import row_counts
from streams.codec import decode, encode
from streams.learning import TrainingData
from streams.records import DeadLetter
from streams.topics import (
    CONTROL,
    DEAD_LETTERS,
    IDEAL,
    PREFERENCES,
    RETRACTIONS,
    TRAINING_DATA,
    Topic,
)

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


async def make_settings(bootstrap: str, directory: Path) -> Settings:
    """Settings with a prefix and tables of their own, their topics made."""
    settings = Settings(
        tables=str(directory / "tables"),
        kafka={"bootstrap": bootstrap, "prefix": f"t{uuid4().hex[:8]}."},
        append={"rows": 100, "seconds": 0.2, "compact_every": 7},
    )
    await create_topics(settings)
    return settings


async def create_topics(settings: Settings) -> None:
    async with admin(settings) as client:
        await client.create_topics(
            [
                NewTopic(topic_name(settings, PREFERENCES), PARTITIONS, 1),
                NewTopic(topic_name(settings, IDEAL), PARTITIONS, 1),
                NewTopic(topic_name(settings, TRAINING_DATA), 1, 1),
                NewTopic(topic_name(settings, CONTROL), 1, 1),
                NewTopic(
                    topic_name(settings, RETRACTIONS),
                    1,
                    1,
                    topic_configs={"cleanup.policy": "compact"},
                ),
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


@contextmanager
def workers(settings: Settings, directory: Path) -> Iterator[Callable[..., Worker]]:
    """What starts a worker, with changed settings by keyword; all are killed in the end."""
    started: list[Worker] = []

    def begin(**changes: object) -> Worker:
        worker = Worker(settings, directory, **changes)
        started.append(worker)
        worker.start()
        return worker

    try:
        yield begin
    finally:
        for worker in started:
            worker.kill()
            print(worker.log[-4000:])


async def publish(
    settings: Settings, *messages: tuple[int, bytes | None], topic: Topic | None = None
) -> None:
    """Messages by PMID; a record's partition is a function of it.

    Each goes to the topic of its record, what is none to `preferences`, or all to `topic`.
    """
    producer = AIOKafkaProducer(**client_arguments(settings), enable_idempotence=True)
    await producer.start()
    try:
        sent = [
            await producer.send(
                topic_name(settings, topic or _topic(value)),
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


def _topic(value: bytes | None) -> Topic:
    return IDEAL if value and value.startswith(b'{"schema":"ideal/') else PREFERENCES


def message(pmid: int, **changes: object) -> tuple[int, bytes]:
    return pmid, encode(preference(pmid, **changes))


def tie(pmid: int) -> tuple[int, bytes]:
    return message(pmid, outcome="tie", reason="gap under the margin")


def answered(pmid: int, **changes: object) -> tuple[int, bytes]:
    """An ideal record, whose PMID no preference has: its id would be the same."""
    return pmid, encode(ideal(pmid, **changes))


def below(pmid: int) -> tuple[int, bytes]:
    return answered(pmid, outcome="below the gate", reason="low alignment", answer=None)


async def until(condition: Callable[[], object], within: float = 60) -> None:
    """Wait until a condition, plain or awaitable, holds."""
    deadline = time.monotonic() + within
    while not (await held if isawaitable(held := condition()) else held):
        assert time.monotonic() < deadline, f"not within {within} s"
        await asyncio.sleep(0.1)


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


async def training_data(settings: Settings) -> list[TrainingData]:
    name = topic_name(settings, TRAINING_DATA)
    return [decode(TrainingData, value or b"") for value in await all_messages(settings, name)]


async def dead_letters(settings: Settings) -> list[DeadLetter]:
    name = topic_name(settings, DEAD_LETTERS)
    return [decode(DeadLetter, value or b"") for value in await all_messages(settings, name)]
