"""Starts components in order, keeps them running, stops them in reverse order.

Every component runs on a leash (`infra/leash.py`), so nothing outlives this process, however it
ends. What has been ready and dies is started again, after a delay that doubles each time and
starts anew once the component has been healthy for a while.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from infra import leash, run_state
from infra.component import Component
from infra.log_tail import tail
from infra.run_state import ComponentState, RunState
from streams.metrics import Metrics

READY_EVERY = 0.3
HEALTH_EVERY = 5.0
PROBE_TIMEOUT = 10.0
# Lines of a component's log that are shown where it does not start.
SHOWN = 5


class StartFailed(Exception):
    """The service cannot be started; the message says which component and where to look."""


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Components that start together; `then` is done when all are ready, before the next wave.

    `final` maps an exit status after which a component stays stopped to the reason. One that ends
    so before it was ever ready fails the start.
    """

    components: tuple[Component, ...]
    then: Callable[[], Awaitable[None]] | None = None
    final: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Seconds before a restart: `first`, doubled each time up to `longest`.

    A component that was ready for `healthy` seconds begins at `first` again. One that never was
    ready is given up after `attempts`.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy: float = 60.0
    attempts: int = 3


class _NotReady(Exception):
    """A component was not ready in time."""


class _Kept:
    """A component and its present life."""

    def __init__(self, component: Component, final: Mapping[int, str]) -> None:
        self.component = component
        self.final = final
        self.state = ComponentState()
        self.leash: asyncio.subprocess.Process | None = None
        self.stop = asyncio.Event()
        # Set when it is ready for the first time, or has been given up.
        self.settled = asyncio.Event()
        self.was_ready = False
        self.ready_since: float | None = None


class Supervisor:
    """Runs `waves` until `stop` is set. `lock` is the claimed data directory's."""

    def __init__(
        self, waves: tuple[Wave, ...], *, data: Path, lock: IO[str], metrics: Metrics,
        backoff: Backoff = Backoff(),
    ) -> None:  # fmt: skip
        self.stop = asyncio.Event()
        self._data = data
        self._lock = lock
        self._metrics = metrics
        self._backoff = backoff
        self._waves = [
            (wave, [_Kept(component, wave.final) for component in wave.components])
            for wave in waves
        ]
        self._kept = [kept for _, wave in self._waves for kept in wave]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.state = RunState(
            pid=os.getpid(),
            since=time.time(),
            components={kept.component.name: kept.state for kept in self._kept},
        )

    async def run(self, show: Callable[[RunState], None]) -> None:
        """Runs until `stop`, SIGINT, SIGTERM or SIGHUP. `show` is called twice a second.

        Raises `StartFailed` after everything has been stopped again.
        """
        leash.adopt_orphans()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop.set)
        ticking = asyncio.create_task(self._tick(show))
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({starting, stopping, ticking}, return_when="FIRST_COMPLETED")
            if not starting.done():
                starting.cancel()
            elif starting.exception() is None:
                await asyncio.wait({stopping, ticking}, return_when="FIRST_COMPLETED")
        finally:
            await self._stop_all()
            for task in (stopping, ticking):
                task.cancel()
            results = await asyncio.gather(
                starting, stopping, ticking, *self._tasks.values(), return_exceptions=True
            )
            show(self.state)
            run_state.state_path(self._data).unlink(missing_ok=True)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _start(self) -> None:
        for wave, members in self._waves:
            for kept in members:
                task = asyncio.create_task(self._keep(kept))
                task.add_done_callback(self._stop_on_fault)
                self._tasks[kept.component.name] = task
            for kept in members:
                await kept.settled.wait()
                if kept.state.state == "failed":
                    raise StartFailed(_failure(kept))
            if wave.then:
                await wave.then()
        self.state.started = True

    def _stop_on_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.stop.set()

    async def _stop_all(self) -> None:
        for _, members in reversed(self._waves):
            for kept in members:
                kept.stop.set()
            tasks = [self._tasks.get(kept.component.name) for kept in members]
            await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    async def _tick(self, show: Callable[[RunState], None]) -> None:
        for beat in range(sys.maxsize):
            if beat % 2 == 0:
                leash.end_strays(keep=self._leashes())
                for kept in self._kept:
                    self._find_pid(kept)
                    up = kept.state.state == "ready"
                    self._metrics.component_up.labels(kept.component.name).set(up)
                    ended = kept.state.state == "stopped" and not kept.stop.is_set()
                    self._metrics.component_stopped.labels(kept.component.name).set(ended)
                    self._metrics.component_restarts.labels(kept.component.name).inc(0)
                with suppress(OSError):  # a full disk must not stop the service
                    run_state.save(self._data, self.state)
            show(self.state)
            await asyncio.sleep(0.5)

    def _leashes(self) -> set[int]:
        return {kept.leash.pid for kept in self._kept if kept.leash}

    def _find_pid(self, kept: _Kept) -> None:
        if kept.leash and kept.state.pid is None:
            kept.state.pid = next(
                (
                    pid
                    for pid, (parent, session) in leash.processes(ended=False).items()
                    if parent == kept.leash.pid and session == pid
                ),
                None,
            )

    async def _keep(self, kept: _Kept) -> None:
        """Lives of one component, one after the other, until it is told to stop."""
        delay, attempts = self._backoff.first, 0
        while not kept.stop.is_set():
            reason = await self._live(kept)
            status = kept.state.last_exit
            if kept.stop.is_set():
                break
            if status is not None and status in kept.final:
                kept.state.enter("stopped" if kept.was_ready else "failed", kept.final[status])
                kept.settled.set()
                return
            attempts += 1
            if not kept.was_ready and attempts == self._backoff.attempts:
                kept.state.enter("failed", f"{reason}, given up after {attempts} attempts")
                kept.settled.set()
                return
            healthy = self._backoff.healthy
            if kept.ready_since and time.monotonic() - kept.ready_since >= healthy:
                delay = self._backoff.first
            kept.state.enter("restarting", f"{reason}, again after {delay:.1f} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(kept.stop.wait(), delay)
            delay = min(delay * 2, self._backoff.longest)
            if not kept.stop.is_set():
                kept.state.restarts += 1
                self._metrics.component_restarts.labels(kept.component.name).inc()
        status = kept.state.last_exit
        clean = status is None or status in kept.component.stopped or status == 128 + signal.SIGTERM
        kept.state.enter("stopped", "" if clean else f"exit status {status}")

    async def _live(self, kept: _Kept) -> str:
        """One life of a component, from its start to its end. Returns why it ended."""
        kept.state.enter("starting")
        kept.ready_since = None
        process = kept.leash = await self._leash(kept.component)
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(kept.stop.wait())
        watching = asyncio.create_task(self._watch(kept))
        await asyncio.wait({ended, told, watching}, return_when="FIRST_COMPLETED")
        reason = ""
        if not ended.done():
            if watching.done():
                reason = str(watching.exception())
            kept.state.enter("stopping", reason)
            process.terminate()
        for task in (told, watching):
            task.cancel()
        # The leash kills what does not stop in time; it needs a moment longer than that.
        await asyncio.wait({ended}, timeout=kept.component.stop_within + 10)
        if not ended.done():
            process.kill()
        status = await ended
        kept.state.last_exit = status if status >= 0 else 128 - status
        kept.leash = kept.state.pid = None
        # The leash may have been killed itself, and what it held comes here as its parents die.
        if leash.end_strays(keep=self._leashes()):
            await asyncio.sleep(0.05)
            leash.end_strays(keep=self._leashes())
        return reason or f"exit status {kept.state.last_exit}"

    async def _leash(self, component: Component) -> asyncio.subprocess.Process:
        component.log.parent.mkdir(parents=True, exist_ok=True)
        grace = str(component.stop_within)
        with component.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", leash.__file__, "--grace", grace, "--"),
                *component.command,
                env={**os.environ, **component.env},
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=(self._lock.fileno(),),
            )

    async def _watch(self, kept: _Kept) -> None:
        """Waits for a component to be ready, then looks after it. Raises `_NotReady`."""
        component = kept.component
        began = time.monotonic()
        while not await self._answers(component):
            if time.monotonic() - began > component.ready_within:
                raise _NotReady(f"not ready within {component.ready_within:.0f} s")
            await asyncio.sleep(READY_EVERY)
        kept.ready_since = time.monotonic()
        kept.was_ready = True
        kept.state.enter("ready", f"after {kept.ready_since - began:.1f} s")
        kept.settled.set()
        while True:
            await asyncio.sleep(HEALTH_EVERY)
            answers = await self._answers(component)
            if answers != (kept.state.state == "ready"):
                kept.state.enter("ready" if answers else "silent")

    async def _answers(self, component: Component) -> bool:
        try:
            return await asyncio.wait_for(component.ready(), PROBE_TIMEOUT)
        except TimeoutError:
            return False


def _failure(kept: _Kept) -> str:
    """What went wrong at the start, with the last lines of the component's log."""
    with suppress(OSError):
        lines = "".join(f"\n  {line}" for line in tail(kept.component.log, SHOWN))
        where = f"the end of {kept.component.log}:{lines}" if lines else "its log is empty"
        return f"{kept.component.name}: {kept.state.note}; {where}"
    return f"{kept.component.name}: {kept.state.note}"
