"""Records a second by the number of workers, of stages that wait for something elsewhere.

    python tests/bench/worker_scaling.py [--seconds 20] [--window 4]

Every worker is a process of its own; the broker and Elasticsearch are real; the model and the
encoder are scripted servers that answer after a second, whatever comes in. First the generate stage
with 1, 2, 4, 8 and 16 workers over a topic of 16 partitions: aim, linear. Then all stages from
generate to append with one worker each against three, over 6 partitions as in the table. A worker
has few messages in flight, so that the machine's cores do not bound what is measured; the rates are
those of a steady state, with all partitions held and messages waiting in each.
"""
# ruff: noqa: E402

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from engines import KafkaEngine, running_elasticsearch, running_kafka
from fakes import records
from faults.service import DIMENSIONS, MESH
from infra.kafka import Publisher, topic_name
from infra.settings import Settings
from infra.topic_admin import create_topics
from streams.topics import ARTICLES, PREFERENCES, QUESTIONS, Topic
from worker_engine import Workers, running_workers

ANSWERS_AFTER = 1.0
WORKERS = (1, 2, 4, 8, 16)
STAGES = ("generate", "retrieve", "score", "prefer")
# How long the partitions must stay where they are before the clock starts, in seconds.
SETTLED = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, each time")
    parser.add_argument("--window", type=int, default=4, help="messages in flight of a worker")
    parser.add_argument("--part", choices=("generate", "stages"), help="only this one")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
        running_elasticsearch(Path(directory) / "elasticsearch", java=()) as search,
        slow_server() as url,
    ):
        bench = Bench(Path(directory), kafka, search.url, url, given.seconds, given.window)
        if given.part != "stages":
            bench.generate()
        if given.part != "generate":
            bench.all_stages()


@contextmanager
def slow_server() -> Iterator[str]:
    """A model and encoder in a process of its own; its address."""
    command = [sys.executable, "-m", "fakes.model_server", "--delay", str(ANSWERS_AFTER)]
    command += ["--dimensions", str(DIMENSIONS)]
    with subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Bench:
    def __init__(
        self,
        directory: Path,
        kafka: KafkaEngine,
        search: str,
        models: str,
        seconds: float,
        window: int,
    ) -> None:
        self._directory = directory
        self._kafka = kafka
        self._search = search
        self._models = models
        self._seconds = seconds
        self._window = window

    def generate(self) -> None:
        """The generate stage alone."""
        print(f"generate, whose model answers after {ANSWERS_AFTER:g} s, over 16 partitions:")
        first = 0.0
        for number in WORKERS:
            with self._deployment(partitions=16, records_=self._enough(number)) as workers:
                rate = self._rate(workers, {"generate": number}, 16, QUESTIONS)
            first = first or rate
            print(
                f"{number:4} workers {rate:7.1f} records/s, {rate / first:5.2f} of one", flush=True
            )

    def all_stages(self) -> None:
        """Every stage from generate to prefer, and one that appends."""
        print(
            f"generate to append, model and encoder answer after {ANSWERS_AFTER:g} s, 6 partitions:"
        )
        rates = []
        for number in (1, 3):
            with self._deployment(partitions=6, records_=self._enough(number)) as workers:
                workers.start("append")
                rates.append(self._rate(workers, dict.fromkeys(STAGES, number), 6, PREFERENCES))
            print(f"{number:4} of each  {rates[-1]:7.1f} records/s", flush=True)
        print(f"ratio: {rates[1] / rates[0]:.2f} of 3")

    def _enough(self, workers: int) -> int:
        """Records for the time that it takes to settle and to measure."""
        return int(workers * self._window / ANSWERS_AFTER * (self._seconds + 90)) + 200

    @contextmanager
    def _deployment(self, *, partitions: int, records_: int) -> Iterator[Workers]:
        own = uuid.uuid4().hex[:8]
        directory = self._directory / own
        directory.mkdir()
        (directory / "mesh.tsv").write_text(MESH)
        settings = {
            "data": str(directory / "data"),
            "kafka": {"bootstrap": self._kafka.bootstrap, "prefix": f"{own}."},
            "elasticsearch": {"url": self._search, "alias": f"articles-{own}"},
            "servers": {"local": {"url": self._models}},
            "embedder": {"url": self._models, "dimensions": DIMENSIONS},
            "mesh": {"edition": "small", "source": str(directory / "mesh.tsv")},
            "workers": {"window": self._window},
        }
        asyncio.run(prepare(Settings(**settings), partitions, records_))
        with running_workers(directory, settings) as workers:
            yield workers

    def _rate(
        self, workers: Workers, numbers: dict[str, int], partitions: int, last: Topic
    ) -> float:
        """Records a second that come out at the end, once the partitions stay where they are."""
        for stage, number in numbers.items():
            workers.start(stage, number)

        def settled() -> bool:
            return all(workers.shared(stage, partitions) for stage in numbers)

        workers.wait_until(settled, "share of the partitions", seconds=240)
        while not asyncio.run(count(workers.settings, last)):
            time.sleep(0.5)
        time.sleep(SETTLED)
        assert settled()
        return asyncio.run(measure(workers.settings, last, self._seconds))


async def prepare(settings: Settings, partitions: int, number: int) -> None:
    """The topics, that of articles with so many partitions, and articles in it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.servers)
    await admin.start()
    name = topic_name(settings, ARTICLES)
    await admin.create_topics([NewTopic(name, partitions, 1)])
    await admin.close()
    await create_topics(settings)
    async with Publisher(settings) as publisher:
        articles = [records.article(n) for n in range(1, number + 1)]
        sent: list[Any] = [await publisher.enqueue(ARTICLES, article) for article in articles]
        await asyncio.gather(*sent)


async def count(settings: Settings, topic: Topic) -> int:
    """Messages of a topic."""
    partitions = [TopicPartition(topic_name(settings, topic), n) for n in range(topic.partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka.servers) as consumer:
        return sum((await consumer.end_offsets(partitions)).values())


async def measure(settings: Settings, topic: Topic, seconds: float) -> float:
    """Messages a second that come into a topic."""
    before, began = await count(settings, topic), time.monotonic()
    await asyncio.sleep(seconds)
    return (await count(settings, topic) - before) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
