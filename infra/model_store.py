"""Directories of models that are served from here: made once, shared, and bounded in number.

Each has a lock file beside it. Who serves from a directory holds its lock shared, who makes or
removes it holds it alone; the kernel frees it when its holder dies.
"""

import asyncio
import fcntl
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# How many models are kept that nobody serves from, so that going back to one is quick.
SPARE = 2


class Held:
    """A directory that is not removed until `release`, or until this process ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def hold(path: Path, make: Callable[[Path], Path]) -> Held:
    """The directory, held; where it is not there yet, it is made first.

    `make` is given an empty directory to work in, and returns the one in it that is wanted. What
    it raises is passed on, and nothing is left. Blocks, also while another process makes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_file(path)
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if path.is_dir():
                # Which are removed first goes by when they were last asked for.
                os.utime(path)
                return Held(path, lock)
            # Not waited for: who made it meanwhile may hold it for as long as it is served.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_UN)
                time.sleep(random.uniform(0.01, 0.1))
                continue
            if not path.is_dir():
                _make(path, make)
    except BaseException:
        os.close(lock)
        raise


async def held(path: Path, make: Callable[[Path], Path]) -> Held:
    """`hold`, without blocking the event loop."""
    holding = asyncio.ensure_future(asyncio.to_thread(hold, path, make))
    try:
        return await asyncio.shield(holding)
    except asyncio.CancelledError:
        # The thread goes on, and nobody waits for what it comes back with.
        holding.add_done_callback(_let_go)
        raise


def _let_go(holding: "asyncio.Future[Held]") -> None:
    if not holding.cancelled() and holding.exception() is None:
        holding.result().release()


def tidy(root: Path, target: str) -> None:
    """Remove the target's directories that nobody holds, but for the `SPARE` last asked for.

    What a process that was killed left half-made goes too.
    """
    name = re.compile(rf"\.?({re.escape(target)}-v\d+(?:-[0-9a-f]+)?)(\.making)?")
    matches = (name.fullmatch(path.name) for path in root.glob("*") if path.is_dir())
    spare: list[tuple[float, Path]] = []
    for path in sorted({root / match[1] for match in matches if match}):
        with _alone(path) as alone:
            if alone:
                shutil.rmtree(_unfinished(path), ignore_errors=True)
                if path.is_dir():
                    spare.append((path.stat().st_mtime, path))
    for _, path in sorted(spare, reverse=True)[SPARE:]:
        with _alone(path) as alone:
            if alone and path.is_dir():
                # Renamed, so that what is left of it is never taken for a whole one.
                shutil.rmtree(path.rename(_unfinished(path)), ignore_errors=True)


def _make(path: Path, make: Callable[[Path], Path]) -> None:
    scratch = _unfinished(path)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        make(scratch).rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody holds the directory; if so, nobody does meanwhile."""
    lock = _lock_file(path)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.making")


def _lock_file(path: Path) -> int:
    return os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
