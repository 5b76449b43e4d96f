"""The main job on everything real: Kafka, Elasticsearch, vLLM, MiniLM, MeSH 2024, PubMed."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from deltalake import DeltaTable

from command_line import command, kailin, open_to_others, wait_until_gone
from engines import write_config

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]


def appended(config: Path) -> list[int]:
    """The PMIDs in the tables, one for each row."""
    tables = config.parent / "data" / "tables"
    return [
        pmid
        for table in ("preferences", "dropped", "parked")
        for pmid in DeltaTable(tables / table)
        .to_pyarrow_table(columns=["pmid"])["pmid"]
        .to_pylist()
    ]


def test_real_records_become_preference_records_and_a_second_run_adds_others(tmp_path: Path):
    config = write_config(tmp_path)
    data = tmp_path / "data"
    kailin(config, "up", "--detach")
    try:
        out = kailin(config, "demo", "--corpus", "60", "--new", "4")
        first = appended(config)
        assert len(first) == len(set(first)) == 4
        assert "4 asked about, 64 searched" in out
        assert "60 of 60 records of the corpus indexed" in out
        kept, rejected = re.findall(r"questions +(\d+) kept, (\d+) rejected", out)[0]
        assert int(kept) + int(rejected) == 8
        assert int(kept) > 0
        tokens = re.findall(r"([\d,]+) in \d+ s: [\d.]+ tokens/s", out)[0]
        assert int(tokens.replace(",", "")) > 8

        out = kailin(config, "demo", "--corpus", "60", "--new", "2")
        assert "60 records are indexed from an earlier run" in out
        second = appended(config)
        assert len(second) == len(set(second)) == 6
        assert set(first) < set(second)

        status = json.loads(kailin(config, "status", "--json"))
        assert status["healthy"]
        assert sum(status["rows"].values()) == 6
        assert {stage["lag"] for stage in status["stages"].values()} == {0}
        started = [psutil.Process(part["pid"]) for part in status["run"]["components"].values()]
        started += [child for process in started for child in process.children(recursive=True)]
        # Engines, stages, /metrics: nothing can be reached from another machine.
        assert open_to_others(started) == {}
    finally:
        kailin(config, "down")
    wait_until_gone(started, data)


def test_ctrl_c_leaves_nothing_running_and_nothing_broken(tmp_path: Path):
    config = write_config(tmp_path)
    with (tmp_path / "out").open("wb") as out:
        job = subprocess.Popen(command(config, "demo"), stdout=out, stderr=out)
    deadline = time.monotonic() + 300
    while b"kafka          ready" not in (tmp_path / "out").read_bytes():
        assert job.poll() is None, (tmp_path / "out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    started = psutil.Process(job.pid).children(recursive=True)
    assert len(started) >= 4
    job.send_signal(signal.SIGINT)
    assert job.wait(120) == 1
    wait_until_gone(started, tmp_path / "data")
    # Its data can be used at once.
    kailin(config, "up", "--detach", "--only", "kafka")
    kailin(config, "down")
