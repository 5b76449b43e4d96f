"""`kailin ingest files` on a real broker: what is published, and what is said when it cannot be."""

import asyncio
import gzip
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines import KafkaEngine, free_port
from infra.ingest_commands import ingest_files
from infra.pubmed_xml import read_file
from infra.settings import Kafka, Settings
from infra.topic_admin import create_topics
from published import messages, published
from streams.citation import Article
from streams.topics import ARTICLES

SAMPLE = Path(__file__).parent.parent / "data" / "pubmed_sample.xml"


@pytest.fixture
def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}."),
    )


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
    found = published(settings).states
    expected = {
        entry.pmid: entry
        for entry in read_file(SAMPLE, corpus=backfill, arrived=datetime.now(UTC))
        if isinstance(entry, Article)
    }
    assert set(found) == expected.keys() | {11098, 11099}
    assert found[11098] == found[11099] == [None]
    for pmid, article in expected.items():
        got = found[pmid][-1]
        assert got is not None
        assert (got.pmid, got.title, got.mesh) == (article.pmid, article.title, article.mesh)
        assert (got.corpus, got.source) == (backfill, "pubmed_sample.xml")
    assert "12 new, 2 deleted, 0 failed" in capsys.readouterr().err.splitlines()[-1]


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

    assert sorted(published(settings).states) == [*range(1, before + 1), *range(101, 111)]
    lines = capsys.readouterr().err.splitlines()
    said = [[line for line in lines if line.startswith(str(tmp_path / name))] for name in (
        "a-damaged.xml: line 26, column", "b-wrong.xml: line 1", "missing.xml: cannot be read"
    )]  # fmt: skip
    assert [len(found) for found in said] == [1, 1, 1]
    assert f"({before} entries were read before)" in said[0][0]
    assert f"{before + 10} new" in lines[-1]
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
    assert sorted(published(settings).states) == [1, 2, 4]
    lines = capsys.readouterr().err.splitlines()
    (large,) = [line for line in lines if "PMID 3: too large: " in line]
    assert f"takes {ARTICLES.max_message:,} at most" in large
    assert sum("entry 5: PMID" in line for line in lines) == 1
    assert "3 new, 2 failed" in lines[-1]


@pytest.mark.kafka
def test_states_of_one_citation_stay_in_file_order(settings: Settings, tmp_path: Path) -> None:
    """More of them than one transaction holds."""
    states = "".join(citations(range(7, 8), title=f"State {n}.") for n in range(2000))
    assert ingest_files([write(tmp_path / "states.xml", states)], settings, False) == 0
    states = published(settings).states[7]
    assert [article and article.title for article in states] == [f"State {n}." for n in range(2000)]
    assert published(settings).changes(7) == ["new", *["text"] * 1999]


@pytest.mark.kafka
def test_a_file_read_again_changes_nothing(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "some.xml", citations(range(1, 11)))
    assert ingest_files([path], settings, False) == 0
    assert ingest_files([path], settings, False) == 0
    assert "10 unchanged" in capsys.readouterr().err.splitlines()[-1]
    assert all(len(states) == 1 for states in published(settings).states.values())


@pytest.mark.kafka
def test_the_order_of_nlms_files_decides_and_not_that_of_reading(
    settings: Settings, tmp_path: Path
) -> None:
    later = write(tmp_path / "pubmed26n0002.xml.gz", citations(range(1, 4), "Later."))
    deleted = "<DeleteCitation><PMID>1</PMID><PMID>2</PMID><PMID>9</PMID></DeleteCitation>"
    last = write(tmp_path / "pubmed26n0003.xml", deleted + citations(range(2, 3), "Later."))
    first = write(tmp_path / "pubmed26n0001.xml.gz", citations(range(1, 11), "Earlier."))
    assert ingest_files([later, last, first], settings, False) == 0
    found = published(settings)
    assert found.changes(1) == ["new", "deleted"]
    assert found.changes(2) == ["new", "deleted", "reinstated"]
    assert found.changes(3) == ["new"]
    assert found.changes(9) == ["deleted"]
    assert found.changes(10) == ["new"]
    assert {pmid: r.reason for pmid, r in found.retractions.items()} == {
        1: "deleted",
        2: None,
        9: "deleted",
    }


@pytest.mark.kafka
def test_a_broker_killed_on_the_way_loses_nothing(
    settings: Settings, kafka_broker: KafkaEngine, tmp_path: Path
) -> None:
    path = write(tmp_path / "many.xml.gz", citations(range(1, 20_001), title="word " * 200))

    before_the_crash: list[int] = []

    def crash() -> None:
        while not before_the_crash:
            time.sleep(0.1)
            before_the_crash.extend([size] if (size := len(messages(settings, ARTICLES))) else [])
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
    found = published(settings).states
    assert len(found) == 20_000
    assert {len(states) for states in found.values()} == {1}


def test_no_broker_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data=tmp_path, kafka=Kafka(port=free_port()))
    assert ingest_files([SAMPLE], settings, False) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka.port = ")


def test_a_wrong_certificate_setting_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = Kafka(security_protocol="SSL", ca_file=tmp_path / "none.pem")
    assert ingest_files([SAMPLE], Settings(data=tmp_path, kafka=kafka), False) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kafka.ca_file = ")
