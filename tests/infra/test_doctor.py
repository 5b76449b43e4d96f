"""`kailin doctor` names what is wrong, says what to do, and tells no secret."""

import asyncio
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from deltalake import DeltaTable
from rich.console import Console

from engines import ElasticsearchEngine, KafkaEngine, free_port
from faults.service import running_models
from infra import doctor, doctor_machine, doctor_services, doctor_stores, run_state
from infra.consumer_groups import commit
from infra.elastic import connect, prepare
from infra.finding import Finding
from infra.index_versions import IndexVersions
from infra.kafka import client_arguments, group_name, topic_name
from infra.settings import Settings
from infra.tables import SCHEMAS, create
from infra.topic_admin import create_topics
from streams.topics import ARTICLES, QUESTIONS

DOWN = "http://127.0.0.1:9"
SECRETS = {
    "KAILIN_KAFKA__PASSWORD": "kafka-horse-battery",
    "KAILIN_ELASTICSEARCH__API_KEY": "elastic-horse-battery",
    "KAILIN_SERVERS__GPU__API_KEY": "vllm-horse-battery",
    "KAILIN_MLFLOW__PASSWORD": "mlflow-horse-battery",
}


def with_verdict(found: list[Finding], verdict: str) -> list[str]:
    return [f"{f.area}: {f.said} → {f.remedy}" for f in found if f.verdict == verdict]


def run(config: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The command as a user runs it: its exit status, and all that it printed."""
    clean = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "--config", str(config), "doctor", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**clean, **environment, "COLUMNS": "200"},
    )
    return done.returncode, done.stdout


@pytest.fixture
def all_down(tmp_path: Path) -> Path:
    """A settings file of a deployment of which nothing answers, with a secret in an address."""
    key = tmp_path / "key"
    key.write_text("file-horse-battery\n")
    key.chmod(0o644)
    path = tmp_path / "kailin.toml"
    ports = "".join(
        f"{name} = {free_port()}\n"
        for name in ("supervisor", "trainer", "deployer", *Settings().ports.stages)
    )
    path.write_text(
        f'data = "{tmp_path}/data"\n'
        '[kafka]\nbootstrap = "127.0.0.1:9"\nsecurity_protocol = "SASL_PLAINTEXT"\n'
        'username = "kailin"\n'
        f'[elasticsearch]\nurl = "{DOWN}"\n'
        f'[servers.gpu]\nurl = "http://u:address-horse-battery@127.0.0.1:9/v1"\n'
        f'[servers.local]\nurl = "{DOWN}/v1"\napi_key_file = "{key}"\n'
        '[[generators]]\nname = "theta1"\nserver = "gpu"\nmodel = "m"\n'
        '[[generators]]\nname = "theta2"\nserver = "local"\nmodel = "m"\n'
        f'[mlflow]\nuri = "{DOWN}"\nusername = "kailin"\n'
        f"[prometheus]\nport = {free_port()}\n[ports]\n{ports}"
    )
    return path


def test_everything_down_is_told_area_by_area_and_no_secret_with_it(all_down: Path):
    status, said = run(all_down, "--json", **SECRETS)
    assert status == 1
    report = json.loads(said)
    problems = {f["area"] for f in report["findings"] if f["verdict"] == "problem"}
    assert problems == {"kafka", "elasticsearch", "models", "mlflow"}
    assert {f["area"] for f in report["findings"]} == set(doctor.AREAS)
    assert all(f["remedy"] for f in report["findings"] if f["verdict"] != "ok")
    shown = " ".join(f["said"] for f in report["findings"] if f["area"] == "secrets")
    assert "kafka.password: set, by the environment" in shown
    assert "servers.local.api_key: set, from" in shown
    assert "others than its owner may use" in shown
    assert report["settings"]["kafka"]["password"] == "***"
    assert "horse" not in said

    status, said = run(all_down, **SECRETS)
    assert status == 1
    assert "horse" not in said
    assert said.splitlines()[-1].endswith("problems")


def test_wrong_settings_are_a_problem_each(tmp_path: Path):
    path = tmp_path / "kailin.toml"
    path.write_text("[kafka]\nport = 0\n[retrieve]\nkk = 3\n")
    status, said = run(path, "--json")
    assert status == 1
    assert [f["said"].split(":")[0] for f in json.loads(said)["findings"]] == [
        "kafka.port = 0",
        "retrieve.kk = 3",
    ]


async def test_a_check_that_fails_itself_hides_nothing_else(monkeypatch: Any):
    async def broken(settings: Settings) -> list[Finding]:
        raise RuntimeError("a horse\nin the way")

    async def slow(settings: Settings) -> list[Finding]:
        await asyncio.sleep(60)
        return []

    async def fine(settings: Settings) -> list[Finding]:
        return [Finding("c", "ok", "fine")]

    monkeypatch.setattr(doctor, "WITHIN", 0.05)
    monkeypatch.setattr(doctor, "AREAS", {"a": broken, "b": slow, "c": fine})
    found = await doctor.examine(Settings())
    assert [f.verdict for f in found] == ["problem", "problem", "ok"]
    assert "RuntimeError: a horse in the way" in found[0].said
    assert "no answer within" in found[1].said
    assert doctor.show(found, None, Console(file=io.StringIO()), as_json=False) == 1


@pytest.mark.parametrize(
    ("free", "verdict"), [(1 << 30, "problem"), (5 << 30, "warning"), (50 << 30, "ok")]
)
async def test_room_on_the_disk(tmp_path: Path, monkeypatch: Any, free: int, verdict: str):
    usage = SimpleNamespace(free=free, total=100 << 30)
    monkeypatch.setattr(doctor_machine.psutil, "disk_usage", lambda path: usage)
    (found,) = await doctor_machine.disk(Settings(data=tmp_path / "not there yet"))
    assert found.verdict == verdict


async def test_a_restore_that_was_not_finished_is_a_problem(tmp_path: Path):
    settings = Settings(data=tmp_path)
    run_state.restoring(settings.data).parent.mkdir()
    run_state.restoring(settings.data).write_text("there")
    assert "not finished" in with_verdict(await doctor_machine.disk(settings), "problem")[0]


async def test_packages_of_another_version_are_a_problem(monkeypatch: Any):
    assert with_verdict(await doctor_machine.versions(Settings()), "problem") == []
    real = doctor_machine.metadata.version
    monkeypatch.setattr(
        doctor_machine.metadata,
        "version",
        lambda name: "0.1" if name == "deltalake" else real(name),
    )
    (found,) = with_verdict(await doctor_machine.versions(Settings()), "problem")
    assert "deltalake 0.1 is installed, expected" in found


async def test_tables(tmp_path: Path):
    settings = Settings(tables=str(tmp_path / "tables"))
    assert [f.verdict for f in await doctor_stores.tables(settings)] == ["ok"] * 4
    for name in ("preferences", "ideal", "dropped"):
        create(settings, name)
    columns = SCHEMAS["parked"].remove(2)
    DeltaTable.create(f"{settings.tables_uri}/parked", columns, partition_by=["month"])
    (lost,) = (Path(settings.tables_uri) / "ideal" / "_delta_log").glob("*.json")
    lost.write_text("{")
    found = await doctor_stores.tables(settings)
    problems = with_verdict(found, "problem")
    assert [f.verdict for f in found] == ["ok", "ok", "problem", "problem"]
    assert any("column version should be int64" in each for each in problems)
    assert any("/ideal" in each for each in problems)


async def test_model_servers_and_their_clocks(tmp_path: Path):
    def an_hour_late() -> str:
        return format_datetime(datetime.fromtimestamp(datetime.now().timestamp() + 3600, UTC), True)

    async def late(request: web.Request) -> web.Response:
        body = {"object": "list", "data": [{"id": "theta1", "object": "model"}]}
        return web.json_response(body, headers={"Date": an_hour_late()})

    app = web.Application()
    app.router.add_get("/{tail:.*}", late)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        settings = Settings(servers={"local": {"url": f"http://127.0.0.1:{port}/v1"}})
        found = await doctor_services.models(settings)
    finally:
        await runner.cleanup()
    assert "does not serve theta2" in with_verdict(found, "problem")[0]
    assert "s from this machine's" in with_verdict(found, "warning")[0]


@pytest.mark.kafka
@pytest.mark.elasticsearch
async def test_what_differs_in_the_engines_is_named(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
):
    own = uuid4().hex[:8]
    settings = Settings(
        data=tmp_path,
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"{own}."},
        elasticsearch={"url": elasticsearch_node.url, "alias": f"doctor-{own}"},
        embedder={"dimensions": 8},
    )
    missing = with_verdict(await doctor_stores.kafka(settings), "warning")
    assert any("pubmed.articles: it is missing" in each for each in missing)

    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await admin.start()
    await admin.create_topics([NewTopic(topic_name(settings, QUESTIONS), 2, 1)])
    await admin.close()
    await create_topics(settings)
    at = {TopicPartition(topic_name(settings, ARTICLES), 0): 0}
    await commit(settings, group_name(settings, "index"), at)
    await commit(settings, group_name(settings, "stranger"), at)
    kafka = with_verdict(await doctor_stores.kafka(settings), "warning")
    assert any("questions: partitions is 2, expected 6" in each for each in kafka)
    groups = with_verdict(await doctor_stores.consumers(settings), "warning")
    assert any("kailin.index has been at work, and has no worker now" in each for each in groups)
    assert any("kailin.stranger is no group of a stage" in each for each in groups)

    client = connect(settings.elasticsearch)
    assert "0 indices" in with_verdict(await doctor_stores.elasticsearch(settings), "warning")[0]
    await prepare(client, settings.elasticsearch.alias, 8, "an older encoder")
    versions = IndexVersions(client, settings)
    await versions.make_next(f"{settings.elasticsearch.alias}-000001")
    found = await doctor_stores.elasticsearch(settings)
    assert "filled with the encoder an older encoder" in with_verdict(found, "problem")[0]
    assert "half-filled by a reindex" in with_verdict(found, "warning")[0]
    other = settings.model_copy(
        update={"embedder": settings.embedder.model_copy(update={"dimensions": 16})}
    )
    problems = with_verdict(await doctor_stores.elasticsearch(other), "problem")
    assert any("embedding.dims = 8, expected 16" in each for each in problems)
    for name in await client.indices.get(index=f"{settings.elasticsearch.alias}*"):
        await client.indices.delete(index=name)
    await client.close()


@pytest.mark.kafka
@pytest.mark.elasticsearch
def test_a_service_that_is_well_has_no_problem(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
):
    own = uuid4().hex[:8]
    with running_models() as models:
        models.models = {"theta1": tmp_path, "theta2": tmp_path}
        settings = Settings(
            data=tmp_path,
            kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"{own}."},
            elasticsearch={"url": elasticsearch_node.url, "alias": f"doctor-{own}"},
            servers={"local": {"url": models.url}},
        )
        asyncio.run(create_topics(settings))
        found = asyncio.run(doctor.examine(settings))
    assert with_verdict(found, "problem") == []
