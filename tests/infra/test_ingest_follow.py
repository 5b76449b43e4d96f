"""`--follow` and several ingests of one deployment, as processes."""

import asyncio
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engines import KafkaEngine, free_port
from fakes.ncbi_server import NcbiServer, running_ncbi
from fakes.pubmed_records import Record, records
from infra.settings_file import load
from infra.status import samples
from infra.topic_admin import create_topics
from published import published
from streams.topics import ARTICLES, PROGRESS, RETRACTIONS

pytestmark = pytest.mark.kafka

TODAY = datetime.now(UTC).date()


@pytest.fixture
def server() -> Iterator[NcbiServer]:
    with running_ncbi() as running:
        yield running


@pytest.fixture
def config(kafka_broker: KafkaEngine, server: NcbiServer, tmp_path: Path) -> Path:
    path = tmp_path / "kailin.toml"
    path.write_text(
        f'data = "{tmp_path}/data"\n'
        f'[kafka]\nbootstrap = "{kafka_broker.bootstrap}"\nprefix = "t{uuid.uuid4().hex[:8]}."\n'
        f'[ncbi]\nemail = "team@example.org"\neutils = "{server.eutils}"\n'
        f'files = "{server.files}"\npoll = 1.0\noverlap = 1\nbatch = 20\n'
        f'[follow]\nnlm = ["updates"]\nentrez = ["asthma[ti]"]\n[ports]\ningest = {free_port()}\n'
    )
    return path


def start(config: Path, *command: str) -> "subprocess.Popen[bytes]":
    with (config.parent / "ingest.log").open("ab") as log:
        return subprocess.Popen(
            (sys.executable, "-m", "infra.cli", "--config", str(config), "ingest", *command),
            stdout=log,
            stderr=log,
        )


def wait_until(condition: Callable[[], object], config: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        log = (config.parent / "ingest.log").read_text()
        assert time.monotonic() < deadline, f"not within {seconds:g} s\n{log[-3000:]}"
        time.sleep(0.3)


def test_what_is_new_and_changed_arrives_by_itself(server: NcbiServer, config: Path):
    server.limits = (1000, 1000)
    old = records(30, first=TODAY - timedelta(days=3))
    server.holdings.put(*old)
    server.publish("updatefiles", "pubmed26n0001.xml.gz", [Record(pmid=900)])
    settings = load(config)
    asyncio.run(create_topics(settings, [ARTICLES, RETRACTIONS, PROGRESS]))
    process = start(config, "follow")
    try:
        wait_until(lambda: len(published(settings).alive()) == 31, config)
        server.holdings.put(
            Record(pmid=500, title="On asthma.", edat=TODAY, mdat=TODAY),
            replace(old[3], abstract="Revised.", mdat=TODAY),
        )
        server.publish("updatefiles", "pubmed26n0002.xml.gz", [Record(pmid=901)], [(900, 1)])
        wait_until(lambda: 500 in published(settings).states, config)
        wait_until(lambda: published(settings).changes(old[3].pmid) == ["new", "text"], config)
        wait_until(lambda: 901 in published(settings).states, config)
        assert published(settings).changes(900) == ["new", "deleted"]
        found = {
            (s.name, *sorted(s.labels.values())): s.value
            for s in samples(settings.ports.host, settings.ports.ingest) or []
        }
        assert found["kailin_citations_total", "entrez", "text"] == 1
        assert found["kailin_citations_total", "deleted", "nlm"] == 1
        assert found["kailin_ncbi_requests_total", "esearch", "ok"] >= 3
        assert found["kailin_ingest_units_total", "done", "nlm"] == 2
        assert found["kailin_ingest_units_failed", "nlm"] == 0
        for source in ("entrez", "nlm"):
            as_of = found["kailin_ingest_current_timestamp_seconds", source]
            assert time.time() - as_of < 60
        # One that is run by hand has its turn between two polls.
        (config.parent / "list.txt").write_text("7\n")
        by_hand = start(config, "pmids", str(config.parent / "list.txt"))
        assert by_hand.wait(60) == 0
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "Traceback" not in (config.parent / "ingest.log").read_text()


def test_two_ingests_share_one_rate(server: NcbiServer, config: Path):
    server.holdings.put(*records(200, first=TODAY - timedelta(days=3)))
    began = [start(config, "entrez", "--query", query) for query in ("asthma", "treatment")]
    assert [process.wait(120) for process in began] == [0, 0]
    times = [asked.at for asked in server.asked]
    assert len(times) >= 22
    # NCBI's limit is 3 a second, for the address as a whole.
    assert min(later - first for first, later in zip(times, times[3:], strict=False)) >= 1.0
    assert "429" not in (config.parent / "ingest.log").read_text()
    assert len(published(load(config)).alive()) == 200


def test_the_same_ingest_twice_is_refused(server: NcbiServer, config: Path):
    server.holdings.put(*records(200, first=TODAY))
    first = start(config, "entrez", "--query", "asthma")
    wait_until(lambda: server.asked, config)
    second = start(config, "entrez", "--query", "asthma")
    assert second.wait(60) == 1
    assert "runs already on this machine" in (config.parent / "ingest.log").read_text()
    assert first.wait(120) == 0
