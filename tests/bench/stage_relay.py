"""Records a second through the stages, against a bare faust relay with as many hops.

    python tests/bench/stage_relay.py [--records 3000]

Both take the same articles from a real broker through four hops in one process: the stages
generate, retrieve, score and prefer, with a model that answers at once and a search in memory; and
four faust agents that do nothing but send on the bytes that they get, as faust does by default
(sends not awaited, acked when sent). Aim: at least half the relay's rate.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import faust  # noqa: E402
import numpy as np  # noqa: E402
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # noqa: E402
from prometheus_client import CollectorRegistry  # noqa: E402

from consumers import agent  # noqa: E402
from consumers.generate import Generator, generate  # noqa: E402
from consumers.ports import Completion, Hit, Hits, Prompted, Vector  # noqa: E402
from consumers.prefer import prefer  # noqa: E402
from consumers.retrieve import retrieve  # noqa: E402
from consumers.score import score  # noqa: E402
from consumers.stage import Kafka, Message, Policy, Stage  # noqa: E402
from engines import running_kafka  # noqa: E402
from fakes import records  # noqa: E402
from infra.kafka import client_arguments, topic_name  # noqa: E402
from infra.settings import Settings  # noqa: E402
from infra.topic_admin import create_topics  # noqa: E402
from streams.citation import AbstractSection  # noqa: E402
from streams.codec import encode  # noqa: E402
from streams.mesh import Descriptor, build  # noqa: E402
from streams.metrics import Metrics  # noqa: E402
from streams.questions import Limits  # noqa: E402
from streams.records import Record  # noqa: E402
from streams.similarity import Similarity  # noqa: E402
from streams.topics import (  # noqa: E402
    ALIGNMENTS,
    ARTICLES,
    CONTEXTS,
    PREFERENCES,
    QUESTIONS,
    Topic,
)

HOPS = (ARTICLES, QUESTIONS, CONTEXTS, ALIGNMENTS, PREFERENCES)
# Records that go through before the clock starts, so that every hop has its partitions.
WARM_UP = 100
ABSTRACT = "Aggregation of platelets fell by half within a week of treatment. " * 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=3000)
    count = parser.parse_args().records
    logging.disable(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
    ):
        rates = {
            name: asyncio.run(measure(name, run, kafka.bootstrap, Path(directory), count))
            for name, run in (("relay", run_relay), ("stages", run_stages))
        }
    ratio = rates["stages"] / rates["relay"]
    print(f"bare faust relay, 4 hops: {rates['relay']:,.0f} records/s")
    print(f"four stages:              {rates['stages']:,.0f} records/s")
    print(f"ratio: {ratio:.0%} of the relay (aim: at least 50 %)")


Run = Callable[[Settings, Path, asyncio.Event], Any]


async def measure(name: str, run: Run, bootstrap: str, directory: Path, count: int) -> float:
    """Records a second, from the first sent to the last at the last hop; all hops work by then."""
    settings = Settings(kafka={"bootstrap": bootstrap, "prefix": f"{name}."}, data=directory)
    await create_topics(settings)
    stop = asyncio.Event()
    working = asyncio.create_task(run(settings, directory, stop))
    last = topic_name(settings, PREFERENCES)
    partitions = [TopicPartition(last, n) for n in range(PREFERENCES.partitions)]
    sections = (AbstractSection(text=ABSTRACT),)
    articles = [encode(records.article(n, sections=sections)) for n in range(1, count + 1)]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    async with producer, consumer:

        async def through(number: int) -> None:
            while sum((await consumer.end_offsets(partitions)).values()) < number:
                assert not working.done(), working
                await asyncio.sleep(0.05)

        async def send(article: bytes, key: int) -> None:
            await producer.send(topic_name(settings, ARTICLES), article, key=b"%d" % key)

        for key, article in enumerate(articles[:WARM_UP]):
            await send(article, key)
        await through(WARM_UP)
        began = time.monotonic()
        for key, article in enumerate(articles):
            await send(article, key)
        await through(WARM_UP + count)
        rate = count / (time.monotonic() - began)
    stop.set()
    with suppress(TimeoutError):
        await asyncio.wait_for(working, 30)
    return rate


async def run_relay(settings: Settings, directory: Path, stop: asyncio.Event) -> None:
    apps = [relay(settings, directory, *hop) for hop in pairwise(HOPS)]
    await asyncio.gather(*(app.start() for app in apps))
    await stop.wait()
    await asyncio.gather(*(app.stop() for app in apps))


def relay(settings: Settings, directory: Path, source: Topic, sink: Topic) -> faust.App:
    scratch = directory / "relay" / source.name
    scratch.mkdir(parents=True)
    app = faust.App(
        f"relay.{source.name}",
        broker=f"kafka://{settings.kafka.servers}",
        topic_disable_leader=True,
        web_enabled=False,
        datadir=str(scratch),
        store="memory://",
    )
    taken = app.topic(topic_name(settings, source), key_type=bytes, value_type=bytes)
    sent = app.topic(topic_name(settings, sink), key_type=bytes, value_type=bytes)

    @app.agent(taken)
    async def pass_on(stream: Any) -> None:
        async for event in stream.events():
            await sent.send(key=event.key, value=event.value)

    return app


async def run_stages(settings: Settings, directory: Path, stop: asyncio.Event) -> None:
    stages = [
        Stage(name="generate", source=ARTICLES, sink=QUESTIONS, handle=ask),
        Stage(name="retrieve", source=QUESTIONS, sink=CONTEXTS, handle=find),
        Stage(name="score", source=CONTEXTS, sink=ALIGNMENTS, handle=align),
        Stage(name="prefer", source=ALIGNMENTS, sink=PREFERENCES, handle=choose),
    ]
    metrics = Metrics(CollectorRegistry())
    await asyncio.gather(
        *(
            agent.run(
                stage,
                kafka=Kafka(
                    client=client_arguments(settings),
                    group=f"stages.{stage.name}",
                    topic_name=lambda topic: topic_name(settings, topic),
                ),
                policy=Policy(),
                metrics=metrics,
                scratch=directory,
                stop=stop,
            )
            for stage in stages
        )
    )


async def at_once(request: Prompted) -> Completion:
    text = f"Does {request.model} lower the aggregation of platelets in adults?"
    return Completion(text=text, finished=True, prompt_tokens=300, completion_tokens=12)


async def embed(text: str) -> Vector:
    return np.ones(1, dtype=np.float32)


FOUND = tuple(
    Hit(pmid=n, title=f"Title {n}", abstract=ABSTRACT, mesh=("D001241", "D010974"))
    for n in range(1, 5)
)
GENERATORS = [
    Generator(
        name=name,
        model=name,
        revision="base",
        prompt="question/1",
        temperature=0.7,
        top_p=0.95,
        max_tokens=64,
        attempts=3,
        ask=at_once,
    )
    for name in ("theta1", "theta2")
]
MESH = [
    Descriptor("D000001", "Chemicals", ("D02",)),
    Descriptor("D001241", "Aspirin", ("D02.455",)),
    Descriptor("D010974", "Platelet Aggregation", ("G09.188",)),
]
SCORER = Similarity(build("small", MESH))


async def search(question: str, vector: Vector | None, **_: Any) -> Hits:
    return Hits(bm25=FOUND, dense=FOUND)


async def lookup(pmids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    return {}


async def ask(message: Message[Any]) -> Sequence[Record]:
    asked = message.record
    return [await generate(asked, role="preference", generators=GENERATORS, limits=Limits())]


async def find(message: Message[Any]) -> Sequence[Record]:
    how: dict[str, Any] = {"mode": "hybrid", "k": 4, "depth": 50, "rrf_k": 60}
    return [await retrieve(message.record, embed=embed, search=search, lookup=lookup, **how)]


async def align(message: Message[Any]) -> Sequence[Record]:
    return [score(message.record, SCORER)]


async def choose(message: Message[Any]) -> Sequence[Record]:
    return [prefer(message.record, 0.01)]


if __name__ == "__main__":
    main()
