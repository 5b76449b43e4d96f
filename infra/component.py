"""A component: a process of ours that is started, waited for and stopped, as plain data."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Where the engines of a machine are, and what it alone may reach.
LOOPBACK = "127.0.0.1"


class ComponentError(Exception):
    """A component cannot be prepared or started; the message is one line saying what to do."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """What it takes to run one process.

    `env` is added to the environment of whoever starts it; standard output and error go to `log`,
    appended. `ready` answers whether the component serves, within a few seconds and without
    raising. `ready_within` and `stop_within` are in seconds: the longest wait for the first
    `ready`, and the time between SIGTERM and SIGKILL. Exit statuses in `stopped` mean a clean stop.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    ready_within: float = 60.0
    stop_within: float = 30.0
    stopped: frozenset[int] = frozenset({0})


async def listens(port: int) -> bool:
    """Whether something on loopback accepts connections on `port`.

    Asked before a client is: clients log an error for every connection that is refused.
    """
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def write(path: Path, text: str) -> Path:
    """Writes a file that only this user can read, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".writing")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    return temporary.replace(path)
