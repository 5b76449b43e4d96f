"""A lock between processes on one machine; the kernel frees it when its last holder is gone."""

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

log = logging.getLogger(__name__)

# Seconds between two tries.
AGAIN = 0.2


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[int]:
    """Hold the lock on a file, made where it is not there yet; it is waited for.

    Yields its descriptor: a process that inherits that holds the lock on. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    told = False
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    log.info("waits for the process that still has %s", path)
                    told = True
                await asyncio.sleep(AGAIN)
        yield lock
    finally:
        os.close(lock)
