"""The leash on real processes: a command, and grandchildren that try to get away."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra import leash

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")

# Starts a grandchild in a session of its own that ignores SIGTERM, writes its pid, then sleeps.
FAMILY = """
import os, signal, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
time.sleep(600)
"""


def leashed(*command: str, grace: float = 0.5) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, leash.__file__, "--grace", str(grace), "--", *command],
        stdin=subprocess.PIPE,
    )


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def family(path: Path) -> list[int]:
    """The pids that FAMILY wrote, once it has."""
    assert eventually(path.exists)
    return [int(pid) for pid in path.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("status", [0, 3, 41])
def test_the_status_is_the_commands(status: int) -> None:
    assert leashed(*python(f"raise SystemExit({status})")).wait(10) == status


def test_a_command_that_a_signal_killed_gives_128_and_the_signal() -> None:
    killed = leashed(*python("import os; os.kill(os.getpid(), 9)"))
    assert killed.wait(10) == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert leashed("/nowhere/kafka").wait(10) == 127
    assert (
        capfd.readouterr().err == "/nowhere/kafka: cannot be started: No such file or directory\n"
    )


def test_without_a_command_it_says_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, leash.__file__, "sleep"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_sigterm_is_passed_on_and_the_commands_own_answer_comes_back(tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    code = (
        "import signal, sys, time, pathlib; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    held = leashed(*python(code, str(flag)), grace=10)
    assert eventually(flag.exists)
    held.terminate()
    assert held.wait(5) == 7


def test_the_commands_input_stays_open_as_long_as_the_leash_lives(tmp_path: Path) -> None:
    flag = tmp_path / "ended"
    code = "import pathlib, sys; sys.stdin.read(); pathlib.Path(sys.argv[1]).touch()"
    held = leashed(*python(code, str(flag)))
    time.sleep(0.3)
    assert held.poll() is None
    assert not flag.exists()
    held.terminate()
    held.wait(5)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_nothing_is_left_when_the_leash_is_pulled(tmp_path: Path, how: str) -> None:
    held = leashed(*python(FAMILY, str(tmp_path / "pids")))
    pids = family(tmp_path / "pids")
    if how == "close":
        assert held.stdin
        held.stdin.close()
    else:
        held.terminate()
    assert held.wait(10) == 128 + signal.SIGTERM
    assert all(gone(pid) for pid in pids)


def test_what_outlives_the_command_is_ended_and_the_status_kept(tmp_path: Path) -> None:
    held = leashed(*python(FAMILY, str(tmp_path / "pids"), "5"))
    pids = family(tmp_path / "pids")
    assert held.wait(10) == 5
    assert all(gone(pid) for pid in pids)


def test_killing_the_leash_kills_the_command(tmp_path: Path) -> None:
    held = leashed(*python(FAMILY, str(tmp_path / "pids")))
    command, stray = family(tmp_path / "pids")
    held.kill()
    held.wait(5)
    assert eventually(lambda: gone(command))
    # Its grandchild is for whoever adopts it: the supervisor does, here nobody.
    os.kill(stray, signal.SIGKILL)


def test_the_command_handles_ctrl_c_as_ever() -> None:
    code = "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert leashed(*python(code)).wait(10) == 0


def test_ctrl_c_in_the_terminal_is_left_to_the_parent() -> None:
    held = leashed(*python("import time; time.sleep(600)"))
    time.sleep(0.3)
    held.send_signal(signal.SIGINT)
    held.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert held.poll() is None
    held.terminate()
    held.wait(5)
