"""The whole service with everything in its way that chaos needs: `kailin up` kept running as an
init system would, a real broker and node, scripted models, and a proxy before each of the three.

with running_world(tmp_path) as world:
    world.feed([path]); world.process("score").kill(); world.ways["kafka"].cut()
"""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engines import (
    QUICK,
    ElasticsearchEngine,
    Engine,
    free_port,
    running_elasticsearch,
)
from fakes.model_server import ModelServer, Script, ordinary
from faults.service import DIMENSIONS, MESH, ROOT, running_models, sample
from faults.tcp_proxy import TcpProxy, running_proxy
from infra import leash, run_state
from infra.kafka_broker import kafka_broker
from infra.settings import Kafka, Ports, Settings
from infra.settings_file import load

STAGES = ("index", "generate", "retrieve", "score", "prefer", "answer", "append", "rescore")
LAG = "kailin_consumer_lag_records"
LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Disk:
    """A small disk of its own (tmpfs), which is filled to the last byte and cleared again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Leave no room for another byte."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * (1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)


class Clock:
    """The time of day of the processes of the service, by Debian's libfaketime.

    The monotonic clock goes on, as it does when a real clock is set.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.step(0.0)

    def step(self, seconds: float) -> None:
        """From within a second on, the clock is this much ahead of the right time."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+g}\n")
        draft.replace(self._file)

    def read(self) -> float:
        """How far ahead a process that is started now sees the clock, in seconds."""
        said = subprocess.run(
            [sys.executable, "-I", "-c", "import time; print(time.time())"],
            env={**os.environ, **self.environment},
            capture_output=True,
            check=True,
        )
        return float(said.stdout) - time.time()


@dataclass
class World:
    directory: Path
    config: Path
    kafka: Engine
    elasticsearch: ElasticsearchEngine
    models: ModelServer
    ways: dict[str, TcpProxy]
    disk: Disk | None
    clock: Clock | None
    starts: int = 0
    ingests: int = 0
    supervisor: "subprocess.Popen[bytes] | None" = None
    ingest: "subprocess.Popen[bytes] | None" = None
    _ending: threading.Event = field(default_factory=threading.Event)
    _last: Path | None = None
    _wanted: list[Path] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return load(self.config)

    @property
    def without(self) -> dict[str, str]:
        """The kinds of fault that cannot be had on this machine, and why."""
        missing = {}
        if not self.disk:
            missing["full"] = "no tmpfs can be mounted (it takes root)"
        if not self.clock:
            missing["step"] = f"there is no {LIBFAKETIME} (apt-get install libfaketime)"
        return missing

    @property
    def engines(self) -> dict[str, Engine]:
        return {"kafka": self.kafka, "elasticsearch": self.elasticsearch}

    @property
    def fed(self) -> bool:
        """Whether every file that was handed to `feed` is ingested."""
        return not self._wanted

    # What runs.

    def begin(self) -> None:
        """Keep the service running, and the ingest of what is fed, until `end`."""
        for work in (self._keep_up, self._keep_feeding):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def end(self) -> int:
        """Stop everything of ours; the supervisor's exit status."""
        self._ending.set()
        for process in (self.ingest, self.supervisor):
            if process and process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
        for thread in self._threads:
            thread.join(120)
        return self.supervisor.wait(120) if self.supervisor else 0

    def feed(self, files: Sequence[Path]) -> None:
        """Ingest these files after those before, each again and again until it is done."""
        self._last = files[-1]
        self._wanted += files

    def feed_again(self) -> None:
        """Ingest the last file once more, where nothing else is; it holds nothing new then."""
        if self._last and self.fed:
            self._wanted.append(self._last)

    def process(self, name: str) -> psutil.Process | None:
        """The process of a stage, "ingest", "supervisor" or an engine, where it is at work."""
        pid: int | None = None
        if name in self.engines:
            with suppress(AssertionError, IndexError, psutil.Error):
                return self.engines[name].process
        elif name in ("ingest", "supervisor"):
            process = getattr(self, name)
            pid = process.pid if process and process.poll() is None else None
            state = run_state.load(self.settings.data)
            # In the midst of a start there is little to break.
            if name == "supervisor" and not (state and state.started):
                pid = None
        elif state := run_state.load(self.settings.data):
            component = state.components.get(name)
            pid = component.pid if component and component.state == "ready" else None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid) if pid else None
        return None

    def revive(self, name: str) -> None:
        """Start an engine again; all else is started again by itself."""
        if name in self.engines:
            self.engines[name].kill()
            self.engines[name].start()

    def restored(self) -> None:
        """The end of all faults."""
        for way in self.ways.values():
            way.restore()
        if self.disk:
            self.disk.clear()
        if self.clock:
            self.clock.step(0.0)

    def ready(self) -> bool:
        return all(self.process(stage) for stage in STAGES)

    def lag(self) -> float:
        """The messages that the stages have not done, all together."""
        ports = self.settings.ports.stages
        return sum(sample(ports[stage], LAG) or 0.0 for stage in STAGES)

    def told(self) -> str:
        """The ends of the logs."""
        logs = [*sorted((self.settings.data / "logs").glob("*.log")), *self.directory.glob("*.log")]
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
        faked = self.clock.environment if self.clock else {}
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "--config", str(self.config), *command],
                cwd=self.directory,
                env={**environment, **faked, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # However this process ends, nothing is left of the service.
                preexec_fn=leash.die_with_parent(),
            )

    def _keep_up(self) -> None:
        only = [word for stage in STAGES for word in ("--only", stage)]
        while not self._ending.is_set():
            self.supervisor = self._start("supervisor", "up", *only)
            self.starts += 1
            self.supervisor.wait()
            self._ending.wait(0.5)

    def _keep_feeding(self) -> None:
        while not self._ending.is_set():
            if not self._wanted:
                self._ending.wait(0.1)
                continue
            self.ingest = self._start("ingest", "ingest", "files", str(self._wanted[0]))
            self.ingests += 1
            if self.ingest.wait() == 0:
                self._wanted.pop(0)
            else:
                self._ending.wait(0.5)


@contextmanager
def running_world(
    directory: Path, script: Script = ordinary, *, disk_mb: int = 64, **overrides: dict[str, Any]
) -> Iterator[World]:
    """Everything but the service itself, which `begin` starts. Raises `ArtifactError`.

    `world.disk` is None where no tmpfs can be mounted, `world.clock` where there is no libfaketime.
    """
    with ExitStack() as stack:
        listens, advertised = free_port(), free_port()
        kafka = _kafka(directory / "kafka", listens, advertised)
        search = stack.enter_context(running_elasticsearch(directory / "elasticsearch"))
        models = stack.enter_context(running_models(script))
        served = models.url.removesuffix("/v1").rpartition(":")[2]
        ways = {
            "kafka": stack.enter_context(running_proxy(listens, advertised)),
            "elasticsearch": stack.enter_context(running_proxy(search.settings.port)),
            "models": stack.enter_context(running_proxy(int(served))),
        }
        stack.callback(kafka.kill)
        kafka.start()
        disk = stack.enter_context(_disk(directory / "disk", disk_mb))
        clock = Clock(directory / "clock") if LIBFAKETIME.exists() else None
        config = _config(directory, ways, disk, overrides)
        world = World(directory, config, kafka, search, models, ways, disk, clock)
        try:
            yield world
        finally:
            world.restored()
            world.end()


def _kafka(data: Path, port: int, advertised: int) -> Engine:
    """The embedded broker, which sends its clients to another port than it listens on."""
    settings = Kafka(port=port, controller_port=free_port())
    # All of its heap from the start: what it grows by then is no heap that fills.
    heap = (f"-Xms{settings.heap_mb}m", "-XX:+AlwaysPreTouch")
    component = kafka_broker(settings, data, java=(*QUICK, *heap))
    own = free_port()
    # Of a setting that is there twice the last holds.
    with Path(component.command[-1]).open("a") as properties:
        properties.write(
            f"listeners=CLIENT://127.0.0.1:{port},OWN://127.0.0.1:{own},"
            f"CONTROLLER://127.0.0.1:{settings.controller_port}\n"
            f"advertised.listeners=CLIENT://127.0.0.1:{advertised},OWN://127.0.0.1:{own}\n"
            "listener.security.protocol.map=CLIENT:PLAINTEXT,OWN:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            "inter.broker.listener.name=OWN\n"
        )
    return Engine(component)


@contextmanager
def _disk(place: Path, megabytes: int) -> Iterator[Disk | None]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield Disk(place)
    finally:
        # Lazily, for whatever should still run in it.
        subprocess.run(["umount", "-l", str(place)], check=True)


def _config(
    directory: Path,
    ways: dict[str, TcpProxy],
    disk: Disk | None,
    overrides: dict[str, dict[str, Any]],
) -> Path:
    mesh = directory / "mesh.tsv"
    mesh.write_text(MESH)
    models = f"http://127.0.0.1:{ways['models'].port}/v1"
    names = [name for name in Ports.model_fields if name != "host"]
    sections: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap": f"127.0.0.1:{ways['kafka'].port}"},
        "elasticsearch": {"url": f"http://127.0.0.1:{ways['elasticsearch'].port}"},
        "servers.local": {"url": models, "timeout": 30.0},
        "embedder": {"url": models, "dimensions": DIMENSIONS},
        "mesh": {"edition": "small", "source": str(mesh)},
        "append": {"rows": 200, "seconds": 0.5},
        "parked": {"check_every": 3.0},
        "workers": {"retry_first": 0.2, "retry_longest": 2.0, "dead_letter_limit": 10_000},
        "ideal": {"preference_share": 0.5},
        # An array of tables has two brackets.
        "[answerers]": {"name": "teacher", "server": "local", "model": "teacher"},
        "ports": {name: free_port() for name in names},
        **overrides,
    }
    lines = [f"data = {json.dumps(str(directory / 'data'))}"]
    if disk:
        lines.append(f"tables = {json.dumps(str(disk.place / 'tables'))}")
    # JSON's strings, numbers and lists are TOML's.
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path = directory / "kailin.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
