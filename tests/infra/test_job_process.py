"""A process of a job: how its end is told, its bounds, and that none is left."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra import job_process
from infra.job_process import Bounds, Ended, run
from infra.log_tail import last_line

AMPLE = Bounds(memory_gb=4.0, hours=1.0)


async def python(code: str, directory: Path, bounds: Bounds = AMPLE) -> Ended:
    """Runs Python code as a job whose directory is in its command line."""
    return await run(
        (sys.executable, "-c", code, str(directory)),
        directory=directory / "job",
        output=directory / "job.log",
        bounds=bounds,
    )


def processes_of(directory: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in process.cmdline() and "leash.py" not in str(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("pass", 0, "exit status 0"),
        ("raise SystemExit(3)", 3, "exit status 3"),
        ("print('one'); print('two\\n'); raise SystemExit(1)", 1, "two"),
        (
            "print('2026-03-07 09:30:00,123 ERROR infra.some_thing: no such: thing'); exit(1)",
            1,
            "no such: thing",
        ),
        (
            "import os; print('step 3', flush=True); os.kill(os.getpid(), 9)",
            137,
            "killed by SIGKILL, after: step 3",
        ),
    ],
)
async def test_how_it_ended_is_told(tmp_path: Path, code: str, status: int, reason: str):
    ended = await python(code, tmp_path)
    assert (ended.status, ended.reason) == (status, reason)


async def test_a_line_of_a_run_before_is_no_reason(tmp_path: Path):
    await python("print('old')", tmp_path)
    assert (await python("exit(1)", tmp_path)).reason == "exit status 1"
    assert (tmp_path / "job.log").read_text() == "old\n"


async def test_memory_is_bounded_over_all_that_it_starts(tmp_path: Path):
    child = "import sys,time; held = bytearray(300_000_000); time.sleep(60)"
    code = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{child!r},sys.argv[1]])"
    ended = await python(code, tmp_path, Bounds(memory_gb=0.2, hours=1))
    assert ended.exceeded
    assert "more than training.memory_gb = 0.2" in ended.reason
    assert processes_of(tmp_path) == []


async def test_time_is_bounded(tmp_path: Path):
    ended = await python("import time; time.sleep(60)", tmp_path, Bounds(memory_gb=4, hours=1e-4))
    assert ended.reason == "took longer than training.longest_hours = 0.0001"


async def test_one_that_does_not_heed_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(job_process, "GRACE", 0.5)
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    ended = await python(code, tmp_path, Bounds(memory_gb=4, hours=1e-4))
    assert ended.exceeded
    assert processes_of(tmp_path) == []


async def test_cancelled_it_stops_the_process_first(tmp_path: Path):
    code = "import subprocess,sys; subprocess.run(['sleep','60'])"
    running = asyncio.create_task(python(code, tmp_path))
    await until(lambda: processes_of(tmp_path))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_of(tmp_path) == []


async def test_the_next_waits_until_all_of_the_one_before_is_gone(tmp_path: Path):
    """As when a trainer was killed, and what it started has not ended yet."""
    slow = (
        "import signal,sys,time; signal.signal(15, lambda *_: (time.sleep(1), print('first')))"
        "; time.sleep(2); print('end')"
    )
    first = asyncio.create_task(python(slow, tmp_path))
    await until(lambda: processes_of(tmp_path))
    second = asyncio.create_task(python("print('second')", tmp_path))
    await asyncio.sleep(0.5)
    assert not second.done()
    await first
    await second
    assert (tmp_path / "job.log").read_text().split() == ["end", "second"]


async def test_what_a_killed_leash_leaves_is_ended(tmp_path: Path):
    code = "import subprocess,sys; subprocess.run(['sleep','60'])"
    running = asyncio.create_task(python(code, tmp_path))

    def leash() -> psutil.Process | None:
        # Not that of an engine of another test.
        ours = (p for p in psutil.Process().children() if str(tmp_path) in p.cmdline())
        return next(ours, None)

    await until(lambda: (found := leash()) and len(found.children(recursive=True)) == 2)
    found = leash()
    assert found
    below = found.children(recursive=True)
    await asyncio.sleep(1.5)
    found.send_signal(signal.SIGKILL)
    ended = await running
    assert ended.status == 137
    _, alive = psutil.wait_procs(below, timeout=5)
    assert alive == []


def test_a_progress_bar_is_one_line(tmp_path: Path):
    (tmp_path / "log").write_bytes(b"one\n10%\r20%\r30%\n\n")
    assert last_line(tmp_path / "log") == "30%"
    assert last_line(tmp_path / "absent") == ""
