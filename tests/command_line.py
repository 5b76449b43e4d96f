"""The command line `kailin` as a user runs it, and what it must not leave behind."""

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterable
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


def open_to_others(processes: Iterable[psutil.Process]) -> dict[str, list[str]]:
    """Where these processes can be reached from other machines: address and port, by command."""
    found: dict[str, list[str]] = {}
    for process in processes:
        for listener in process.net_connections("inet"):
            if listener.status != psutil.CONN_LISTEN:
                continue
            address = ipaddress.ip_address(listener.laddr.ip)
            if not (getattr(address, "ipv4_mapped", None) or address).is_loopback:
                command = " ".join(process.cmdline())[-120:]
                found.setdefault(command, []).append(f"{address}:{listener.laddr.port}")
    return found
