"""`kailin deployer` as it is run: a real MLflow, a real broker, and a scripted vLLM."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from engines import KafkaEngine, free_port
from fakes.model_server import SAYS, ModelServer
from infra.model_registry import ModelRegistry
from infra.settings import Settings
from infra.topic_admin import create_topics
from infra.topic_view import TopicView
from mlflow_engine import finished_job, store
from streams.learning import Serving
from streams.topics import SERVING

ROOT = Path(__file__).parents[2]


def run(overrides: dict[str, object], log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
    for name, value in overrides.items():
        text = value if isinstance(value, str) else json.dumps(value)
        environment[f"KAILIN_{name.upper()}"] = text
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "deployer"],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )


def test_without_a_broker_it_says_so(tmp_path: Path):
    overrides = {
        "data": str(tmp_path),
        "kafka": {"bootstrap": f"127.0.0.1:{free_port()}"},
        "ports": {"deployer": free_port()},
    }
    log = tmp_path / "log"
    assert run(overrides, log).wait(60) == 1
    assert "no Kafka broker to be reached" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()


@pytest.mark.kafka
async def test_a_promoted_adapter_serves_and_a_rollback_brings_back_the_one_before(
    kafka_broker: KafkaEngine, tmp_path: Path
):
    async with ModelServer(models={"theta1": "theta1", "theta2": "theta2"}) as server:
        overrides: dict[str, object] = {
            "data": str(tmp_path),
            "kafka": {"bootstrap": kafka_broker.bootstrap, "prefix": f"w{uuid.uuid4().hex[:8]}."},
            "servers": {"local": {"url": server.url}},
            "deploy": {"mode": "adapter", "drain": 0.5, "look_every": 0.3},
            "ports": {"deployer": free_port()},
        }
        store(tmp_path)
        settings = Settings(**overrides)  # type: ignore[arg-type]
        registry = ModelRegistry(settings)
        made = []
        for number in (1, 2):
            job = finished_job(settings, f"job{number}", {SAYS: b"version %d" % number})
            made.append(
                registry.register(
                    "theta3",
                    job=f"job{number}",
                    run=job.run,
                    directory=job.model,
                    base="file:///base",
                    adapter=True,
                )
            )
        await create_topics(settings, [SERVING])
        deployer = run(overrides, tmp_path / "log")
        try:
            async with TopicView(settings, SERVING, Serving) as view:

                async def serving(revision: str) -> Serving:
                    deadline = time.monotonic() + 60
                    while time.monotonic() < deadline:
                        found = view.records.get("theta3")
                        if found and found.revision == revision:
                            return found
                        await view.wait(0.5)
                    raise AssertionError((tmp_path / "log").read_text())

                registry.promote(made[0], by="gate", reason="won")
                first = await serving("1")
                assert (first.model, first.server, first.url) == ("theta3-v1", "local", None)
                assert (first.by, first.reason) == ("gate", "won")
                registry.promote(made[1], by="gate", reason="won again")
                assert (await serving("2")).reason == "won again"
                registry.rollback("theta3", by="ada", reason="odd questions")
                back = await serving("1")
                assert (back.by, back.reason, back.first) == ("ada", "odd questions", first.first)
                for _ in range(200):
                    if set(server.adapters) == {"theta3-v1"}:
                        break
                    await asyncio.sleep(0.1)
            deployer.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(deployer.wait, 30) == 0
        finally:
            deployer.kill()
            deployer.wait()
    assert server.adapters == {"theta3-v1": "version 1"}
    assert "Traceback" not in (tmp_path / "log").read_text()
