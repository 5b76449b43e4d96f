"""The gate whole: real tables, Kafka, Elasticsearch and MLflow, with scripted models."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from deltalake import write_deltalake
from mlflow import MlflowClient
from rich.console import Console

from engines import ElasticsearchEngine, KafkaEngine
from fakes.embed import hashed
from fakes.gate import Models, Say, ScriptedDeploy
from fakes.model_server import ModelServer, prompt_of
from fakes.records import article
from infra import gate_run
from infra.deploy import Address, DeployError
from infra.elastic import ElasticIndex, connect, prepare
from infra.gate_run import GateError, judge
from infra.kafka import Publisher, client_arguments, topic_name
from infra.model_registry import ModelRegistry, Registered, RegistryError
from infra.settings import Elasticsearch, Settings
from infra.tables import PREFERENCES, SCHEMAS, TableError, create, location
from infra.topic_admin import create_topics
from mlflow_engine import finished_job
from streams.citation import AbstractSection, Article, MeshHeading
from streams.codec import decode
from streams.errors import Transient
from streams.learning import Serving, Verdict
from streams.topics import SERVING, VERDICTS
from trainers.split import held_out

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch]

NOW = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)
SUBJECTS = ["aspirin", "statins", "insulin", "morphine", "lithium"]
UIS = {name: f"D00000{number}" for number, name in enumerate(SUBJECTS, 1)}


def about(pmid: int, subject: str) -> Article:
    return article(
        pmid,
        title=f"On {subject} in trial {pmid}.",
        sections=(AbstractSection(text=f"We gave {subject} to forty adults."),),
        mesh=(MeshHeading(ui=UIS[subject], name=subject),),
    )


def to_the_point(prompt: str, seed: int) -> str:
    subject = re.search(r"We gave (\w+)", prompt)
    return f"Does {subject[1] if subject else 'it'} help forty adults in a trial?"


def beside_it(prompt: str, seed: int) -> str:
    others = [name for name in SUBJECTS if name not in prompt]
    return f"Does {others[seed % len(others)]} help forty adults in a trial?"


class Gate:
    """One deployment with its models, and the gate run on it."""

    def __init__(self, settings: Settings, server: ModelServer, models: Models) -> None:
        self.settings = settings
        self.server = server
        self.models = models
        self.registry = ModelRegistry(settings)
        self.deploy = ScriptedDeploy(server.url, models, to_the_point)

    async def judge(self, job: str) -> Verdict:
        return await judge(
            self.settings,
            job,
            "theta3",
            registry=self.registry,
            deploy=self.deploy,
            console=Console(file=io.StringIO()),
        )

    def finish(self, job: str) -> str:
        """A job ends; its id."""
        base = self.settings.servers["local"].source.removeprefix("file://")
        finished_job(self.settings, job, base=base)
        return job

    async def verdicts(self) -> list[Verdict]:
        """All that was ever published."""
        consumer = AIOKafkaConsumer(**client_arguments(self.settings), enable_auto_commit=False)
        await consumer.start()
        try:
            at = TopicPartition(topic_name(self.settings, VERDICTS), 0)
            consumer.assign([at])
            await consumer.seek_to_beginning(at)
            found: list[Verdict] = []
            end = (await consumer.end_offsets([at]))[at]
            while await consumer.position(at) < end:
                for messages in (await consumer.getmany(timeout_ms=200)).values():
                    found += [decode(Verdict, message.value) for message in messages]
            return found
        finally:
            await consumer.stop()

    async def serve(self, model: Registered, say: Say) -> None:
        """As the deployer does once a model is champion."""
        self.models.say[model.name] = say
        async with Publisher(self.settings) as publisher:
            await publisher.send(
                SERVING,
                Serving(
                    generator="theta3",
                    model=model.name,
                    revision=model.version,
                    server="local",
                    url=self.server.url,
                    first=NOW,
                    by="gate",
                    reason="passed",
                    at=NOW,
                ),
            )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of 200 records that were asked about, the base model, and MeSH."""
    data = tmp_path_factory.mktemp("gate")
    settings = Settings(data=data)
    create(settings, PREFERENCES)
    rows = []
    for pmid in range(1, 201):
        record = about(pmid, SUBJECTS[pmid % 5])
        rows.append(
            {
                "id": f"{pmid:032x}",
                "pmid": pmid,
                "version": 1,
                "title": record.title,
                "abstract": record.abstract,
                "mesh": list(record.descriptors),
                "arrived": NOW,
                "appended": NOW,
                "month": "2026-03",
            }
        )
    write_deltalake(
        location(settings, PREFERENCES),
        pa.Table.from_pylist(rows, SCHEMAS[PREFERENCES]),
        mode="append",
    )
    tree = "".join(f"{ui}\t{name}\t\tD0{ui[-1]}.100\n" for name, ui in UIS.items())
    (data / "mesh.tsv").write_text(tree)
    (data / "base").mkdir()
    (data / "base" / "config.json").write_text("{}")
    return data


@pytest.fixture(scope="module")
def library(elasticsearch_node: ElasticsearchEngine) -> str:
    """The alias of an index with five records on each subject."""
    alias = f"gate-{uuid4().hex}"
    asyncio.run(_fill(elasticsearch_node.settings, alias))
    return alias


async def _fill(elasticsearch: Elasticsearch, alias: str) -> None:
    client = connect(elasticsearch)
    await prepare(client, alias, 384)
    index = ElasticIndex(client, alias)
    for number, subject in enumerate(SUBJECTS * 5, 1000):
        held = about(number, subject)
        await index.put(held, hashed(held.title), version=1)
    await client.indices.refresh(index=alias)
    await client.close()


@pytest.fixture
async def gate(
    data: Path,
    library: str,
    mlflow_uri: str,
    kafka_broker: KafkaEngine,
    elasticsearch_node: ElasticsearchEngine,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Gate]:
    models = Models()
    models.say["theta1"] = beside_it
    async with ModelServer(models) as server:
        prefix = f"gate{uuid4().hex[:8]}."
        settings = Settings(
            data=data,
            kafka=kafka_broker.settings.model_copy(update={"prefix": prefix}),
            elasticsearch=elasticsearch_node.settings.model_copy(update={"alias": library}),
            servers={"local": {"url": server.url, "source": f"file://{data}/base"}},
            embedder={"url": server.url},
            mesh={"edition": "test", "source": f"{data}/mesh.tsv"},
            mlflow={"uri": mlflow_uri, "experiment": request.node.name},
            training={"held_out": 0.3},
            gate={"records": 40, "least_records": 20, "resamples": 1000},
            deploy={"ready_within": 1},
            workers={"retry_first": 0.01, "retry_longest": 0.01},
        )
        await create_topics(settings, [VERDICTS, SERVING])
        yield Gate(settings, server, models)


async def test_a_candidate_that_retrieves_better_becomes_champion(gate: Gate):
    verdict = await gate.judge(gate.finish("job1"))

    assert verdict.passed, verdict.reason
    assert (verdict.champion, verdict.candidate) == ("theta1", "theta3-v1")
    assert verdict.figures["win_rate_lower"] > 0.5
    assert len(verdict.compared) == 40
    assert verdict.figures["left_out"] == 0
    assert all(held_out(one.pmid, 0.3) for one in verdict.compared)
    assert await gate.verdicts() == [verdict]

    champion = gate.registry.champion("theta3")
    assert (champion.name, champion.verdict, champion.by) == ("theta3-v1", "passed", "gate")
    assert champion.reason == verdict.reason
    assert gate.registry.candidate("theta3") is None

    client = MlflowClient(tracking_uri=gate.settings.mlflow_uri)
    metrics = client.get_run(champion.run).data.metrics
    assert metrics["gate_win_rate"] == verdict.figures["win_rate"]
    logged = client.download_artifacts(champion.run, "gate/verdict.json")
    written = json.loads(await asyncio.to_thread(Path(logged).read_text))
    assert len(written["compared"]) == 40

    # The candidate is let go of, and both were asked the same, in the same way, as θ3 is.
    assert "theta3-v1" not in gate.models.say
    asked: dict[str, list[Any]] = {"theta1": [], "theta3-v1": []}
    for request in gate.server.requests:
        if "messages" in request:
            how = (request["seed"], request["temperature"], request["top_p"])
            asked[request["model"]].append((prompt_of(request), *how))
    assert sorted(asked["theta1"]) == sorted(asked["theta3-v1"])
    assert {temperature for _, _, temperature, _ in asked["theta1"]} == {0.7}


async def test_a_candidate_that_retrieves_worse_is_blocked_with_its_reason(gate: Gate):
    await gate.judge(gate.finish("job1"))
    champion = gate.registry.champion("theta3")
    await gate.serve(champion, to_the_point)
    gate.deploy.will_say = beside_it

    verdict = await gate.judge(gate.finish("job2"))

    assert not verdict.passed
    assert verdict.champion == "theta3-v1"
    assert "win rate 0.000" in verdict.reason
    assert gate.registry.champion("theta3") == champion
    candidate = gate.registry.candidate("theta3")
    assert (candidate.name, candidate.verdict) == ("theta3-v2", "blocked")
    assert candidate.verdict_reason == verdict.reason


async def test_the_same_model_again_is_no_better(gate: Gate):
    gate.deploy.will_say = beside_it
    verdict = await gate.judge(gate.finish("job1"))
    assert not verdict.passed
    assert verdict.figures["win_rate"] == 0.5
    assert gate.registry.champion("theta3") is None


@pytest.mark.parametrize("at", ["log", "promote", "decide"])
async def test_after_a_crash_the_verdict_there_is_is_applied(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, at: str
):
    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    job = gate.finish("job1")
    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, at, crash)
        with pytest.raises(Crash):
            await gate.judge(job)
    asked = len(gate.server.requests)

    for _ in range(2):
        verdict = await gate.judge(job)

        assert verdict.passed
        assert await gate.verdicts() == [verdict]
        champion = gate.registry.champion("theta3")
        assert (champion.version, champion.verdict) == ("1", "passed")
        assert gate.registry.candidate("theta3") is None
        assert len(gate.registry.versions("theta3")) == 1
    assert len(gate.server.requests) == asked


async def test_a_candidate_whose_server_fails_is_let_go_of_and_judged_later(gate: Gate):
    def broken(prompt: str, seed: int) -> str:
        raise RuntimeError("the scripted model fails")

    gate.deploy.will_say = broken
    job = gate.finish("job1")
    with pytest.raises(Exception, match="model server failed"):
        await gate.judge(job)
    assert "theta3-v1" not in gate.models.say
    assert await gate.verdicts() == []
    assert gate.registry.candidate("theta3").verdict is None

    gate.deploy.will_say = to_the_point
    assert (await gate.judge(job)).passed


async def test_nothing_is_compared_with_a_champion_that_does_not_serve(gate: Gate):
    await gate.judge(gate.finish("job1"))
    with pytest.raises(Transient, match=r"theta3-v1 is champion and does not serve .*none"):
        await gate.judge(gate.finish("job2"))
    assert gate.deploy.started == ["theta3-v1"]


async def test_a_champion_chosen_by_hand_meanwhile_stays(gate: Gate):
    first, second = gate.finish("job1"), gate.finish("job2")
    verdict = await gate.judge(first)
    result = gate_run.read_result(gate_run.output_of(gate.settings, second))
    other = gate.registry.register(
        "theta3", job=second, run=result.run, directory=result.model, base="b", adapter=True
    )
    gate.registry.promote(gate.registry.version("theta3", "1"), by="gate", reason="passed")
    late = replace(verdict, job=second, candidate=other.name, champion="theta3-v7")
    gate_run.apply(gate.registry, other, late)
    assert gate.registry.champion("theta3").name == "theta3-v1"
    assert gate.registry.version("theta3", other.version).verdict == "passed"


@pytest.mark.parametrize("how", ["rollback", "promote"])
async def test_a_person_who_goes_back_before_the_verdict_is_written_is_not_overruled(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
):
    await gate.judge(gate.finish("job1"))
    first = gate.registry.champion("theta3")
    await gate.serve(first, beside_it)
    job = gate.finish("job2")

    def crash(*_: object, **__: object) -> None:
        raise RegistryError("stopped here")

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, "decide", crash)
        with pytest.raises(RegistryError):
            await gate.judge(job)
    assert gate.registry.champion("theta3").version == "2"
    if how == "rollback":
        gate.registry.rollback("theta3", by="someone", reason="questions in Latin")
    else:
        gate.registry.promote(first, by="someone", reason="questions in Latin")

    assert (await gate.judge(job)).passed
    champion = gate.registry.champion("theta3")
    assert (champion.version, champion.by) == ("1", "someone")
    assert gate.registry.version("theta3", "2").verdict == "passed"


async def test_a_job_without_a_result_is_named(gate: Gate):
    with pytest.raises(GateError, match=r"job nothing: there is no result in .*nothing/output"):
        await gate.judge("nothing")


async def test_without_held_out_records_it_is_blocked(gate: Gate, tmp_path: Path):
    gate.settings = gate.settings.model_copy(update={"tables": str(tmp_path)})
    create(gate.settings, PREFERENCES)
    verdict = await gate.judge(gate.finish("job1"))
    assert verdict.reason == "0 records to compare on, expected 20 or more"
    assert gate.deploy.started == []


async def test_without_any_table_nothing_is_decided(gate: Gate, tmp_path: Path):
    gate.settings = gate.settings.model_copy(update={"tables": str(tmp_path / "mistyped")})
    with pytest.raises(TableError, match=r"none of the tables preferences, .*mistyped"):
        await gate.judge(gate.finish("job1"))
    assert await gate.verdicts() == []


async def test_a_candidate_that_cannot_be_served_is_not_judged(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    async def failing(*_: object, **__: object) -> Address:
        raise DeployError("theta3-v1: out of memory")

    monkeypatch.setattr(gate.deploy, "start", failing)
    with pytest.raises(DeployError, match="out of memory"):
        await gate.judge(gate.finish("job1"))
    assert await gate.verdicts() == []
