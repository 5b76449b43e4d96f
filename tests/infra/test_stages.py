"""What a stage's worker says when it cannot be put together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from consumers.stage import MISCONFIGURED, Message
from engines import free_port
from infra import stages, worker
from infra.settings import Settings
from streams.errors import Invalid


def test_an_unknown_stage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert worker.run("grenerate", Settings()) == MISCONFIGURED
    said = capsys.readouterr().err
    assert said == (
        "grenerate: expected a stage, one of index, generate, retrieve, score, prefer, answer, "
        "rescore, backlog, append\n"
    )


def test_a_port_in_use_is_one_line_and_status_2(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_worker(tmp_path, KAILIN_PORTS__PREFER=str(port))
    assert ended.returncode == MISCONFIGURED
    assert ended.stderr.count("\n") == 1
    assert f"ports.prefer = {port}: cannot serve /metrics" in ended.stderr


def test_a_mesh_file_that_is_missing_is_one_line_and_status_1(tmp_path: Path):
    missing = tmp_path / "none.tsv"
    ended = run_worker(tmp_path, stage="score", KAILIN_MESH__SOURCE=str(missing))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert str(missing) in ended.stderr


@pytest.mark.parametrize(
    "key", [None, b"", b"-7", b"0", b"007", b"7 ", "７".encode(), b"12345678901", b"1" * 5000]
)
def test_a_tombstone_whose_key_is_no_pmid_is_invalid(key: bytes | None):
    with pytest.raises(Invalid, match="expected the PMID") as refused:
        stages.deleted_pmid(Message(None, key, "pubmed.articles", 0, 0))
    assert refused.value.reason == "key"


def test_a_tombstone_names_its_pmid_in_its_key():
    assert stages.deleted_pmid(Message(None, b"9999999999", "pubmed.articles", 0, 0)) == 10**10 - 1


def run_worker(
    directory: Path, *, stage: str = "prefer", **environment: str
) -> subprocess.CompletedProcess[str]:
    root = Path(stages.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "run", stage],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "KAILIN_PORTS__SCORE": str(free_port()),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
