"""Scripted deployment: a registry in a directory, servers that say whose weights they serve."""

import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from fakes.model_server import SAYS
from infra.component import Component
from infra.deploy import Address, DeployError
from infra.model_registry import Registered, RegistryError
from infra.settings import Settings
from streams.errors import Transient
from streams.learning import Target

ROOT = Path(__file__).parents[2]

REGISTERED = Registered(
    target="theta3",
    version="1",
    job="0123456789abcdef",
    run="run",
    base="file:///base",
    adapter=False,
    made=datetime(2026, 3, 7, tzinfo=UTC),
    by="gate",
    reason="won 60 % of 500",
)


def registered(version: int, *, adapter: bool = False) -> Registered:
    return replace(REGISTERED, version=str(version), adapter=adapter)


class DirectoryRegistry:
    """A registry whose champion is a file, so that a test can change it under another process.

    What a version says is its name. A file `away` in the directory takes the registry away.
    """

    def __init__(self, directory: Path, *, adapter: bool = False) -> None:
        self.directory = directory
        self._adapter = adapter
        directory.mkdir(parents=True, exist_ok=True)

    def promote(self, version: int) -> None:
        file = self.directory / "champion.json"
        file.with_suffix(".new").write_text(json.dumps(version))
        file.with_suffix(".new").replace(file)

    def champion(self, target: Target) -> Registered | None:
        self._answer()
        file = self.directory / "champion.json"
        version = json.loads(file.read_text()) if file.exists() else None
        return registered(version, adapter=self._adapter) if version else None

    def version(self, target: Target, version: str) -> Registered:
        self._answer()
        return registered(int(version), adapter=self._adapter)

    def download(self, model: Registered, into: Path) -> Path:
        self._answer()
        source = self.directory / model.name
        if not source.is_dir():
            raise RegistryError(f"{model.name}: not here")
        return Path(shutil.copytree(source, into))

    def add(self, version: int, says: str | None = None, flags: str = "") -> None:
        """Put a version's files there; `flags` are of the server that serves it."""
        directory = self.directory / f"theta3-v{version}"
        directory.mkdir()
        (directory / SAYS).write_text(says or f"theta3-v{version}")
        (directory / "flags.txt").write_text(flags)

    def _answer(self) -> None:
        if (self.directory / "away").exists():
            raise Transient("MLflow away")


def scripted(directory: Path, model: str, port: int, settings: Settings) -> Component:
    """A scripted server in place of vLLM, for `infra.deploy_replace.Replace`."""
    flags = (directory / "flags.txt").read_text().split()
    command = [sys.executable, "-m", "fakes.model_server", "--model", str(directory)]
    command += ["--served-model-name", model, "--port", str(port), *flags]

    async def ready() -> bool:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/health") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    return Component(
        name=model,
        command=tuple(command),
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        log=settings.data / "logs" / f"{model}.log",
        ready=ready,
        stop_within=5.0,
    )


class FakeDeploy:
    """Deploy in memory. Names in `ill` do not become healthy; `work` is how busy each is."""

    def __init__(self) -> None:
        self.running: dict[str, Address] = {}
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.ill: set[str] = set()
        self.work: dict[str, int] = {}

    async def start(self, model: Registered, *, port: int | None = None) -> Address:
        self.started.append(model.name)
        if model.name in self.ill:
            raise DeployError(f"{model.name}: not healthy")
        url = f"http://127.0.0.1:{port or 28010 + int(model.version) % 2}/v1"
        address = Address(model=model.name, server="local", url=url)
        self.running[model.name] = address
        return address

    async def serves(self, address: Address) -> bool:
        return address.model in self.running

    async def busy(self, address: Address) -> int:
        return self.work.get(address.model, 0)

    async def others(self, address: Address) -> tuple[Address, ...]:
        return tuple(other for name, other in self.running.items() if name != address.model)

    async def stop(self, address: Address) -> None:
        self.stopped.append(address.model)
        self.running.pop(address.model, None)

    async def close(self) -> None:
        self.running.clear()
