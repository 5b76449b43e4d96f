"""Every panel and every rule has something to go by: a real Prometheus scrapes the real service.

`kailin up` starts the broker, the stages and Prometheus, on a real node. The model server is
scripted: it also refuses, rejects and is away at first, so that the panels of what goes wrong have
something to show too. The trainer and the deployer are the real ones, over a job, a gate and a
registry that are scripted. vLLM's own panels are asked for beside a real vLLM.
"""

import asyncio
import itertools
import json
import math
import os
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry

from consumers.ports import Prompted
from dashboards.written import FOLDER
from engines import Engine, free_port
from fakes import trainer_process, training_job
from fakes.deploy import DirectoryRegistry
from fakes.model_server import ModelServer, Reply, Script, away, prompt_of
from fakes.ncbi_server import NcbiServer, running_ncbi
from fakes.pubmed_records import records as pubmed_records
from fakes.records import article
from faults import deployer_process
from infra.kafka import Publisher
from infra.openai_generate import OpenAIGenerate
from infra.prometheus import RULES, prometheus
from infra.settings import Ports, Server, Settings
from infra.settings_file import load
from infra.up import component_names
from metric_bounds import bounds, most_series
from streams.citation import AbstractSection, Article, MeshHeading
from streams.metrics import Metrics
from streams.records import Retraction
from streams.topics import ARTICLES, RETRACTIONS

pytestmark = pytest.mark.prometheus

ROOT = Path(__file__).parents[2]
READY_WITHIN = 240
SHOWN_WITHIN = 180

PANELS = [
    panel
    for file in sorted(FOLDER.glob("*.json"))
    for panel in json.loads(file.read_text())["panels"]
    if panel["type"] != "row"
]
ASKED = {(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]}
OF_VLLM = {(title, expression) for title, expression in ASKED if "vllm:" in expression}

MESH = (
    "D000001\tAspirin\t\tD01.100.200\nD000002\tSalicylates\t\tD01.100\nD000003\tMaize\t\tB01.100\n"
)
ASPIRIN = (MeshHeading(ui="D000001", name="Aspirin", major=True),)
MAIZE = (MeshHeading(ui="D000003", name="Maize"),)
ABOUT = {
    "theta1": "Does aspirin lower platelet aggregation?",
    "theta2": "Does maize need rain?",
    "teacher": "Yes.",
}


def answer(request: dict[str, Any]) -> Reply:
    """theta1 asks about the record, theta2 about something else, but for what is to be a tie."""
    if "messages" not in request:
        return Reply()
    prompt = prompt_of(request)
    if "REFUSED" in prompt:
        return Reply(status=400, text="REFUSED is refused")
    if "UNASKABLE" in prompt:
        return Reply(text="I would rather not say.")
    asked = "theta1" if "EVEN" in prompt and request["model"] in ABOUT else request["model"]
    return Reply(text=ABOUT[asked], delay=0.01)


def record(pmid: int, title: str, mesh: tuple[MeshHeading, ...], *, corpus: bool) -> Article:
    text = f"{title} Record {pmid} says so."
    return article(
        pmid,
        title=title,
        sections=(AbstractSection(text=text),),
        mesh=mesh,
        corpus=corpus,
        arrived=datetime.now(UTC),
    )


def corpus() -> list[Article]:
    aspirin = [
        record(pmid, "Aspirin and platelet aggregation.", ASPIRIN, corpus=True)
        for pmid in range(1, 11)
    ]
    maize = [record(pmid, "Maize in rain.", MAIZE, corpus=True) for pmid in range(11, 21)]
    return aspirin + maize


def news(start: int) -> list[Article]:
    """A few records of each fate, one of them seen before."""
    aspirin = [
        record(pmid, "Aspirin in platelet aggregation, anew.", ASPIRIN, corpus=False)
        for pmid in range(start, start + 5)
    ]
    # What was without MeSH the last time has some now.
    late = record(start - 93, "Aspirin without MeSH.", ASPIRIN, corpus=False)
    return [
        *aspirin,
        replace(late, change="mesh"),
        record(999, "Aspirin once more.", ASPIRIN, corpus=False),
        record(start + 5, "UNASKABLE aspirin.", ASPIRIN, corpus=False),
        record(start + 6, "REFUSED aspirin.", ASPIRIN, corpus=False),
        record(start + 7, "Aspirin without MeSH.", (), corpus=False),
        record(start + 8, "EVEN aspirin.", ASPIRIN, corpus=False),
    ]


def text(log: Path) -> str:
    return log.read_text()


@asynccontextmanager
async def running(log: Path, *program: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program, told to stop at the end of the block."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program),
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        assert await process.wait() == 0, text(log)


class Prometheus:
    """The HTTP API of a Prometheus that runs as the settings say."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._address = f"http://127.0.0.1:{settings.prometheus.port}"
        self._session = session

    async def ready(self) -> bool:
        try:
            async with self._session.get(f"{self._address}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str, **asked: Any) -> Any:
        async with self._session.get(f"{self._address}/api/v1/{path}", params=asked) as got:
            answer = await got.json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]

    async def shows(self, expression: str) -> bool:
        """Whether a panel with this expression has a point to draw, of the last minute."""
        for variable, value in (("$__rate_interval", "20s"), ("$__range", "1m")):
            expression = expression.replace(variable, value)
        expression = re.sub(r"\$(stage|model|topic)", ".*", expression)
        now = time.time()
        found = await self.get("query_range", query=expression, start=now - 60, end=now, step=5)
        points = (point for series in found["result"] for point in series["values"])
        return any(math.isfinite(float(value)) for _, value in points)

    async def values(self, expression: str) -> dict[str, float]:
        """By process, the values of an expression now."""
        found = (await self.get("query", query=expression))["result"]
        return {one["metric"].get("process", ""): float(one["value"][1]) for one in found}


async def unshown(prometheus: Prometheus, asked: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(title, each) for title, each in asked if not await prometheus.shows(each)}


def selectors() -> set[tuple[str, str]]:
    """What the rules go by: each alert's name, with each of the series that it asks for."""
    return {
        (rule["alert"], match[0])
        for file in sorted(RULES.glob("*.rules.yaml"))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        for match in re.finditer(r"\b(kailin_\w+|up)\b(\{[^}]*\})?", rule["expr"])
    }


@pytest.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    script: Script = away(2.0, answer)
    async with ModelServer(script) as server:
        yield server


@pytest.fixture
def ncbi_server() -> Iterator[NcbiServer]:
    with running_ncbi(pubmed_records(3), limits=(1000, 1000)) as server:
        yield server


@pytest.fixture
def config(
    prometheus_binary: str,
    elasticsearch_node: Any,
    model_server: ModelServer,
    ncbi_server: NcbiServer,
    tmp_path: Path,
) -> Path:
    ports = [name for name in Ports.model_fields if name != "host"]
    mesh = tmp_path / "mesh.tsv"
    mesh.write_text(MESH)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    teacher = {"name": "teacher", "server": "local", "model": "teacher", "completion_price": 1.0}
    sections: dict[str, dict[str, object]] = {
        "kafka": {"port": free_port(), "controller_port": free_port()},
        "elasticsearch": {
            "url": elasticsearch_node.url,
            "alias": f"dashboard-{uuid.uuid4().hex[:8]}",
        },
        "servers.local": {"url": model_server.url, "source": f"file://{base}"},
        "embedder": {"url": model_server.url},
        "mesh": {"source": str(mesh), "edition": "test"},
        "append": {"seconds": 1.0},
        "parked": {"check_every": 2.0},
        "follow": {"entrez": ["asthma"]},
        "ncbi": {
            "email": "team@example.org",
            "eutils": ncbi_server.eutils,
            "poll": 1.0,
            "requests_per_second": 50.0,
        },
        "ideal": {"preference_share": 0.5, "floor": 0.0},
        "spending": {"tokens": 30_000},
        "training": {
            "rows": 10,
            "look_every": 0.5,
            "launcher": [sys.executable, training_job.__file__],
        },
        "deploy": {
            "mode": "replace",
            "ports": [free_port(), free_port()],
            "gate_port": free_port(),
            "drain": 1.0,
            "look_every": 0.5,
        },
        "ports": {name: free_port() for name in ports},
        "prometheus": {"port": free_port()},
        "alerts": {"port": free_port()},
    }
    file = tmp_path / "kailin.toml"
    # JSON's strings and numbers are TOML's.
    lines = [f"data = {json.dumps(str(tmp_path / 'data'))}"]
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    lines += ["[[answerers]]", *(f"{key} = {json.dumps(value)}" for key, value in teacher.items())]
    file.write_text("\n".join(lines) + "\n")
    return file


@asynccontextmanager
async def whole_service(config: Path, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """All processes; the trainer and the deployer over what is scripted in place of models."""
    settings = load(config)
    registry = DirectoryRegistry(settings.data / "registry")
    registry.add(1)
    registry.promote(1)
    others = {"trainer", "deployer", "alertmanager"}
    only = [name for name in component_names(settings) if name not in others]
    up = ("-m", "infra.cli", "--config", str(config), "up")
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        log = tmp_path / "up.log"
        process = await stack.enter_async_context(
            running(log, *up, *(word for name in only for word in ("--only", name)))
        )
        prometheus = Prometheus(settings, session)
        async with asyncio.timeout(READY_WITHIN):
            while not await prometheus.ready():
                assert process.returncode is None, text(log)
                await asyncio.sleep(0.5)
        for program in (trainer_process, deployer_process):
            log = tmp_path / f"{program.__name__}.log"
            await stack.enter_async_context(running(log, program.__file__ or "", str(config)))
        yield prometheus


@pytest.mark.kafka
@pytest.mark.elasticsearch
async def test_every_panel_and_rule_has_something_to_go_by(config: Path, tmp_path: Path) -> None:
    settings = load(config)
    empty = ASKED - OF_VLLM
    ruled = selectors()
    assert empty
    assert ruled
    async with whole_service(config, tmp_path) as prometheus, Publisher(settings) as publisher:
        deadline = time.monotonic() + SHOWN_WITHIN
        await asyncio.gather(*(publisher.send(ARTICLES, held) for held in corpus()))
        for start in itertools.count(1000, 100):
            await asyncio.gather(*(publisher.send(ARTICLES, new) for new in news(start)))
            gone = Retraction(pmid=start - 100, reason="deleted", at=datetime.now(UTC))
            await publisher.send(RETRACTIONS, gone)
            await asyncio.sleep(1.0)
            empty = await unshown(prometheus, empty)
            ruled = await unshown(prometheus, ruled)
            if not empty | ruled or time.monotonic() > deadline:
                break
        assert empty == set()
        assert ruled == set()
        # What is not there is not taken for shown.
        assert not await prometheus.shows("rate(kailin_nothing_total[$__rate_interval])")

        groups = (await prometheus.get("rules"))["groups"]
        wrong = {
            rule["name"]: rule["lastError"]
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        }
        assert groups
        assert wrong == {}

        series = await prometheus.values('max by (process) (scrape_samples_scraped{process!=""})')
        assert set(series) >= {"supervisor", "ingest", "trainer", "deployer"} | set(
            settings.ports.stages
        )
        assert max(series.values()) < most_series(), series
        for label, most in bounds().items():
            values = f'count(count by ({label}) ({{__name__=~"kailin_.+", {label}!=""}}))'
            (found,) = (await prometheus.values(values)).values()
            assert found <= most, (label, found)


@pytest.mark.vllm
async def test_every_panel_of_vllm_shows_something(
    prometheus_binary: str, vllm_server: tuple[str, tuple[str, ...]], tmp_path: Path
) -> None:
    url, names = vllm_server
    server = Server(url=url, metrics_url=url.replace("/v1", "/metrics"))
    settings = Settings(data=tmp_path, servers={"local": server}, prometheus={"port": free_port()})
    component = prometheus(settings)
    assert component
    engine = Engine(component)
    empty = set(OF_VLLM)
    assert empty
    try:
        await asyncio.to_thread(engine.start)
        async with (
            aiohttp.ClientSession() as session,
            OpenAIGenerate(server, Metrics(CollectorRegistry())) as ask,
        ):
            asked = Prometheus(settings, session)
            deadline = time.monotonic() + 90
            while empty and time.monotonic() < deadline:
                await asyncio.gather(*(ask(prompted(names[0], seed)) for seed in range(4)))
                empty = await unshown(asked, empty)
    finally:
        await asyncio.to_thread(engine.kill)
    assert empty == set()


def prompted(model: str, seed: int) -> Prompted:
    return Prompted(
        model=model, prompt="Name a drug.", temperature=0.7, top_p=0.9, max_tokens=8, seed=seed
    )
