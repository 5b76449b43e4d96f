"""Prometheus beside the service: the configuration, and a real one that scrapes."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, start_http_server

from engines import Engine, free_port
from infra.prometheus import EXAMPLE, configuration, example, prometheus, reachable
from infra.settings import Server, Settings
from streams.metrics import Metrics


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        ports={"supervisor": free_port(), "score": free_port()},
        prometheus={"port": free_port(), "retention_days": 7},
    )


@pytest.fixture
def binary() -> str:
    found = shutil.which("prometheus")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no prometheus on PATH")
    return str(found)


def scraped(settings: Settings) -> dict[str, dict[str, Any]]:
    return {job["job_name"]: job for job in configuration(settings)["scrape_configs"]}


def targets(job: dict[str, Any]) -> list[str]:
    return [target for static in job["static_configs"] for target in static["targets"]]


def test_every_process_is_scraped(settings: Settings) -> None:
    job = scraped(settings)["kailin"]
    found = {one["labels"]["process"]: one["targets"] for one in job["static_configs"]}
    assert set(found) == {"supervisor", "trainer", "deployer", *settings.ports.stages}
    assert found["score"] == [f"127.0.0.1:{settings.ports.score}"]


def test_engines_that_are_embedded_are_scraped(settings: Settings) -> None:
    jobs = scraped(settings)
    assert targets(jobs["kafka"]) == ["127.0.0.1:29413"]
    assert targets(jobs["vllm local"]) == ["127.0.0.1:28000"]
    assert jobs["vllm local"]["static_configs"][0]["labels"] == {"server": "local"}
    # A model that is put in θ3's place is served on one of them.
    assert targets(jobs["vllm theta3"]) == ["127.0.0.1:28011", "127.0.0.1:28012"]


def test_engines_elsewhere_are_scraped_where_the_settings_say_how(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    server = {"url": "https://gpu:8000/v1", "api_key_file": key, "ca_file": tmp_path / "ca.pem"}
    elsewhere = {
        "kafka": {"bootstrap": "a:9092,b:9092"},
        "servers": {"local": server},
        "deploy": {"mode": "adapter"},
    }
    assert set(scraped(Settings(**elsewhere))) == {"kailin"}

    elsewhere["kafka"]["metrics"] = ["a:9404", "b:9404"]
    server["metrics_url"] = "https://gpu:8000/metrics"
    jobs = scraped(Settings(**elsewhere))
    assert targets(jobs["kafka"]) == ["a:9404", "b:9404"]
    gpu = jobs["vllm local"]
    assert (gpu["scheme"], targets(gpu), gpu["metrics_path"]) == ("https", ["gpu:8000"], "/metrics")
    assert gpu["authorization"] == {"credentials_file": str(key)}
    assert gpu["tls_config"] == {"ca_file": str(tmp_path / "ca.pem")}


def test_a_key_of_the_environment_is_in_a_file_that_only_its_user_reads(tmp_path: Path) -> None:
    server = Server(url="https://gpu/v1", metrics_url="https://gpu/metrics", api_key="secret")
    settings = Settings(data=tmp_path, servers={"local": server})
    if prometheus(settings) is None:
        pytest.skip("no prometheus on PATH")
    config = tmp_path / "prometheus" / "prometheus.yml"
    assert '"credentials": "secret"' in config.read_text()
    assert config.stat().st_mode & 0o077 == 0


def test_the_example_is_what_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KAILIN_")]:
        monkeypatch.delenv(name)
    assert EXAMPLE.read_text() == example(), "run `python -m infra.prometheus`"


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")],  # noqa: S104
)
def test_what_listens_everywhere_is_reached_on_loopback(host: str, address: str) -> None:
    assert reachable(host) == address


def test_without_the_binary_there_is_no_component(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prometheus(settings) is None


@pytest.mark.prometheus
def test_a_real_one_accepts_the_configuration_and_its_rules(
    settings: Settings, binary: str
) -> None:
    prometheus(settings)
    config = settings.data / "prometheus" / "prometheus.yml"
    checked = subprocess.run(
        ["promtool", "check", "config", config], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.prometheus
async def test_a_real_one_scrapes_and_listens_on_loopback(settings: Settings, binary: str) -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.records_in.labels("score").inc(11)
    server, thread = start_http_server(settings.ports.score, "127.0.0.1", metrics.registry)
    component = prometheus(settings)
    assert component
    assert f"--web.listen-address=127.0.0.1:{settings.prometheus.port}" in component.command
    assert "--storage.tsdb.retention.time=7d" in component.command
    engine = Engine(component)
    try:
        await asyncio.to_thread(engine.start)
        url = f"http://127.0.0.1:{settings.prometheus.port}/api/v1/query"
        query = {"query": 'kailin_records_in_total{process="score"}'}
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            result: list[dict[str, list[str]]] = []
            while not result:
                await asyncio.sleep(0.5)
                async with session.get(url, params=query) as answer:
                    result = json.loads(await answer.text())["data"]["result"]
        assert result[0]["value"][1] == "11"
    finally:
        await asyncio.to_thread(engine.kill)
        server.shutdown()
        server.server_close()
        thread.join()
