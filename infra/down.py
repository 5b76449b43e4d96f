"""Stops the service that runs on a data directory."""

import os
import signal
from pathlib import Path

from rich.console import Console

from infra import run_state

# The longest that an ordered stop of everything takes, seconds.
STOP_WITHIN = 120.0


def down(data: Path, console: Console) -> bool:
    """Tells the supervisor to stop; returns whether all of the service is gone in time."""
    pid = run_state.holder(data)
    if pid is None:
        console.print(f"nothing runs on {data}")
    else:
        console.print(f"stopping pid {pid}")
        os.kill(pid, signal.SIGTERM)
    return run_state.wait_until_free(data, STOP_WITHIN)
