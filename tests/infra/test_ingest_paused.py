"""`kailin pause ingest` on a real broker: what follows stands still, one by hand goes on."""

import asyncio
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import command, kailin
from engines import KafkaEngine, free_port
from fakes.ncbi_server import NcbiServer, running_ncbi
from fakes.pubmed_records import Record
from infra.settings_file import load
from infra.status import samples
from infra.topic_admin import create_topics
from published import published

pytestmark = pytest.mark.kafka


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
        f'files = "{server.files}"\npoll = 0.5\n'
        f'[follow]\nnlm = ["updates"]\n[ports]\ningest = {free_port()}\n'
    )
    asyncio.run(create_topics(load(path)))
    return path


def wait_until(condition: Callable[[], object], log: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def test_what_follows_stands_still_and_one_by_hand_goes_on(
    server: NcbiServer, config: Path, tmp_path: Path
):
    server.limits = (1000, 1000)
    server.publish("updatefiles", "pubmed26n0001.xml.gz", [Record(pmid=n) for n in range(1, 11)])
    settings, log = load(config), tmp_path / "ingest.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command(config, "ingest", "follow"), stdout=out, stderr=out)
    try:
        wait_until(lambda: len(published(settings).alive()) == 10, log)
        kailin(config, "pause", "ingest", "--why", "NLM is moving", "--by", "ana")

        def paused() -> bool:
            found = samples(settings.ports.host, settings.ports.ingest) or []
            return any(s.name == "kailin_paused" and s.value == 1 for s in found)

        wait_until(paused, log)
        server.publish("updatefiles", "pubmed26n0002.xml.gz", [Record(pmid=11)])
        time.sleep(2)
        asked = len(server.asked)
        time.sleep(3)
        assert len(server.asked) == asked
        assert 11 not in published(settings).states

        (tmp_path / "list.txt").write_text("12\n")
        server.holdings.put(Record(pmid=12))
        kailin(config, "ingest", "pmids", str(tmp_path / "list.txt"))
        assert 12 in published(settings).states
        assert 11 not in published(settings).states

        kailin(config, "resume", "ingest")
        wait_until(lambda: 11 in published(settings).states, log)
        assert sorted(published(settings).alive()) == list(range(1, 13))
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "ingest is paused by ana" in log.read_text()
    assert "Traceback" not in log.read_text()
