"""What a running service says about itself: `<data>/run/state.json`, and the lock beside it.

One service runs per data directory. The lock is a flock(2) that the supervisor holds and its
leashes inherit, so it is free only when every component of a run is gone, however the run ended.
"""

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import orjson
import psutil
from pydantic import TypeAdapter, ValidationError

State = Literal[
    "waiting", "starting", "ready", "silent", "restarting", "stopping", "stopped", "failed"
]


@dataclass(kw_only=True)
class ComponentState:
    """`since` is when `state` began (Unix seconds), `note` says why, in words.

    `pid` is the component's own process, not its leash; `last_exit` its last exit status.
    """

    state: State = "waiting"
    pid: int | None = None
    since: float = field(default_factory=time.time)
    restarts: int = 0
    last_exit: int | None = None
    note: str = ""

    def enter(self, state: State, note: str = "") -> None:
        self.state, self.note, self.since = state, note, time.time()


@dataclass(kw_only=True)
class RunState:
    """The supervisor's pid and start (Unix seconds); `started` once all components were ready."""

    pid: int
    since: float
    started: bool = False
    components: dict[str, ComponentState] = field(default_factory=dict)


class AlreadyRunning(Exception):
    """Another supervisor holds this data directory; the message is one line."""


def state_path(data: Path) -> Path:
    return data / "run" / "state.json"


def save(data: Path, state: RunState) -> None:
    """Replaces the state file in one step: a reader sees the old or the new one, whole."""
    path = state_path(data)
    draft = path.with_suffix(".new")
    draft.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    draft.replace(path)


def restoring(data: Path) -> Path:
    """A file that is there while a restore into this data directory is not done."""
    return data / "run" / "restoring"


def load(data: Path) -> RunState | None:
    """The state of the service that runs on `data`, or None when none does."""
    try:
        state = TypeAdapter(RunState).validate_json(state_path(data).read_bytes())
    except (OSError, ValidationError):
        return None
    return state if state.pid == holder(data) else None


def holder(data: Path) -> int | None:
    """The pid of the supervisor that runs on `data`, or None when none does."""
    try:
        with _lock_path(data).open("r+") as lock:
            if _locked(lock):
                return None
            pid = int(lock.read())
    except (OSError, ValueError):
        return None
    # After its supervisor was killed, a run's leashes hold the lock until they are done.
    return pid if psutil.pid_exists(pid) else None


def claim(data: Path, *, patience: float, waiting: Callable[[], None]) -> IO[str]:
    """Takes the lock of `data`; the open file holds it.

    Where a supervisor was killed, its leashes may still be stopping what it ran: `waiting` is
    called once and the lock waited for, `patience` seconds at most. Raises `AlreadyRunning`.
    """
    _lock_path(data).parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_path(data).open("a+")
    deadline = time.monotonic() + patience
    told = False
    while not _locked(lock):
        owner = holder(data)
        if owner is not None or time.monotonic() > deadline:
            lock.close()
            who = f"pid {owner}" if owner else "its components are still stopping"
            raise AlreadyRunning(
                f"kailin already runs on {data} ({who}): `kailin status` shows it, "
                "`kailin down` stops it"
            )
        if not told:
            waiting()
            told = True
        time.sleep(0.1)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def wait_until_free(data: Path, patience: float) -> bool:
    """Whether every process of the run on `data` was gone within `patience` seconds."""
    if not _lock_path(data).exists():
        return True
    deadline = time.monotonic() + patience
    with _lock_path(data).open("a+") as lock:
        while not _locked(lock):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True


def _lock_path(data: Path) -> Path:
    return data / "run" / "lock"


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
