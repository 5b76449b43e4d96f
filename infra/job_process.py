"""One process of a job: it ends with the trainer, and is stopped when it takes too much.

Two processes never work in a job's directory at once: the leash of each holds a lock on it until
all that it started is gone, and the next one waits for that.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from infra import leash
from infra.file_lock import alone
from infra.log_tail import last_line

log = logging.getLogger(__name__)

# The exit status of a process that cannot do its work now, since what it needs is away.
AWAY = os.EX_TEMPFAIL
# Seconds between two looks at what a process takes.
LOOK_EVERY = 1.0
# Seconds between SIGTERM and SIGKILL.
GRACE = 20.0
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a process and all that it starts may take: resident memory in GB, and hours."""

    memory_gb: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: its exit status (128 + n by signal n), and what it logged last.

    `exceeded` says which bound it was stopped at, None where it ended by itself.
    """

    status: int
    last_line: str
    exceeded: str | None

    @property
    def away(self) -> bool:
        """Whether it may do its work once what it needs is back."""
        return self.status == AWAY and self.exceeded is None

    @property
    def reason(self) -> str:
        """Why it failed, as a line."""
        if self.exceeded:
            return self.exceeded
        last = self.last_line
        if self.status <= 128:
            return last or f"exit status {self.status}"
        number = self.status - 128
        after = f", after: {last}" if last else ""
        return f"killed by {_signal_name(number)}{after}"


async def run(
    command: Sequence[str],
    *,
    directory: Path,
    output: Path,
    bounds: Bounds,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command of the job in `directory` to its end, its output appended to a file.

    Waits for the directory where another process still works in it. Cancelled, it stops the
    command first. Raises `OSError` where the files cannot be had.
    """
    async with alone(directory / ".lock") as lock:
        with _appended(output) as file:
            began = os.fstat(file.fileno()).st_size
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", leash.__file__, "--grace", str(GRACE), "--"),
                *command,
                env={**os.environ, **(environment or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=file,
                stderr=file,
                process_group=0,
                pass_fds=(lock,),
            )
    seen: set[psutil.Process] = set()
    try:
        exceeded = await _watch(process, bounds, seen)
    finally:
        # Reached by cancellation, too: the leash ends the command and all that it started.
        await asyncio.shield(_stop(process, seen))
    status = await process.wait()
    return Ended(
        status=status if status >= 0 else 128 - status,
        last_line=last_line(output, began),
        exceeded=exceeded,
    )


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _appended(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


async def _watch(
    process: asyncio.subprocess.Process, bounds: Bounds, seen: set[psutil.Process]
) -> str | None:
    """Waits until the process has ended, or has exceeded a bound; says which.

    `seen` becomes what it had started at the last look.
    """
    ended = asyncio.create_task(process.wait())
    began = time.monotonic()
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=LOOK_EVERY)
            if ended.done():
                return None
            taken = await asyncio.to_thread(_memory, process.pid, seen)
            if taken > bounds.memory_gb * GB:
                return (
                    f"took {taken / GB:.1f} GB of memory, more than "
                    f"training.memory_gb = {bounds.memory_gb:g}"
                )
            if time.monotonic() - began > bounds.hours * 3600:
                return f"took longer than training.longest_hours = {bounds.hours:g}"
        return None
    finally:
        ended.cancel()


def _memory(pid: int, seen: set[psutil.Process]) -> int:
    """Resident bytes of a process and all below it; what they share counts for each of them."""
    taken = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        below = root.children(recursive=True)
        seen.clear()
        seen.update(below)
        for process in (root, *below):
            with suppress(psutil.Error):
                taken += process.memory_info().rss
    return taken


async def _stop(process: asyncio.subprocess.Process, seen: set[psutil.Process]) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), GRACE + 10)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    # Of a leash that was itself killed, what the command had started is left.
    for left in seen:
        with suppress(psutil.Error):
            left.kill()
