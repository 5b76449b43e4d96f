"""The command line `kailin` as a user runs it, and what it must not leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from engines import processes_using


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", "--config", str(config), *arguments]


def kailin(config: Path, *arguments: str) -> str:
    """What a command printed; it must have succeeded."""
    done = subprocess.run(
        command(config, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def wait_until_gone(processes: list[psutil.Process], data: Path) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert not processes_using(data)
