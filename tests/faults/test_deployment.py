"""Models replaced under load, on a real broker, with servers whose answers name their weights."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from consumers.ports import Prompted
from engines import KafkaEngine, free_port, processes_using
from fakes.deploy import DirectoryRegistry
from fakes.model_server import said
from fakes.records import article
from infra.kafka import Publisher
from infra.openai_generate import OpenAIGenerate
from infra.settings import Settings
from infra.topic_admin import create_topics
from infra.topic_view import TopicView
from published import messages
from streams.codec import decode
from streams.errors import Transient
from streams.learning import Serving
from streams.metrics import Metrics
from streams.records import Questions
from streams.topics import ARTICLES, QUESTIONS, SERVING

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TESTS = Path(__file__).parents[1]
CLIENTS = 8


@dataclass
class Deployment:
    """A deployer as a process, the registry that it follows, and what it tells."""

    settings: Settings
    registry: DirectoryRegistry
    view: TopicView[Serving]
    overrides: dict[str, object]
    process: subprocess.Popen[bytes] | None = None

    @property
    def serving(self) -> Serving | None:
        return self.view.records.get("theta3")

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/v1" for port in self.settings.deploy.ports]

    def start(self) -> None:
        self.process = self.run(str(TESTS / "faults" / "deployer_process.py"))

    def run(self, *program: str) -> subprocess.Popen[bytes]:
        """Start a Python program with these settings."""
        environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
        for name, value in self.overrides.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment[f"KAILIN_{name.upper()}"] = text
        with (self.settings.data / "deployer.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *program],
                env={**environment, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
                stdout=log,
                stderr=log,
            )

    def end(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(30)

    def servers(self) -> list[psutil.Process]:
        """The model servers that run, without their leashes."""
        found = []
        for process in processes_using(self.settings.data.resolve() / "models"):
            with suppress(psutil.Error):
                if "leash.py" not in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def metric(self, name: str, process: str = "deployer") -> float | None:
        """The sum of a metric over its labels; None where it is not there, or nobody answers."""
        url = f"http://127.0.0.1:{getattr(self.settings.ports, process)}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except OSError:
            return None
        values = [s.value for f in families for s in f.samples if s.name == name]
        return sum(values) if values else None

    async def until(
        self, condition: Callable[[], object], what: str, seconds: float = 60.0
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = (self.settings.data / "deployer.log").read_text(errors="replace")
                raise AssertionError(f"no {what} within {seconds:g} s\n{log[-3000:]}")
            await asyncio.sleep(0.1)


@pytest.fixture
async def deployment(kafka_broker: KafkaEngine, tmp_path: Path) -> AsyncIterator[Deployment]:
    overrides: dict[str, object] = {
        "data": str(tmp_path),
        "kafka": {"bootstrap": kafka_broker.bootstrap, "prefix": f"d{uuid.uuid4().hex[:8]}."},
        "deploy": {
            "ports": [free_port(), free_port()],
            "drain": 1.0,
            "look_every": 0.3,
            "ready_within": 60.0,
        },
        "ideal": {"preference_share": 0.0},
        "ports": {"deployer": free_port(), "generate": free_port()},
    }
    settings = Settings(**overrides)  # type: ignore[arg-type]
    await create_topics(settings, [SERVING])
    registry = DirectoryRegistry(tmp_path / "registry")
    async with TopicView(settings, SERVING, Serving) as view:
        made = Deployment(settings, registry, view, overrides)
        try:
            yield made
        finally:
            if made.process:
                made.process.kill()
                made.process.wait()
    await made.until(lambda: not made.servers(), "end of the servers")


@dataclass
class Load:
    """What came of the requests: how many each model answered, those that failed, and mix-ups."""

    answered: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)


@asynccontextmanager
async def under_load(deployment: Deployment) -> AsyncIterator[Load]:
    """Clients that follow the topic as the generate stage does, and ask without a pause."""
    load = Load()
    clients: dict[str, OpenAIGenerate] = {}
    stop = asyncio.Event()

    async def ask(client: int) -> None:
        for seed in range(sys.maxsize):
            serving = deployment.serving
            if stop.is_set():
                return
            if serving is None or serving.url is None:
                await asyncio.sleep(0.1)
                continue
            if serving.url not in clients:
                server = deployment.settings.servers[serving.server]
                clients[serving.url] = OpenAIGenerate(
                    server.model_copy(update={"url": serving.url}), Metrics(CollectorRegistry())
                )
            prompt = f"client {client}"
            request = Prompted(
                model=serving.model, prompt=prompt, temperature=0.7, top_p=1.0, max_tokens=32,
                seed=seed,
            )  # fmt: skip
            try:
                completion = await clients[serving.url](request)
            except Transient as error:
                load.failed.append(str(error))
                await asyncio.sleep(0.1)
                continue
            load.answered[serving.model] = load.answered.get(serving.model, 0) + 1
            # The weights of version n say that they are theta3-vn, whatever name was asked for.
            if completion.text != said(serving.model, prompt, seed):
                load.mixed_up.append(f"{serving.model}: {completion.text}")

    asking = [asyncio.create_task(ask(client)) for client in range(CLIENTS)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*asking)
        for client in clients.values():
            await client.close()


def log_of(deployment: Deployment) -> Iterator[str]:
    yield from (deployment.settings.data / "deployer.log").read_text().splitlines()


async def test_models_are_replaced_under_load_without_a_failed_request(deployment: Deployment):
    for version in (1, 2, 3):
        deployment.registry.add(version, flags="--delay 0.05")
    deployment.registry.promote(1)
    deployment.start()
    await deployment.until(lambda: deployment.serving, "model")
    first = deployment.serving
    assert first
    async with under_load(deployment) as load:
        for version in (1, 2, 3):
            deployment.registry.promote(version)
            name = f"theta3-v{version}"
            await deployment.until(
                lambda name=name: load.answered.get(name, 0) > 50, f"answers of {name}"
            )
        await deployment.until(lambda: len(deployment.servers()) == 1, "end of the old servers")
        await asyncio.sleep(0.5)
    assert load.failed == load.mixed_up == []
    assert set(load.answered) == {"theta3-v1", "theta3-v2", "theta3-v3"}
    assert deployment.serving
    assert deployment.serving.first == first.first
    assert deployment.serving.revision == "3"
    assert deployment.metric("kailin_serving_revision") == 3


async def test_each_row_names_the_model_that_wrote_it_while_models_are_replaced(
    deployment: Deployment,
):
    for version in (1, 2):
        deployment.registry.add(version, flags="--delay 0.05")
    deployment.registry.promote(1)
    deployment.start()
    await create_topics(deployment.settings)
    await deployment.until(lambda: deployment.serving, "model")
    generate = deployment.run("-m", "infra.cli", "run", "generate")
    pmids = 0

    def asked() -> float:
        return deployment.metric("kailin_records_out_total", "generate") or 0.0

    try:
        async with Publisher(deployment.settings) as publisher:
            for version in (1, 2):
                deployment.registry.promote(version)
                # Until the worker has asked about some records since it began to serve.
                enough: float | None = None
                deadline = time.monotonic() + 120
                while enough is None or asked() < enough:
                    assert time.monotonic() < deadline, f"{asked():.0f} asked, {pmids} published"
                    if enough is None and deployment.serving.revision == str(version):  # type: ignore[union-attr]
                        enough = asked() + 150
                    for _ in range(20):
                        pmids += 1
                        await publisher.send(ARTICLES, article(pmids))
                        await asyncio.sleep(0.02)
        found: dict[int, Questions] = {}

        async def all_asked() -> bool:
            all_of = await asyncio.to_thread(messages, deployment.settings, QUESTIONS)
            found.update((int(m.key), decode(Questions, m.value)) for m in all_of)
            return len(found) == pmids

        deadline = time.monotonic() + 60
        while not await all_asked():
            assert time.monotonic() < deadline, f"{len(found)} of {pmids} records asked about"
        retries = deployment.metric("kailin_retries_total", "generate")
    finally:
        generate.kill()
        generate.wait()
    written: dict[str, int] = {}
    for questions in found.values():
        (candidate,) = questions.candidates
        assert questions.role == "ideal"
        assert candidate.question
        assert candidate.question.startswith(f"Does {candidate.model} change")
        written[candidate.model] = written.get(candidate.model, 0) + 1
    assert set(written) == {"theta3-v1", "theta3-v2"}
    assert not retries


async def test_a_model_that_never_becomes_healthy_leaves_the_old_one(deployment: Deployment):
    deployment.registry.add(1)
    deployment.registry.add(2, flags="--no-such-option")
    deployment.registry.promote(1)
    deployment.start()
    await deployment.until(lambda: deployment.serving, "model")
    async with under_load(deployment) as load:
        deployment.registry.promote(2)
        await deployment.until(lambda: deployment.metric("kailin_deployment_failing") == 1, "alert")
        deployment.registry.promote(1)
        await deployment.until(
            lambda: deployment.metric("kailin_deployment_failing") == 0, "end of the alert"
        )
    assert load.failed == load.mixed_up == []
    assert set(load.answered) == {"theta3-v1"}
    assert any("theta3-v2 cannot be put in place" in line for line in log_of(deployment))


async def test_after_kills_it_serves_again_and_leaves_no_server_behind(deployment: Deployment):
    for version in (1, 2):
        deployment.registry.add(version)
    deployment.registry.promote(1)
    deployment.start()
    await deployment.until(lambda: deployment.serving, "model")
    async with under_load(deployment) as load:
        await deployment.until(lambda: load.answered, "answers")

        async def answers_again() -> None:
            before = sum(load.answered.values())
            await deployment.until(
                lambda: sum(load.answered.values()) > before + 50, "answers after a kill"
            )

        (server,) = deployment.servers()
        server.kill()
        await answers_again()
        # The leash is killed, and the server must not outlive it.
        (server,) = deployment.servers()
        leash = server.parent()
        assert leash
        leash.kill()
        await answers_again()
        # The deployer is killed, and MLflow is asked for another model meanwhile.
        deployment.end(signal.SIGKILL)
        deployment.registry.promote(2)
        deployment.start()
        await deployment.until(
            lambda: load.answered.get("theta3-v2", 0) > 50, "answers of theta3-v2"
        )
        await deployment.until(lambda: len(deployment.servers()) == 1, "one server")
    assert load.mixed_up == []
    deployment.end(signal.SIGTERM)
    assert deployment.servers() == []


async def test_the_next_deployer_in_line_takes_over_from_one_that_was_killed(
    deployment: Deployment,
):
    deployment.registry.add(1)
    deployment.registry.promote(1)
    deployment.start()
    await deployment.until(lambda: deployment.serving, "model")
    data = deployment.settings.data / "other machine"
    data.mkdir()
    (data / "registry").symlink_to(deployment.settings.data / "registry")
    ports = {
        "deploy": {**deployment.overrides["deploy"], "ports": [free_port(), free_port()]},  # type: ignore[dict-item]
        "ports": {"deployer": free_port()},
    }
    overrides = {**deployment.overrides, "data": str(data), **ports}
    other = replace(
        deployment,
        settings=Settings(**overrides),  # type: ignore[arg-type]
        overrides=overrides,
        process=None,
    )
    other.start()
    try:
        await asyncio.sleep(8.0)
        assert other.servers() == []
        deployment.end(signal.SIGKILL)
        await other.until(other.servers, "server of the next")
        await other.until(
            lambda: other.serving and other.serving.url in other.addresses, "address of the next"
        )
    finally:
        other.end(signal.SIGTERM)
