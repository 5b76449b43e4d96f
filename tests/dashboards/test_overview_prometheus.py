"""Every panel shows something: the service runs, a real Prometheus scrapes it and is asked.

`kailin up` starts the stages and Prometheus, on a real broker and a real node. The model server is
scripted: it also refuses, rejects and is away at first, so that the panels of what goes wrong have
something to show too.
"""

import asyncio
import itertools
import json
import math
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dashboards.overview import FILE
from engines import free_port
from fakes.model_server import ModelServer, Reply, Script, away, prompt_of
from fakes.ncbi_server import NcbiServer, running_ncbi
from fakes.pubmed_records import records as pubmed_records
from fakes.records import article
from infra.kafka import Publisher
from infra.settings import Ports, Settings
from infra.settings_file import load
from streams.citation import AbstractSection, Article, MeshHeading
from streams.records import Retraction
from streams.topics import ARTICLES, RETRACTIONS

pytestmark = [pytest.mark.prometheus, pytest.mark.kafka, pytest.mark.elasticsearch]

READY_WITHIN = 180
SHOWN_WITHIN = 120

MESH = (
    "D000001\tAspirin\t\tD01.100.200\nD000002\tSalicylates\t\tD01.100\nD000003\tMaize\t\tB01.100\n"
)
ASPIRIN = (MeshHeading(ui="D000001", name="Aspirin", major=True),)
MAIZE = (MeshHeading(ui="D000003", name="Maize"),)
QUESTIONS = {
    "theta1": "Does aspirin lower platelet aggregation?",
    "theta2": "Does maize need rain?",
}


def answer(request: dict[str, Any]) -> Reply:
    """theta1 asks about the record, theta2 about something else."""
    if "messages" not in request:
        return Reply()
    prompt = prompt_of(request)
    if "REFUSED" in prompt:
        return Reply(status=400, text="REFUSED is refused")
    if "UNASKABLE" in prompt:
        return Reply(text="I would rather not say.")
    about = {
        "theta1": "Does aspirin lower platelet aggregation?",
        "theta2": "Does maize need rain?",
    }
    return Reply(text=about[request["model"]], delay=0.01)


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
    ]


def text(log: Path) -> str:
    return log.read_text()


@asynccontextmanager
async def service(config: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`kailin up`, stopped with all it started at the end of the block."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "infra.cli", "--config", str(config), "up"),
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
    """The HTTP API of the Prometheus that the service started."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._address = f"http://127.0.0.1:{settings.prometheus.port}"
        self._session = session

    async def ready(self) -> bool:
        try:
            async with self._session.get(f"{self._address}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def shows(self, expression: str) -> bool:
        """Whether a panel with this expression has a point to draw, of the last minute."""
        for variable, value in (
            ("$__rate_interval", "20s"),
            ("$__range", "1m"),
            ("$stage", ".*"),
        ):
            expression = expression.replace(variable, value)
        now = time.time()
        asked = {"query": expression, "start": now - 60, "end": now, "step": 5}
        async with self._session.get(f"{self._address}/api/v1/query_range", params=asked) as got:
            answer = await got.json()
        assert answer["status"] == "success", (expression, answer)
        points = (point for series in answer["data"]["result"] for point in series["values"])
        return any(math.isfinite(float(value)) for _, value in points)


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
    kafka_broker: Any,
    elasticsearch_node: Any,
    model_server: ModelServer,
    ncbi_server: NcbiServer,
    tmp_path: Path,
) -> Path:
    ports = [name for name in Ports.model_fields if name != "host"]
    mesh = tmp_path / "mesh.tsv"
    mesh.write_text(MESH)
    unique = uuid.uuid4().hex[:8]
    sections: dict[str, dict[str, object]] = {
        "kafka": {"bootstrap": kafka_broker.bootstrap, "prefix": f"dashboard-{unique}."},
        "elasticsearch": {"url": elasticsearch_node.url, "alias": f"dashboard-{unique}"},
        "servers.local": {"url": model_server.url},
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
        "ports": {name: free_port() for name in ports},
        "prometheus": {"port": free_port()},
    }
    file = tmp_path / "kailin.toml"
    # JSON's strings and numbers are TOML's.
    lines = [f"data = {json.dumps(str(tmp_path / 'data'))}"]
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    file.write_text("\n".join(lines) + "\n")
    return file


async def test_every_panel_shows_something(config: Path, tmp_path: Path) -> None:
    settings = load(config)
    panels = [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]
    empty = {(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]}
    assert empty
    log = tmp_path / "up.log"
    async with service(config, log) as process, aiohttp.ClientSession() as session:
        prometheus = Prometheus(settings, session)
        async with asyncio.timeout(READY_WITHIN):
            while not await prometheus.ready():
                assert process.returncode is None, text(log)
                await asyncio.sleep(0.5)
        deadline = time.monotonic() + SHOWN_WITHIN
        async with Publisher(settings) as publisher:
            await asyncio.gather(*(publisher.send(ARTICLES, held) for held in corpus()))
            for start in itertools.count(1000, 100):
                await asyncio.gather(*(publisher.send(ARTICLES, new) for new in news(start)))
                gone = Retraction(pmid=start - 100, reason="deleted", at=datetime.now(UTC))
                await publisher.send(RETRACTIONS, gone)
                await asyncio.sleep(1.0)
                empty = {(title, ask) for title, ask in empty if not await prometheus.shows(ask)}
                if not empty or time.monotonic() > deadline:
                    break
    assert empty == set()
