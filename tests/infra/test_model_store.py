"""Directories of models: made once, whole or not at all, and removed when nobody serves them."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.model_store import SPARE, held, hold, tidy

MAKER = """
import sys, time
from pathlib import Path
from infra.model_store import hold

def make(scratch):
    (scratch / "model").mkdir()
    (scratch / "model" / "weights").write_text("half")
    print("making", flush=True)
    time.sleep(60)

hold(Path(sys.argv[1]), make)
"""


def make(scratch: Path) -> Path:
    (scratch / "model").mkdir()
    (scratch / "model" / "weights").write_text("whole")
    return scratch / "model"


def never(scratch: Path) -> Path:
    raise AssertionError("it is there already")


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_it_is_made_once(tmp_path: Path):
    path = tmp_path / "theta3-v1"
    first = hold(path, make)
    assert (first.path / "weights").read_text() == "whole"
    second = hold(path, never)
    first.release()
    second.release()
    second.release()
    assert names(tmp_path) == {"theta3-v1"}


def test_what_fails_leaves_nothing(tmp_path: Path):
    def fail(scratch: Path) -> Path:
        (scratch / "some").mkdir()
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        hold(tmp_path / "theta3-v1", fail)
    assert names(tmp_path) == set()
    hold(tmp_path / "theta3-v1", make).release()


def test_two_at_once_make_one(tmp_path: Path):
    made = []

    def slow(scratch: Path) -> Path:
        made.append(1)
        time.sleep(0.2)
        return make(scratch)

    threads = [
        threading.Thread(target=lambda: hold(tmp_path / "theta3-v1", slow), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    # None of them lets go, as servers do not for days.
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert made == [1]


def test_what_is_held_stays_and_the_last_used_of_the_others(tmp_path: Path):
    holding = hold(tmp_path / "theta3-v1", make)
    for version in range(2, 8):
        hold(tmp_path / f"theta3-v{version}", make).release()
        os.utime(tmp_path / f"theta3-v{version}", (version, version))
    hold(tmp_path / "answers-v1", make).release()
    tidy(tmp_path, "theta3")
    kept = {f"theta3-v{version}" for version in range(8 - SPARE, 8)}
    assert names(tmp_path) == {"theta3-v1", "answers-v1"} | kept
    holding.release()
    # Asked for last.
    os.utime(tmp_path / "theta3-v1")
    tidy(tmp_path, "theta3")
    assert "theta3-v1" in names(tmp_path)
    assert len(names(tmp_path)) == 1 + SPARE


def test_what_a_killed_process_left_half_made_is_made_anew(tmp_path: Path):
    path = tmp_path / "theta3-v1"
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout
    process.stdout.readline()
    # Not while it is at work.
    tidy(tmp_path, "theta3")
    assert names(tmp_path) == {".theta3-v1.making"}
    process.kill()
    process.wait()
    process.stdout.close()
    tidy(tmp_path, "theta3")
    assert names(tmp_path) == set()
    files = hold(path, make)
    assert (files.path / "weights").read_text() == "whole"
    files.release()


def test_what_another_registry_called_the_same_is_tidied_too(tmp_path: Path):
    for age, name in enumerate(("v2-0a1b2c3d", "v1-99999999", "v1-0a1b2c3d", "v1")):
        hold(tmp_path / f"theta3-{name}", make).release()
        os.utime(tmp_path / f"theta3-{name}", (100 - age, 100 - age))
    (tmp_path / ".theta3-v3-0a1b2c3d.making").mkdir()
    tidy(tmp_path, "theta3")
    assert names(tmp_path) == {"theta3-v2-0a1b2c3d", "theta3-v1-99999999"}


async def test_who_no_longer_waits_holds_nothing(tmp_path: Path):
    begun, go_on = threading.Event(), threading.Event()

    def slow(scratch: Path) -> Path:
        begun.set()
        go_on.wait(10)
        return make(scratch)

    holding = asyncio.create_task(held(tmp_path / "theta3-v1", slow))
    await asyncio.to_thread(begun.wait, 10)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    go_on.set()
    await asyncio.sleep(0.2)
    for version in range(2, 3 + SPARE):
        hold(tmp_path / f"theta3-v{version}", make).release()
    os.utime(tmp_path / "theta3-v1", (1, 1))
    tidy(tmp_path, "theta3")
    assert "theta3-v1" not in names(tmp_path)
