"""The way `replace`: a server of its own for each model, beside the one that it takes the place of.

An adapter is merged into its base model first. Takes the memory of both models while the old one
drains, and works wherever vLLM does.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra import leash, leashed
from infra.component import Component
from infra.deploy import Address, DeployError, Fetch
from infra.leashed import Leashed
from infra.log_tail import last_line
from infra.mlflow_environment import CREDENTIALS
from infra.model_probe import NoAnswer, requests, trial
from infra.model_registry import Registered
from infra.model_store import Held, held, tidy
from infra.models import model_directory
from infra.settings import Settings
from infra.vllm_server import origin, vllm_of

LOOK_EVERY = 0.3

# Makes a model's server of its directory, its name and a port: `vllm_of`.
ServerOf = Callable[[Path, str, int, Settings], Component]


@dataclass(frozen=True, slots=True)
class _Running:
    address: Address
    process: Leashed
    files: Held


class Replace:
    """Deploy over servers that are children of this process and end with it."""

    def __init__(self, settings: Settings, fetch: Fetch, server_of: ServerOf = vllm_of) -> None:
        self._settings = settings
        self._origin = origin(settings)
        # Its key holds; a proxy of the environment is not for this machine's own address.
        self._server = settings.servers[self._origin].model_copy(update={"url": ""})
        self._fetch = fetch
        self._server_of = server_of
        self._root = settings.data.resolve() / "models"
        self._running: dict[str, _Running] = {}

    async def start(self, model: Registered, *, port: int | None = None) -> Address:
        if (running := self._running.get(model.name)) and running.process.status is None:
            return running.address
        files = await held(self._root / model.place, lambda scratch: self._make(model, scratch))
        try:
            running = await self._serve(model.name, files, port)
        except BaseException:
            files.release()
            raise
        if dead := self._running.pop(model.name, None):
            dead.files.release()
        self._running[model.name] = running
        return running.address

    async def serves(self, address: Address) -> bool:
        running = self._running.get(address.model)
        return running is not None and running.process.status is None

    async def busy(self, address: Address) -> int:
        if address.url is None or not await self.serves(address):
            return 0
        try:
            return await requests(self._server, address.url, address.model)
        except NoAnswer:
            return 1

    async def others(self, address: Address) -> tuple[Address, ...]:
        target, _, _ = address.model.rpartition("-v")
        return tuple(
            running.address
            for name, running in self._running.items()
            if name != address.model and name.rpartition("-v")[0] == target
        )

    async def stop(self, address: Address) -> None:
        if running := self._running.pop(address.model, None):
            try:
                await running.process.stop()
            finally:
                running.files.release()
        target, _, _ = address.model.rpartition("-v")
        await asyncio.to_thread(tidy, self._root, target)

    async def close(self) -> None:
        running = list(self._running.values())
        self._running.clear()
        await asyncio.gather(*(one.process.stop() for one in running))
        for one in running:
            one.files.release()

    def _make(self, model: Registered, scratch: Path) -> Path:
        """The whole model: as it was registered, or merged into its base."""
        fetched = self._fetch(model, scratch / "fetched")
        if not model.adapter:
            return fetched
        log = self._settings.data.resolve() / "logs" / f"merge-{model.name}.log"
        return merge(model_directory(model.base), fetched, scratch / "merged", log)

    async def _serve(self, name: str, files: Held, port: int | None) -> _Running:
        port = port or self._free_port()
        component = self._server_of(files.path, name, port, self._settings)
        process = await leashed.start(
            component.command,
            env=component.env,
            without=CREDENTIALS,
            log=component.log,
            grace=component.stop_within,
        )
        url = f"http://127.0.0.1:{port}/v1"
        try:
            await self._ready(component, process)
            await trial(self._server, url, name)
        except BaseException as error:
            await process.stop()
            if isinstance(error, NoAnswer):
                raise DeployError(f"{error}; its log is {component.log}") from None
            raise
        return _Running(Address(model=name, server=self._origin, url=url), process, files)

    def _free_port(self) -> int:
        ports = self._settings.deploy.ports
        for port in ports:
            with socket.socket() as probe:
                # As servers do, so that connections that linger are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise DeployError(
            f"deploy.ports = {', '.join(map(str, ports))}: all are taken; stop what uses them or "
            "set others"
        )

    async def _ready(self, component: Component, process: Leashed) -> None:
        """Wait until the server is healthy. Raises `DeployError`."""
        within = self._settings.deploy.ready_within
        deadline = time.monotonic() + within
        while not await component.ready():
            why = None
            if process.status is not None:
                why = f"ended with exit status {process.status} before it served"
            elif time.monotonic() > deadline:
                why = f"not healthy within {within:.0f} s"
            if why:
                last = last_line(component.log) or "nothing"
                raise DeployError(f"{component.name}: {why}; {component.log} ends: {last}")
            await asyncio.sleep(LOOK_EVERY)


def merge(base: Path, adapter: Path, output: Path, log: Path) -> Path:
    """Merge an adapter into its base model, in a process of its own. Raises `DeployError`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", leash.__file__, "--", sys.executable]
    command += ["-m", "trainers.merge", "--base", str(base)]
    command += ["--adapter", str(adapter), "--output", str(output)]
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env={name: value for name, value in os.environ.items() if name not in CREDENTIALS},
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=written,
        )
        with process:
            status = process.wait()
    if status:
        raise DeployError(
            f"{adapter.parent.name}: cannot be merged into {base}: {last_line(log)} ({log})"
        )
    return output
