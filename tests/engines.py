"""The embedded engines for tests and benchmarks: started on free ports, killed, started again.

with running_kafka(Path("some/dir")) as kafka:
    kafka.bootstrap, kafka.settings, kafka.kill(), kafka.start(), kafka.stop()
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from infra import leash
from infra.component import Component
from infra.elasticsearch_node import elasticsearch_node
from infra.kafka_broker import kafka_broker
from infra.settings import Elasticsearch, Kafka, Ports

# Halves the start-up and costs speed later, so it is for short runs only.
QUICK = ("-XX:TieredStopAtLevel=1",)


def unavailable(reason: str) -> NoReturn:
    """A real component cannot be had: skips on a developer's machine, fails in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Engine:
    """A component that is started, stopped and killed at will; it keeps its ports and its data.

    The methods block: in an async test that needs its event loop meanwhile, call them through
    `asyncio.to_thread`.
    """

    def __init__(self, component: Component) -> None:
        self.component = component
        self._leash: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process and waits until it serves."""
        assert self._leash is None, f"{self.component.name} runs already"
        self.component.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, leash.__file__, "--", *self.component.command]
        with self.component.log.open("ab") as log:
            # The leash ends the engine when this process ends, however it ends.
            self._leash = subprocess.Popen(
                command,
                env={**os.environ, **self.component.env},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + self.component.ready_within
        while not self.ready():
            if self._leash.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.component.log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{self.component.name} did not start; its log ends:\n{tail}")
            time.sleep(0.1)

    def ready(self) -> bool:
        """Whether the component's own check says that it serves."""
        # In a thread of its own, where no event loop can be running already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.component.ready()).result()  # type: ignore[arg-type]

    @property
    def process(self) -> psutil.Process:
        """The engine's own process."""
        assert self._leash is not None, f"{self.component.name} does not run"
        return psutil.Process(self._leash.pid).children()[0]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._leash is not None, f"{self.component.name} does not run"
        self.process.terminate()
        return self._wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing where it does not run."""
        if self._leash is not None:
            if self._leash.poll() is None:
                own = psutil.Process(self._leash.pid)
                # A leash that has not started the engine yet is killed itself.
                for process in own.children() or [own]:
                    process.kill()
            self._wait()

    def _wait(self) -> int:
        assert self._leash is not None
        status = self._leash.wait(self.component.stop_within)
        if self._leash.stdin:
            self._leash.stdin.close()
        self._leash = None
        return status


class KafkaEngine(Engine):
    def __init__(self, settings: Kafka, data: Path, java: tuple[str, ...] = QUICK) -> None:
        super().__init__(kafka_broker(settings, data, java=java))
        self.settings = settings
        self.bootstrap = settings.servers


class ElasticsearchEngine(Engine):
    def __init__(self, settings: Elasticsearch, data: Path, java: tuple[str, ...] = QUICK) -> None:
        super().__init__(elasticsearch_node(settings, data, java=java))
        self.settings = settings
        self.url = settings.address


@contextmanager
def running_kafka(
    data: Path, *, java: tuple[str, ...] = QUICK, **settings: Any
) -> Iterator[KafkaEngine]:
    """A real broker with its data under `data`, on free ports unless `settings` name some."""
    settings = {"port": free_port(), "controller_port": free_port(), **settings}
    engine = KafkaEngine(Kafka(**settings), data, java)
    try:
        engine.start()
        yield engine
    finally:
        engine.kill()


@contextmanager
def running_elasticsearch(
    data: Path, *, java: tuple[str, ...] = QUICK, **settings: Any
) -> Iterator[ElasticsearchEngine]:
    """A real node with its data under `data`, on free ports unless `settings` name some."""
    settings = {"port": free_port(), "transport_port": free_port(), **settings}
    engine = ElasticsearchEngine(Elasticsearch(**settings), data, java)
    try:
        engine.start()
        yield engine
    finally:
        engine.kill()


def free_port() -> int:
    """A port of loopback that nothing uses.

    It lies below the range from which the system numbers outgoing connections, where a client that
    keeps trying would take the port of an engine that is down.
    """
    for port in random.sample(range(15000, 32000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 15000 and 32000")


def write_config(directory: Path) -> Path:
    """A settings file with every engine embedded on free ports, and its data in `directory`."""
    names = ("supervisor", "trainer", "deployer", "kafka", *Ports().stages)
    ports = "".join(f"{name} = {free_port()}\n" for name in names)
    path = directory / "kailin.toml"
    path.write_text(
        f'data = "{directory}/data"\n'
        f"[kafka]\nport = {free_port()}\ncontroller_port = {free_port()}\n"
        f"[elasticsearch]\nport = {free_port()}\ntransport_port = {free_port()}\n"
        f"[servers.local]\nport = {free_port()}\n[prometheus]\nport = {free_port()}\n"
        f"[alerts]\nport = {free_port()}\n"
        f"[deploy]\nports = [{free_port()}, {free_port()}]\ngate_port = {free_port()}\n"
        f"[ports]\n{ports}"
    )
    return path


def processes_using(data: Path) -> list[psutil.Process]:
    """Processes that have the data directory in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(data) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
