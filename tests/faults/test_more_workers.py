"""Workers come and go under load: every partition has one, and every record ends in one row."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from consumers.stage import TOO_MANY_DEAD_LETTERS
from engines import ElasticsearchEngine, KafkaEngine
from fakes import records
from fakes.model_server import Reply
from faults.service import DIMENSIONS, MESH, running_models
from infra import topic_view
from infra.kafka import Publisher, topic_name
from infra.settings import Settings
from infra.tables import TableError, select
from infra.topic_admin import create_topics
from streams.records import DeadLetter
from streams.topics import ALIGNMENTS, ARTICLES, DEAD_LETTERS, QUESTIONS
from worker_engine import Workers, running_workers

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow]

RECORDS = 400
# Those that wait for something elsewhere, and the two after them.
SCALED = ("generate", "retrieve")
OTHERS = ("score", "prefer", "append")
PARTITIONS = QUESTIONS.partitions


@pytest.fixture
def workers(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
) -> Iterator[Workers]:
    own = uuid.uuid4().hex[:8]
    (tmp_path / "mesh.tsv").write_text(MESH)
    with running_models(lambda _: Reply(delay=0.3)) as models:
        settings = {
            "data": str(tmp_path / "data"),
            "kafka": {"bootstrap": kafka_broker.bootstrap, "prefix": f"{own}."},
            "elasticsearch": {"url": elasticsearch_node.url, "alias": f"articles-{own}"},
            "servers": {"local": {"url": models.url}},
            "embedder": {"url": models.url, "dimensions": DIMENSIONS},
            "mesh": {"edition": "small", "source": str(tmp_path / "mesh.tsv")},
            "append": {"rows": 100, "seconds": 0.5},
            "workers": {"window": 4},
        }
        asyncio.run(create_topics(Settings(**settings)))
        with running_workers(tmp_path, settings) as running:
            yield running


async def publish(settings: Settings) -> None:
    async with Publisher(settings) as publisher:
        await asyncio.gather(
            *(publisher.send(ARTICLES, records.article(n)) for n in range(1, RECORDS + 1))
        )


def appended(settings: Settings) -> list[int]:
    """The PMID of every row of every table that records end in."""
    found: list[int] = []
    for table in ("preferences", "dropped", "parked"):
        try:
            found += [row["pmid"] for row in select(settings, table, "select pmid from rows")]
        except TableError:
            continue
    return found


def test_three_workers_share_the_work_of_one_and_lose_none_of_it(workers: Workers) -> None:
    for stage in (*SCALED, *OTHERS):
        workers.start(stage)
    asyncio.run(publish(workers.settings))
    workers.wait_until(lambda: workers.shared("generate", PARTITIONS), "worker at work")
    workers.wait_until(lambda: appended(workers.settings), "first row")

    # Two more of each take their part, while records are on their way.
    more = {stage: workers.start(stage, 2) for stage in SCALED}
    for stage in SCALED:
        workers.wait_until(lambda s=stage: workers.shared(s, PARTITIONS), f"three of {stage}")
        assert workers.shares(stage) == [2, 2, 2]

    # One of each dies, and the others take over what it had in hand.
    for stage in SCALED:
        more[stage][0].kill()
    for stage in SCALED:
        workers.wait_until(lambda s=stage: workers.shared(s, PARTITIONS), f"two of {stage}")
        assert workers.shares(stage) == [3, 3]

    everyone = set(range(1, RECORDS + 1))
    workers.wait_until(lambda: set(appended(workers.settings)) == everyone, "row for every record")
    assert [pmid for pmid, times in Counter(appended(workers.settings)).items() if times > 1] == []
    letters = asyncio.run(topic_view.read(workers.settings, DEAD_LETTERS, DeadLetter))
    assert letters == {}


def test_a_stage_at_its_dead_letter_limit_stands_still_where_it_would_be_started_again(
    kafka_broker: KafkaEngine, tmp_path: Path
) -> None:
    settings = {
        "data": str(tmp_path / "data"),
        "kafka": {"bootstrap": kafka_broker.bootstrap, "prefix": f"{uuid.uuid4().hex[:8]}."},
        "workers": {"window": 1, "dead_letter_limit": 3},
    }
    asyncio.run(create_topics(Settings(**settings)))
    with running_workers(tmp_path, settings) as workers:
        asyncio.run(poison(workers.settings))
        (worker,) = workers.start("prefer", 1, "--stay")
        workers.wait_until(lambda: "stays stopped" in workers.log("prefer"), "stop")
        assert worker.process.poll() is None
        # Whoever looks whether it is ready finds that it is not.
        assert worker.partitions() == []
        letters = asyncio.run(topic_view.read(workers.settings, DEAD_LETTERS, DeadLetter))
        assert len(letters) == 3
        worker.process.terminate()
        assert worker.process.wait(20) == TOO_MANY_DEAD_LETTERS


async def poison(settings: Settings) -> None:
    """Messages that no stage can read."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.servers) as producer:
        for _ in range(6):
            await producer.send_and_wait(topic_name(settings, ALIGNMENTS), b"{", key=b"7")
