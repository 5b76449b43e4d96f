"""`kailin ingest files` on a real broker: what is published, and what is said when it cannot be."""

import asyncio
import gzip
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from engines import KafkaEngine, free_port
from infra.ingest import ingest_files, publish_file
from infra.kafka import Publisher, client_arguments, topic_name
from infra.pubmed_xml import read_file
from infra.settings import Kafka, Settings
from infra.topic_admin import create_topics
from streams.codec import decode
from streams.records import Article
from streams.topics import ARTICLES

SAMPLE = Path(__file__).parent.parent / "data" / "pubmed_sample.xml"


@pytest.fixture
def settings(kafka_broker: KafkaEngine) -> Settings:
    return Settings(
        kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}.")
    )


def published(settings: Settings) -> list[tuple[bytes, bytes | None]]:
    """Everything in the topic of articles: keys and values, each partition in its order."""

    async def read() -> list[tuple[bytes, bytes | None]]:
        name = topic_name(settings, ARTICLES)
        consumer = AIOKafkaConsumer(**client_arguments(settings))
        await consumer.start()
        try:
            partitions = [TopicPartition(name, number) for number in range(ARTICLES.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            found = []
            while any([await consumer.position(p) < end for p, end in ends.items()]):
                for messages in (await consumer.getmany(timeout_ms=500)).values():
                    found += [(message.key, message.value) for message in messages]
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


async def arrived(settings: Settings) -> int:
    """How many messages the topic of articles holds."""
    name = topic_name(settings, ARTICLES)
    consumer = AIOKafkaConsumer(**client_arguments(settings))
    await consumer.start()
    try:
        partitions = [TopicPartition(name, number) for number in range(ARTICLES.partitions)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()


def citations(pmids: range, title: str = "A title.") -> str:
    return "".join(
        f"<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article>"
        f"<ArticleTitle>{title}</ArticleTitle></Article></MedlineCitation></PubmedArticle>\n"
        for pmid in pmids
    )


def write(path: Path, content: str) -> Path:
    raw = f"<PubmedArticleSet>{content}</PubmedArticleSet>".encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.kafka
@pytest.mark.parametrize("backfill", [True, False])
def test_articles_are_keyed_by_pmid_and_deletions_are_tombstones(
    settings: Settings, backfill: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest_files([SAMPLE], settings, backfill) == 0
    found = dict(published(settings))
    expected = {
        b"%d" % entry.pmid: entry
        for entry in read_file(SAMPLE, corpus=backfill, arrived=datetime.now(UTC))
        if isinstance(entry, Article)
    }
    assert set(found) == expected.keys() | {b"11098", b"11099"}
    assert found[b"11098"] is found[b"11099"] is None
    for key, article in expected.items():
        value = found[key]
        assert value is not None
        got = decode(Article, value)
        assert (got.pmid, got.title, got.mesh) == (article.pmid, article.title, article.mesh)
        assert (got.corpus, got.source) == (backfill, "pubmed_sample.xml")
    assert "12 published" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.kafka
def test_a_damaged_file_keeps_what_came_before_and_the_next_file_is_read(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "a-damaged.xml"
    whole = write(damaged, citations(range(1, 51))).read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    before = whole[: len(whole) // 2].count(b"</PubmedArticle>")
    (tmp_path / "b-wrong.xml").write_text("<html/>")
    (tmp_path / "notes.txt").write_text("not looked at")
    write(tmp_path / "c-good.xml.gz", citations(range(101, 111)))

    assert ingest_files([tmp_path, tmp_path / "missing.xml"], settings, False) == 1

    keys = sorted(int(key) for key, _ in published(settings))
    assert keys == [*range(1, before + 1), *range(101, 111)]
    lines = capsys.readouterr().err.splitlines()
    said = [[line for line in lines if line.startswith(str(tmp_path / name))] for name in (
        "a-damaged.xml: line 26, column", "b-wrong.xml: line 1", "missing.xml: cannot be read"
    )]  # fmt: skip
    assert [len(found) for found in said] == [1, 1, 1]
    assert f"({before} entries were read before)" in said[0][0]
    assert f"{before + 10} published" in lines[-1]
    assert "notes.txt" not in "".join(lines)


@pytest.mark.kafka
def test_a_record_too_large_is_named_and_the_others_are_published(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = "x" * (ARTICLES.max_message - 2000)
    content = (
        citations(range(1, 2))
        + citations(range(2, 3), title=fits)
        + citations(range(3, 4), title=fits + "x" * 3000)
        + citations(range(4, 5))
        + citations(range(1))
    )
    assert ingest_files([write(tmp_path / "large.xml", content)], settings, False) == 1
    assert sorted(int(key) for key, _ in published(settings)) == [1, 2, 4]
    lines = capsys.readouterr().err.splitlines()
    (large,) = [line for line in lines if "PMID 3: too large: " in line]
    assert f"takes {ARTICLES.max_message:,} at most" in large
    assert sum("entry 5: skipped: PMID" in line for line in lines) == 1
    assert "3 published" in lines[-1]
    assert "2 failed" in lines[-1]


@pytest.mark.kafka
def test_states_of_one_citation_stay_in_file_order(settings: Settings, tmp_path: Path) -> None:
    """More of them than may wait for confirmation at once, so that sends overlap."""
    states = "".join(citations(range(7, 8), title=f"State {n}.") for n in range(2000))
    assert ingest_files([write(tmp_path / "states.xml", states)], settings, False) == 0
    titles = [decode(Article, value).title for _, value in published(settings) if value]
    assert titles == [f"State {n}." for n in range(2000)]


@pytest.mark.kafka
def test_selected_articles_only(settings: Settings) -> None:
    async def publish() -> tuple[int, int]:
        await create_topics(settings, [ARTICLES])
        async with Publisher(settings) as publisher:
            tally = await publish_file(
                SAMPLE,
                publisher,
                corpus=False,
                select=lambda article: bool(article.mesh and article.abstract),
                skip=2,
                limit=5,
            )
        return tally.published, tally.deleted

    assert asyncio.run(publish()) == (5, 0)
    # 11008 has no abstract.
    assert sorted(int(key) for key, _ in published(settings)) == [11003, 11004, 11005, 11006, 11007]


@pytest.mark.kafka
def test_a_broker_killed_on_the_way_loses_nothing(
    settings: Settings, kafka_broker: KafkaEngine, tmp_path: Path
) -> None:
    path = write(tmp_path / "many.xml.gz", citations(range(1, 20_001), title="word " * 200))

    before_the_crash: list[int] = []

    def crash() -> None:
        while not before_the_crash:
            time.sleep(0.1)
            before_the_crash.extend([size] if (size := asyncio.run(arrived(settings))) else [])
        kafka_broker.kill()
        kafka_broker.start()

    asyncio.run(create_topics(settings, [ARTICLES]))

    crashing = threading.Thread(target=crash)
    crashing.start()
    try:
        assert ingest_files([path], settings, False) == 0
    finally:
        crashing.join()
    assert 0 < before_the_crash[0] < 20_000
    found = [int(key) for key, _ in published(settings)]
    assert len(found) == len(set(found)) == 20_000


def test_no_broker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest_files([SAMPLE], Settings(kafka=Kafka(port=free_port())), False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka.port = ")


def test_a_wrong_certificate_setting_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = Kafka(security_protocol="SSL", ca_file=tmp_path / "none.pem")
    assert ingest_files([SAMPLE], Settings(kafka=kafka), False) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka.ca_file = ")
