"""What `kailin up` starts, from the settings, and how it is started and awaited."""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prometheus_client import CollectorRegistry
from rich.console import Console

from consumers.stage import MISCONFIGURED, TOO_MANY_DEAD_LETTERS
from infra import disk, leash, logs, run_state
from infra.alertmanager import alertmanager
from infra.artifacts import ArtifactError
from infra.component import Component, ComponentError
from infra.down import STOP_WITHIN
from infra.elasticsearch_node import elasticsearch_node
from infra.kafka import BrokerUnreachable
from infra.kafka_broker import kafka_broker
from infra.log_tail import tail
from infra.metrics_server import serving
from infra.prometheus import answers, prometheus, reachable
from infra.run_state import AlreadyRunning
from infra.run_view import Display
from infra.settings import Settings, SettingsError
from infra.supervisor import StartFailed, Supervisor, Wave
from infra.topic_admin import TopicError, create_topics
from infra.vllm_server import vllm
from streams.metrics import Metrics

# Every way in which a start fails for a reason that its one-line message explains.
FAILURES = (
    AlreadyRunning, ArtifactError, BrokerUnreachable, ComponentError, SettingsError, StartFailed,
    TopicError,
)  # fmt: skip

# The exit statuses after which a worker is not started again: it would fail in the same way, or
# drain its topic into the dead letters.
FINAL = {
    MISCONFIGURED: "something is to be put right first: the end of its log says what",
    TOO_MANY_DEAD_LETTERS: "stopped by its dead-letter limit: see its log and dead.letters",
}

# What watches over the others, where its binary is on PATH.
WATCHERS = {"prometheus": prometheus, "alertmanager": alertmanager}

Only = Collection[str]

# Lines of its log that are shown where the service does not start.
SHOWN = 40

log = logging.getLogger(__name__)


def engine_names(settings: Settings) -> dict[str, dict[str, int]]:
    """The engines that are embedded by these settings, with the settings of their ports."""
    kafka, search = settings.kafka, settings.elasticsearch
    engines: dict[str, dict[str, int]] = {}
    if kafka.embedded:
        engines["kafka"] = {
            "kafka.port": kafka.port,
            "kafka.controller_port": kafka.controller_port,
            "ports.kafka": settings.ports.kafka,
        }
    if search.embedded:
        engines["elasticsearch"] = {
            "elasticsearch.port": search.port,
            "elasticsearch.transport_port": search.transport_port,
        }
    used = {asked.server for asked in settings.asked}
    for name, server in settings.servers.items():
        if server.embedded and name in used:
            engines[f"vllm-{name}"] = {f"servers.{name}.port": server.port}
    return engines


def component_names(settings: Settings) -> tuple[str, ...]:
    """Everything that `up` can start, in the order in which it does."""
    stages, followers = settings.ports.stages, _followers(settings)
    return (*engine_names(settings), *stages, *followers, *WATCHERS)


def _followers(settings: Settings) -> dict[str, tuple[str, ...]]:
    """What runs beside the stages, and its command: new records, and the learning loop."""
    commands: dict[str, tuple[str, ...]] = {}
    if settings.follow.any:
        commands["ingest"] = ("ingest", "follow")
    if settings.training.enabled:
        commands["trainer"] = ("trainer",)
    # What has been put in place goes on serving also where nothing more is trained.
    commands["deployer"] = ("deployer",)
    return commands


def plan(settings: Settings, config: Path | None, only: Only, console: Console) -> tuple[Wave, ...]:
    """Prepares what is to be started (all, or `only` those named) and gives the order.

    Fetches, compiles and converts what is not there yet, which blocks. Raises one of `FAILURES`.
    """
    chosen = [name for name in component_names(settings) if not only or name in only]
    engines = []
    for name in engine_names(settings):
        if name in chosen:
            console.print(f"preparing {name}", style="dim")
            engines.append(_engine(name, settings))
    workers = tuple(
        worker(name, settings, config) for name in settings.ports.stages if name in chosen
    )
    followers = tuple(
        _process(name, command, _port(name, settings), settings=settings, config=config)
        for name, command in _followers(settings).items()
        if name in chosen
    )
    if (marker := run_state.restoring(settings.data)).exists() and (workers or followers):
        raise StartFailed(
            f"{marker}: a restore was begun here and not finished, so nothing may work on what "
            "there is; `kailin doctor` says what to do (the engines alone start with --only)"
        )
    watchers = (start(settings) for name, start in WATCHERS.items() if name in chosen)
    topics = _topics(settings, console) if workers or "kafka" in chosen else None
    return (
        Wave(components=tuple(engines), then=topics),
        Wave(components=workers, final=FINAL),
        Wave(components=followers, final=FINAL),
        Wave(components=tuple(filter(None, watchers))),
    )


def _engine(name: str, settings: Settings) -> Component:
    if name == "kafka":
        return kafka_broker(settings.kafka, settings.data, metrics_port=settings.ports.kafka)
    if name == "elasticsearch":
        return elasticsearch_node(settings.elasticsearch, settings.data)
    return vllm(name.removeprefix("vllm-"), settings)


def worker(stage: str, settings: Settings, config: Path | None) -> Component:
    """A stage's worker: `kailin run STAGE`."""
    return _process(
        stage, ("run", stage), settings.ports.stages[stage], settings=settings, config=config
    )


def _port(name: str, settings: Settings) -> int:
    port: int = getattr(settings.ports, name)
    return port


def _process(
    name: str,
    arguments: tuple[str, ...],
    port: int,
    *,
    settings: Settings,
    config: Path | None,
) -> Component:
    """A process of this program, ready when its /metrics answers."""
    url = f"http://{reachable(settings.ports.host)}:{port}/metrics"
    return Component(
        name=name,
        command=(*kailin(config), *arguments),
        env={},
        log=settings.data.resolve() / "logs" / f"{name}.log",
        ready=lambda: answers(url),
        ready_within=120.0,
        stop_within=30.0,
    )


def kailin(config: Path | None) -> tuple[str, ...]:
    """This program's own command line, with the same settings."""
    given = ("--config", str(config.resolve())) if config else ()
    return (sys.executable, "-m", "infra.cli", *given)


def _topics(settings: Settings, console: Console) -> Callable[[], Awaitable[None]]:
    async def create() -> None:
        for difference in await create_topics(settings):
            console.print(str(difference), style="yellow", markup=False, soft_wrap=True)

    return create


def up(settings: Settings, config: Path | None, only: Only, console: Console) -> None:
    """Runs the service in the foreground until it is told to stop. Raises one of `FAILURES`."""
    with _claim(settings.data, console) as lock:
        check_ports(settings, only)
        waves = plan(settings, config, only, console)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        disk.watch(settings, metrics)
        supervisor = Supervisor(waves, data=settings.data, lock=lock, metrics=metrics)
        ports = settings.ports
        logs.configure(settings, "supervisor")
        with (
            serving("supervisor", ports.host, ports.supervisor, registry),
            Display(console, log.info) as display,
        ):
            asyncio.run(supervisor.run(display.show))


def _claim(data: Path, console: Console) -> IO[str]:
    def waiting() -> None:
        console.print("waiting for what the last run started to stop", style="dim")

    return run_state.claim(data, patience=STOP_WITHIN, waiting=waiting)


def check_ports(settings: Settings, only: Only) -> None:
    """See that no other program has a port that `up` needs. Raises `StartFailed`."""
    ports = {f"ports.{name}": port for name, port in settings.ports.stages.items()}
    ports |= {f"ports.{name}": _port(name, settings) for name in _followers(settings)}
    needed = {"ports.supervisor": settings.ports.supervisor}
    for name, engine in engine_names(settings).items():
        if not only or name in only:
            needed |= engine
    needed |= {
        key: port for key, port in ports.items() if not only or key.removeprefix("ports.") in only
    }
    taken = [f"{key} = {port}" for key, port in needed.items() if not _free(port)]
    if taken:
        raise StartFailed(
            f"{', '.join(taken)}: taken by another program; stop it or set another port"
        )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections of the last run that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def up_detached(settings: Settings, config: Path | None, only: Only, console: Console) -> None:
    """Starts the service in the background and returns when it is ready.

    Ctrl-C before that stops it again. Raises one of `FAILURES`.
    """
    _prepare(settings, config, only, console)
    with _supervisor_log(settings).open("ab") as output:
        process = subprocess.Popen(
            _up_command(config, only),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await_start(settings, process, console)
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextmanager
def service(
    settings: Settings, config: Path | None, console: Console, only: Only = ()
) -> Iterator[None]:
    """The service for the length of a `with` block, ready at its start and gone at its end.

    It is tied to this process, so it also ends with it. A service that already runs on the data
    directory is used as it is and left running. Raises one of `FAILURES`.
    """
    if run_state.load(settings.data):
        yield
        return
    _prepare(settings, config, only, console)
    leashed = (sys.executable, "-I", "-S", leash.__file__, "--grace", str(STOP_WITHIN), "--")
    with _supervisor_log(settings).open("ab") as output:
        process = subprocess.Popen(
            (*leashed, *_up_command(config, only)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        _await_start(settings, process, console)
        yield
    finally:
        process.terminate()
        process.wait()


def _prepare(settings: Settings, config: Path | None, only: Only, console: Console) -> None:
    """Does what takes long or asks for attention here, where its progress can be seen."""
    with _claim(settings.data, console):
        check_ports(settings, only)
        plan(settings, config, only, console)


def _up_command(config: Path | None, only: Only) -> tuple[str, ...]:
    return (*kailin(config), "up", *(word for name in only for word in ("--only", name)))


def _supervisor_log(settings: Settings) -> Path:
    path = settings.data.resolve() / "logs" / "supervisor.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _await_start(settings: Settings, process: "subprocess.Popen[bytes]", console: Console) -> None:
    path = _supervisor_log(settings)
    before = path.stat().st_size
    with Display(console) as display:
        while process.poll() is None:
            state = run_state.load(settings.data)
            if state:
                display.show(state)
                if state.started:
                    return
            time.sleep(0.25)
    said = "\n".join(tail(path, SHOWN, before)) or f"exit status {process.returncode}"
    raise StartFailed(f"the service did not start ({path}):\n{said}")
