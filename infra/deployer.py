"""Keeps the model that serves the one that is champion: `kailin deployer`.

It looks at what is wanted (the registry's champion) and at what is (the topic `serving.models`, and
the servers), and does the next thing that brings them together; so it may be stopped or killed at
any point. What served last is known to be healthy: after a start it is put back first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from consumers.ports import Clock
from infra.component import ComponentError
from infra.deploy import Address, Deploy, DeployError
from infra.model_registry import Registered, RegistryError
from infra.settings_learning import Deploy as Policy
from infra.turn import TurnLost
from streams.errors import Transient
from streams.learning import Serving, Target
from streams.metrics import Metrics

log = logging.getLogger(__name__)

TARGET: Target = "theta3"

# Seconds until a model that did not become healthy is tried again: doubled each time up to this.
RETRY_LONGEST = 600.0
# How often a server that is to go is asked whether it still has work, in seconds.
DRAIN_LOOK = 1.0


class Registry(Protocol):
    """What is wanted, as of `infra.model_registry.ModelRegistry`; the methods block."""

    def champion(self, target: Target) -> Registered | None: ...

    def version(self, target: Target, version: str) -> Registered: ...


@dataclass(frozen=True, slots=True)
class _Failure:
    times: int
    again: float


class Deployer:
    """The loop over one target. `told` gives what the topic names; `tell` changes that, confirmed.

    `tell` raises `Transient`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        deploy: Deploy,
        registry: Registry,
        told: Callable[[], Serving | None],
        tell: Callable[[Serving], Awaitable[None]],
        metrics: Metrics,
        now: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._deploy = deploy
        self._registry = registry
        self._told = told
        self._tell = tell
        self._metrics = metrics
        self._now = now
        self._champion: Registered | None = None
        # What serves, what is being started, and what is to go, by name.
        self._placed: tuple[Registered, Address] | None = None
        self._coming: tuple[Registered, asyncio.Task[Address]] | None = None
        self._going: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, _Failure] = {}
        self._warned = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set, then let go of everything.

        Raises `TurnLost`.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self.look()
                except TurnLost:
                    raise
                except Transient as error:
                    log.warning("%s: %s", TARGET, error)
                waiting = {stopping, *([self._coming[1]] if self._coming else [])}
                await asyncio.wait(
                    waiting, timeout=self._policy.look_every, return_when="FIRST_COMPLETED"
                )
        finally:
            stopping.cancel()
            await self._cancel_coming()
            for going in self._going.values():
                going.cancel()
            await asyncio.gather(*self._going.values(), return_exceptions=True)
            await self._deploy.close()

    async def look(self) -> None:
        """Do what is to be done next, without waiting for it. Raises `Transient`."""
        champion, told = await self._ask_champion(), self._told()
        if self._placed and not await self._deploy.serves(self._placed[1]):
            log.error("%s is gone: it is started again", self._placed[1].model)
            gone, self._placed = self._placed[1], None
            await self._deploy.stop(gone)
        await self._arrive()
        wanted = await self._wanted(champion, told)
        if self._coming and (wanted is None or wanted.version != self._coming[0].version):
            log.info("%s is no longer wanted", self._coming[0].name)
            await self._cancel_coming()
        self._going = {name: task for name, task in self._going.items() if not task.done()}
        if (
            wanted
            and not self._coming
            and not (self._placed and self._going.keys() - {wanted.name})
        ):
            # Else those that go still have their ports and their memory.
            await self._begin(wanted)
        aim = champion.version if champion else told.revision if told else None
        here = self._placed[0].version if self._placed else None
        stuck = wanted is None and self._coming is None
        failing = aim != here and (stuck or aim in self._failures)
        self._metrics.deployment_failing.labels(TARGET).set(failing)
        self._metrics.serving_revision.labels(TARGET).set(int(here or 0))
        if self._placed:
            await self._announce(*self._placed, told)
            await self._let_go(self._placed[1])

    async def _ask_champion(self) -> Registered | None:
        """The champion, or the one there was when the registry last answered."""
        try:
            self._champion = await asyncio.to_thread(self._registry.champion, TARGET)
        except (Transient, RegistryError) as error:
            self._warn(f"what serves goes on serving: {error}")
        return self._champion

    async def _wanted(self, champion: Registered | None, told: Serving | None) -> Registered | None:
        """The model to be started now, if any."""
        if self._placed:
            same = champion is None or champion.version == self._placed[0].version
            return None if same or not self._due(champion) else champion
        before = await self._served_before(champion, told)
        if before and before.version not in self._failures:
            return before
        return next((model for model in (champion, before) if model and self._due(model)), None)

    async def _served_before(
        self, champion: Registered | None, told: Serving | None
    ) -> Registered | None:
        if told is None:
            return None
        if champion and champion.version == told.revision:
            return champion
        if self._coming and self._coming[0].version == told.revision:
            return self._coming[0]
        try:
            return await asyncio.to_thread(self._registry.version, TARGET, told.revision)
        except (Transient, RegistryError) as error:
            self._warn(f"{told.model} served last and cannot be started again: {error}")
            return None

    def _warn(self, line: str) -> None:
        """Log a line, once for as long as nothing else is the matter."""
        if line != self._warned:
            log.warning("%s", line)
            self._warned = line

    def _due(self, model: Registered | None) -> bool:
        failure = self._failures.get(model.version) if model else None
        return failure is None or asyncio.get_running_loop().time() >= failure.again

    async def _begin(self, model: Registered) -> None:
        log.info("%s: starting", model.name)
        # It may be on its way out, after a return to the version before.
        if going := self._going.pop(model.name, None):
            going.cancel()
            await asyncio.wait({going})
        self._coming = model, asyncio.create_task(self._deploy.start(model))

    async def _arrive(self) -> None:
        """Take what is being started as what serves, once it does."""
        if self._coming is None or not self._coming[1].done():
            return
        (model, starting), self._coming = self._coming, None
        try:
            address = await starting
        except (DeployError, ComponentError, RegistryError, Transient, OSError) as error:
            self._failed(model, error)
            return
        self._failures.pop(model.version, None)
        self._metrics.deployments.labels(TARGET, "done").inc()
        self._placed = model, address
        log.info("%s serves at %s", address.model, address.url or f"server {address.server}")

    def _failed(self, model: Registered, error: Exception) -> None:
        times = self._failures[model.version].times + 1 if model.version in self._failures else 1
        pause = min(self._policy.look_every * 2.0**times, RETRY_LONGEST)
        again = asyncio.get_running_loop().time() + pause
        self._failures[model.version] = _Failure(times, again)
        self._metrics.deployments.labels(TARGET, "failed").inc()
        log.error("%s cannot be put in place, again in %.0f s: %s", model.name, pause, error)

    async def _announce(self, model: Registered, address: Address, told: Serving | None) -> None:
        now = self._now()
        again = told is not None and told.revision == model.version
        serving = Serving(
            generator=TARGET,
            model=address.model,
            revision=model.version,
            server=address.server,
            url=address.url,
            first=told.first if told else now,
            by=told.by if told and again else model.by or "registry",
            reason=told.reason if told and again else model.reason or "champion",
            at=now,
        )
        if told is None or replace(serving, at=told.at) != told:
            await self._tell(serving)

    async def _let_go(self, placed: Address) -> None:
        """Let what else serves finish its work, and stop it then."""
        coming = self._coming[0].name if self._coming else None
        for other in await self._deploy.others(placed):
            if other.model != coming and other.model not in self._going:
                self._going[other.model] = asyncio.create_task(self._drain(other))

    async def _drain(self, address: Address) -> None:
        clock = asyncio.get_running_loop().time
        began = quiet = clock()
        while clock() - quiet < self._policy.drain:
            if clock() - began > self._policy.drain_longest:
                log.warning("%s still has work, and is stopped", address.model)
                break
            if await self._deploy.busy(address):
                quiet = clock()
            await asyncio.sleep(min(DRAIN_LOOK, self._policy.drain / 4))
        await self._deploy.stop(address)
        log.info("%s is no longer served", address.model)

    async def _cancel_coming(self) -> None:
        if self._coming:
            _, starting = self._coming
            self._coming = None
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled() and starting.exception() is None:
                await self._deploy.stop(starting.result())
