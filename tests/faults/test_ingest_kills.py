"""kill −9 of an ingest, twenty times: what is published is exactly what the server holds."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from engines import KafkaEngine
from fakes.ncbi_server import NcbiServer, running_ncbi
from fakes.pubmed_records import records
from infra.settings import Settings
from infra.settings_file import load
from published import Published, published

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

SEED = 20261124
KILLS = 20


@pytest.fixture
def server() -> Iterator[NcbiServer]:
    with running_ncbi(limits=(10_000, 10_000)) as running:
        yield running


@pytest.fixture
def config(kafka_broker: KafkaEngine, server: NcbiServer, tmp_path: Path) -> Path:
    path = tmp_path / "kailin.toml"
    path.write_text(
        f'data = "{tmp_path}/data"\n'
        f'[kafka]\nbootstrap = "{kafka_broker.bootstrap}"\nprefix = "t{uuid.uuid4().hex[:8]}."\n'
        f'[ncbi]\nemail = "team@example.org"\neutils = "{server.eutils}"\n'
        f'files = "{server.files}"\nrequests_per_second = 20.0\nbatch = 100\n'
        "retry_first = 0.01\nretry_longest = 0.1\n"
    )
    return path


def start(config: Path, *command: str) -> "subprocess.Popen[bytes]":
    log = (config.parent / "ingest.log").open("ab")
    return subprocess.Popen(
        (sys.executable, "-m", "infra.cli", "--config", str(config), "ingest", *command),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def kill_again_and_again(server: NcbiServer, config: Path, *command: str) -> int:
    """Kills the ingest at random moments of its work, then lets it end; how often it had work."""
    dice = random.Random(SEED)
    alive_at_kill = 0
    for _ in range(KILLS):
        asked = len(server.asked)
        process = start(config, *command)
        while process.poll() is None and len(server.asked) == asked:
            time.sleep(0.02)
        time.sleep(dice.uniform(0.0, 0.6))
        alive_at_kill += process.poll() is None
        # The process alone: what it started has to end by itself.
        process.kill()
        process.wait()
    process = start(config, *command)
    assert process.wait(300) == 0, (config.parent / "ingest.log").read_text()[-3000:]
    return alive_at_kill


def assert_each_state_once(found: Published, settings: Settings) -> None:
    repeated = [
        pmid
        for pmid, states in found.states.items()
        if any(
            a and b and (a.title, a.version) == (b.title, b.version) for a, b in pairwise(states)
        )
    ]
    assert repeated == []


def test_nlms_files_survive_twenty_kills(server: NcbiServer, config: Path):
    held = records(24_000)
    for number in range(8):
        part = held[number * 3000 : (number + 1) * 3000]
        server.publish("baseline", f"pubmed26n{number + 1:04}.xml.gz", part)
    for number in range(8):
        revised = [replace(r, title=f"Revised {number}.") for r in held[number * 500 :][:500]]
        new = records(1000, first_pmid=100_000 + number * 1000)
        gone = [(pmid, 1) for pmid in range(20_000 + number * 10, 20_010 + number * 10)]
        server.publish("updatefiles", f"pubmed26n{number + 9:04}.xml.gz", [*revised, *new], gone)
    interrupted = kill_again_and_again(server, config, "nlm", "--baseline", "--updates")
    assert interrupted >= 10
    settings = load(config)
    found = published(settings)
    expected = {*range(1, 24_001), *range(100_000, 108_000)} - {*range(20_000, 20_080)}
    assert found.alive().keys() == expected
    assert found.changes(1) == ["new", "text"]
    assert found.changes(20_000) == ["new", "deleted"]
    assert Counter(len(states) for states in found.states.values()) == {
        1: 24_000 - 4000 - 80 + 8000,
        2: 4000 + 80,
    }
    assert_each_state_once(found, settings)
    for progress in found.progress.values():
        assert progress.state == "done"
        if "/" in progress.id:
            assert sum(progress.counts.values()) == progress.position


def test_windows_survive_twenty_kills(server: NcbiServer, config: Path):
    server.holdings.put(*records(12_000, first=date(2026, 1, 1), days=100))
    interrupted = kill_again_and_again(server, config, "entrez", "--query", "asthma")
    assert interrupted >= 10
    found = published(load(config))
    assert found.alive() == {pmid: r.version for pmid, r in server.holdings.all.items()}
    assert {len(states) for states in found.states.values()} == {1}
    for progress in found.progress.values():
        if progress.announced:
            assert sum(progress.counts.values()) == progress.announced


def test_a_holder_that_slept_is_fenced_and_nothing_is_written_twice(
    server: NcbiServer, config: Path
):
    server.holdings.put(*records(9000))
    first = start(config, "entrez", "--query", "asthma")
    time.sleep(4)
    os.kill(first.pid, signal.SIGSTOP)
    second = start(config, "entrez", "--query", "treatment")
    try:
        assert second.wait(120) == 0
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait(120) == 0
    found = published(load(config))
    assert found.alive().keys() == set(range(1, 9001))
    assert {len(states) for states in found.states.values()} == {1}
