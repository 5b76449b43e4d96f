"""A backup of a running service, everything lost, restored: each record once, none missing."""

import asyncio
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from rich.console import Console

from engines import ElasticsearchEngine, KafkaEngine, running_kafka
from fakes.model_server import Reply
from fakes.records import article, job
from faults.service import STAGES, Service, running_service
from infra import backup, restore, run_state
from infra.backup_manifest import NAME
from infra.elastic import connect, count
from infra.kafka import Publisher
from infra.settings import Settings
from infra.tables import open_table
from infra.topic_view import read
from published import messages
from streams.citation import MeshHeading
from streams.errors import Transient
from streams.learning import Job
from streams.topics import ARTICLES, JOBS, PROGRESS

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow]

MESH = (MeshHeading(ui="D000009", name="Aspirin"), MeshHeading(ui="D000003", name="Arrhythmias"))
CORPUS, BEFORE, LATER = range(1, 31), range(101, 161), range(201, 231)
# These have no MeSH, and wait in `parked`.
PARKED = range(101, 106)


@pytest.fixture
def other_broker(tmp_path: Path) -> Iterator[KafkaEngine]:
    with running_kafka(tmp_path / "another kafka") as kafka:
        yield kafka


def backed_up(settings: Settings, directory: Path, *, articles: bool = True) -> tuple[int, str]:
    said = io.StringIO()
    console = Console(file=said, width=200)
    return backup.run(settings, directory, articles=articles, console=console), said.getvalue()


def restored(settings: Settings, directory: Path) -> tuple[int, str]:
    said = io.StringIO()
    return restore.run(settings, directory, Console(file=said, width=200)), said.getvalue()


def publish(service: Service, pmids: range, *, corpus: bool = False) -> None:
    service.publish(
        [article(pmid, corpus=corpus, mesh=() if pmid in PARKED else MESH) for pmid in pmids]
    )


def keep(settings: Settings, kept: Job) -> None:
    async def send() -> None:
        async with Publisher(settings) as publisher:
            await publisher.send(JOBS, kept)

    asyncio.run(send())


def lose(service: Service) -> None:
    """Every process, the tables, and the index; the broker is not used any more."""
    for stage in list(service.processes):
        service.kill(stage)
    service.processes.clear()
    shutil.rmtree(service.settings.data)

    async def index() -> None:
        client = connect(service.settings.elasticsearch)
        await client.indices.delete(index=f"{service.settings.elasticsearch.alias}-000001")
        await client.close()

    asyncio.run(index())


def test_everything_lost_and_restored_has_each_record_once(
    kafka_broker: KafkaEngine,
    other_broker: KafkaEngine,
    elasticsearch_node: ElasticsearchEngine,
    tmp_path: Path,
):
    copy = tmp_path / "copy"
    (tmp_path / "then").mkdir()
    with running_service(tmp_path / "then", kafka_broker, elasticsearch_node) as then:
        then.start_all()
        publish(then, CORPUS, corpus=True)
        then.wait_until_searchable(len(CORPUS))
        publish(then, BEFORE[:30])
        keep(then.settings, job("aaaabbbbccccdddd", state="training", data_version=1))
        then.wait_until(lambda: len(then.rows()) >= 12, "the first rows")
        # The rest is on its way while the backup is made.
        then.models.script = lambda request: Reply(delay=60)
        publish(then, BEFORE[30:])
        then.wait_until(lambda: (then.sample("generate", "kailin_in_flight") or 0) >= 30, "work")
        status, said = backed_up(then.settings, copy)
        assert status == 0, said
        assert len(then.rows()) <= 30
        published = messages(then.settings, ARTICLES)
        lose(then)
        prefix, alias = then.settings.kafka.prefix, then.settings.elasticsearch.alias

    changes = {
        "kafka": {"bootstrap": other_broker.bootstrap, "prefix": prefix},
        "elasticsearch": {"url": elasticsearch_node.url, "alias": alias},
    }
    (tmp_path / "now").mkdir()
    with running_service(tmp_path / "now", other_broker, elasticsearch_node, **changes) as now:
        status, said = restored(now.settings, copy)
        assert status == 0, said

        assert by_partition(messages(now.settings, ARTICLES)) == by_partition(published)
        (kept,) = asyncio.run(read(now.settings, JOBS, Job)).values()
        assert (kept.state, kept.attempt) == ("failed", 0)
        assert open_table(now.settings, "preferences").version() >= kept.data_version > 0

        # Questions that are asked of an empty index find nothing.
        now.start("index")
        now.wait_until(lambda: indexed(now) == len(CORPUS) + len(BEFORE), "index, filled anew")
        for stage in STAGES[1:]:
            now.start(stage)
        publish(now, LATER)
        expected = {*BEFORE, *LATER}
        now.wait_until(lambda: {row["pmid"] for row in now.rows()} >= expected, "all rows")
        now.wait_until(lambda: idle(now), "the end of what is on its way")
        decided = Counter(row["pmid"] for row in now.rows() if row["table"] != "parked")
        assert decided == Counter(expected - set(PARKED))
        parked = {row["pmid"] for row in now.rows() if row["table"] == "parked"}
        assert parked == set(PARKED)
        assert now.dead_letters() == []
        now.wait_until(lambda: indexed(now) == len(CORPUS) + len(expected), "later ones, indexed")

        status, said = restored(now.settings, copy)
        assert status == 1
        assert "not empty: Kafka has had messages in" in said
        assert f"tables at {now.settings.tables_uri}: preferences" in said


def by_partition(found: Iterable[ConsumerRecord]) -> list[tuple[Any, ...]]:
    """What a topic holds, in the order of each partition."""
    ordered = sorted(found, key=lambda message: (message.partition, message.offset))
    return [(m.partition, m.key, m.value, m.timestamp) for m in ordered]


def idle(service: Service) -> bool:
    """Whether no stage has anything to do."""
    lags = [
        service.sample(stage, name)
        for stage in ("generate", "retrieve", "score", "prefer", "append")
        for name in ("kailin_consumer_lag_records", "kailin_in_flight")
    ]
    return not any(lags)


def indexed(service: Service) -> int:
    async def held() -> int:
        client = connect(service.settings.elasticsearch)
        alias = service.settings.elasticsearch.alias
        try:
            await client.indices.refresh(index=alias, ignore_unavailable=True)
            return await count(client, alias)
        except Transient:
            # An index that is being made has no shard yet.
            return 0
        finally:
            await client.close()

    return asyncio.run(held())


@pytest.fixture
def quiet(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
) -> Iterator[Service]:
    """A deployment with topics and nothing in them."""
    with running_service(tmp_path, kafka_broker, elasticsearch_node) as service:
        yield service


def test_half_a_backup_and_a_damaged_one_are_not_restored(quiet: Service, tmp_path: Path):
    settings = quiet.settings
    quiet.publish([article(1), article(2)])
    whole = tmp_path / "whole"
    assert backed_up(settings, whole)[0] == 0

    status, said = backed_up(settings, whole)
    assert (status, "expected an empty directory" in said) == (1, True)

    half = tmp_path / "half"
    shutil.copytree(whole, half)
    (half / NAME).unlink()
    status, said = restored(settings, half)
    assert (status, "holds no manifest.json" in said) == (1, True)

    dump = whole / "topics" / f"{ARTICLES.name}.parquet"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    status, said = restored(settings, whole)
    assert (status, "its content is not what was written" in said) == (1, True)
    dump.write_bytes(content[:-9])
    assert "bytes, expected" in restored(settings, whole)[1]


def test_a_restore_that_was_broken_off_is_known_by_the_next(quiet: Service, tmp_path: Path):
    settings = quiet.settings
    assert backed_up(settings, tmp_path / "copy")[0] == 0
    run_state.restoring(settings.data).parent.mkdir(parents=True, exist_ok=True)
    run_state.restoring(settings.data).write_text("there")
    status, said = restored(settings, tmp_path / "copy")
    assert (status, "was begun here and not finished" in said) == (1, True)


def test_without_articles_their_progress_is_left_out_too(quiet: Service, tmp_path: Path):
    """Or the ingest would take all that is in it for published."""
    quiet.publish([article(1), article(2)])
    assert backed_up(quiet.settings, tmp_path / "copy", articles=False)[0] == 0
    files = {path.name for path in (tmp_path / "copy" / "topics").iterdir()}
    assert not files & {f"{ARTICLES.name}.parquet", f"{PROGRESS.name}.parquet"}
    assert f"{JOBS.name}.parquet" in files
