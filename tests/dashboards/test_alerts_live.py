"""What is broken is told, and what is mended too: a real Prometheus, Alertmanager and service.

The rules, routes and intervals are the real ones, but every length of time in them is a sixtieth.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from engines import Engine, KafkaEngine, free_port, unavailable
from fakes.records import article
from infra import firing_alerts
from infra.alertmanager import alertmanager
from infra.kafka import Publisher, client_arguments, topic_name
from infra.prometheus import RULES, prometheus
from infra.settings import Ports, Settings
from infra.settings_file import load
from streams.topics import ALIGNMENTS, ARTICLES

pytestmark = [pytest.mark.prometheus, pytest.mark.kafka]

TESTS = Path(__file__).parent.parent
STAGES = ("generate", "prefer")
LIMIT = 20
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A disk of so many bytes is filled.
DISK = 8 * 2**20


def faster(text: str) -> str:
    """The same configuration with each length of time a sixtieth, and no less than a second."""

    def sixtieth(length: re.Match[str]) -> str:
        return f"{max(1, int(length[1]) * UNITS[length[2]] // 60)}s"

    return re.sub(r"\b(\d+)([smhd])\b", sixtieth, text)


class Receiver:
    """What Alertmanager posts to; `told` are the alerts in the order in which they came."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.extend(
                    json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.told = told
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def status(self, alert: str, **labels: str) -> str | None:
        """What was last told of an alert: firing, resolved, or nothing."""
        wanted = {"alertname": alert, **labels}
        found = [told["status"] for told in self.told if wanted.items() <= told["labels"].items()]
        return found[-1] if found else None


@dataclass
class World:
    """`kailin up` of two stages, a model server, and who watches them."""

    config: Path
    webhook: Receiver
    heartbeat: Receiver
    disk: Path | None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def start(self, name: str, *command: str) -> None:
        path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
        with (self.config.parent / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                (sys.executable, "-m", *command),
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )

    def start_service(self) -> None:
        only = (word for stage in STAGES for word in ("--only", stage))
        self.start("up", "infra.cli", "--config", str(self.config), "up", *only)

    def start_model(self) -> None:
        port = self.settings.servers["local"].address.rsplit(":", 1)[1].removesuffix("/v1")
        self.start("model", "fakes.model_server", "--port", port, "--delay", "0.02")

    def stop(self, name: str) -> None:
        self.processes[name].terminate()
        assert self.processes.pop(name).wait(60) in (0, -15)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"no {what} in {seconds} s; {self.logs()}"
            time.sleep(0.2)

    def wait_for(self, status: str, alert: str, **labels: str) -> None:
        self.wait_until(
            lambda: self.webhook.status(alert, **labels) == status, f"{alert} {labels} {status}"
        )

    def logs(self) -> str:
        told = [f"{a['status']} {a['labels']}" for a in self.webhook.told]
        tails = (path.read_text()[-600:] for path in self.config.parent.glob("*.log"))
        return "\n".join([*told, *tails])

    def publish(self, pmids: range) -> None:
        async def publish() -> None:
            async with Publisher(self.settings) as publisher:
                await asyncio.gather(*(publisher.send(ARTICLES, article(p)) for p in pmids))

        asyncio.run(publish())

    def publish_garbage(self, count: int) -> None:
        async def publish() -> None:
            async with AIOKafkaProducer(**client_arguments(self.settings)) as producer:
                topic = topic_name(self.settings, ALIGNMENTS)
                for number in range(count):
                    await producer.send_and_wait(topic, b"no record", key=b"%d" % number)

        asyncio.run(publish())


@contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """A file system of its own of a few MB; None where this user may mount none."""
    directory.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(directory))
    if subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(("umount", "--lazy", str(directory)), check=True)


@contextmanager
def watchers(settings: Settings, rules: Path) -> Iterator[None]:
    """Prometheus and Alertmanager as `kailin up` starts them, with all their times shortened."""
    rules.mkdir()
    for file in RULES.glob("*.rules.yaml"):
        (rules / file.name).write_text(faster(file.read_text()))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr("infra.prometheus.RULES", rules)
        for component in (prometheus(settings), alertmanager(settings)):
            if component is None:
                unavailable("there is no prometheus or alertmanager on PATH")
            config = settings.data / component.name / f"{component.name}.yml"
            config.write_text(faster(config.read_text()))
            engine = Engine(component)
            engine.start()
            stack.callback(engine.kill)
        yield


@pytest.fixture(scope="module")
def world(
    prometheus_binary: str, kafka_broker: KafkaEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("alerts")
    webhook, heartbeat = Receiver(), Receiver()
    with small_disk(directory / "tables") as disk, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAILIN_ALERTS__WEBHOOK", webhook.url)
        patch.setenv("KAILIN_ALERTS__HEARTBEAT", heartbeat.url)
        sections: dict[str, dict[str, object]] = {
            "kafka": {
                "bootstrap": kafka_broker.bootstrap,
                "prefix": f"alerts-{uuid.uuid4().hex[:8]}.",
            },
            "elasticsearch": {"url": "http://127.0.0.1:9"},
            "servers.local": {"url": f"http://127.0.0.1:{free_port()}/v1"},
            "workers": {"retry_longest": 1.0, "dead_letter_limit": LIMIT, "window": 8},
            "ports": {name: free_port() for name in Ports.model_fields if name != "host"},
            "prometheus": {"port": free_port()},
            "alerts": {"port": free_port()},
        }
        lines = [f"data = {json.dumps(str(directory / 'data'))}"]
        lines += [f"tables = {json.dumps(str(directory / 'tables'))}"]
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(one)}" for key, one in values.items())]
        config = directory / "kailin.toml"
        config.write_text("\n".join(lines) + "\n")
        world = World(config, webhook, heartbeat, disk)
        try:
            world.start_model()
            world.start_service()
            with watchers(world.settings, directory / "rules"):
                yield world
        finally:
            for process in world.processes.values():
                process.terminate()
            for process in world.processes.values():
                process.wait(60)


def test_a_model_server_that_is_killed(world: World) -> None:
    world.publish(range(1, 20))
    log = world.settings.data / "logs" / "generate.log"
    world.wait_until(lambda: log.exists() and "generate: working" in log.read_text(), "generate")
    world.kill("model")
    world.publish(range(20, 60))
    for model in ("theta1", "theta2"):
        world.wait_for("firing", "KailinModelFailing", model=model, severity="critical")
    world.wait_for("firing", "KailinStageStuck", stage="generate", severity="critical")
    assert world.webhook.status("KailinStageStuck", stage="prefer") is None

    world.start_model()
    for model in ("theta1", "theta2"):
        world.wait_for("resolved", "KailinModelFailing", model=model)
    world.wait_for("resolved", "KailinStageStuck", stage="generate")


def test_a_stage_that_its_dead_letters_stop(world: World) -> None:
    world.publish_garbage(LIMIT // 2)
    world.wait_for("firing", "KailinDeadLetters", stage="prefer", severity="warning")
    assert world.webhook.status("KailinProcessStopped") is None
    world.publish_garbage(LIMIT)
    world.wait_for("firing", "KailinProcessStopped", component="prefer", severity="critical")
    assert world.webhook.status("KailinProcessDown", process="prefer") != "firing"

    # What is left of the garbage is under the limit now.
    world.stop("up")
    world.start_service()
    world.wait_for("resolved", "KailinProcessStopped", component="prefer")


def test_a_disk_that_fills_up(world: World) -> None:
    if world.disk is None:
        pytest.skip("no file system can be mounted here")
    assert world.webhook.status("KailinDiskFull") is None
    large = world.disk / "large"
    large.write_bytes(bytes(DISK * 95 // 100))
    world.wait_for("firing", "KailinDiskFull", directory=str(world.disk), severity="critical")
    shown = [str(firing_alerts.line(one)) for one in firing_alerts.read_status(world.settings)]
    assert any(
        line.startswith("critical: ") and f"of the disk of {world.disk} is free. Since 20" in line
        for line in shown
    )
    large.unlink()
    world.wait_for("resolved", "KailinDiskFull", directory=str(world.disk))


def test_what_is_told_can_be_read_and_the_heartbeat_goes_on(world: World) -> None:
    world.wait_until(lambda: len(world.heartbeat.told) >= 2, "second heartbeat")
    assert {told["labels"]["alertname"] for told in world.heartbeat.told} == {"KailinWatchdog"}
    assert world.webhook.status("KailinWatchdog") is None
    for told in world.webhook.told:
        assert "error expanding" not in told["annotations"]["summary"]
        assert told["annotations"]["runbook"] == (
            f"docs/runbook.md#{told['labels']['alertname'].lower()}"
        )
