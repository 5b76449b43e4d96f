"""Prometheus beside the service: the configuration, and a real one that scrapes."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from engines import Engine, free_port
from infra.prometheus import RULES, configuration, prometheus, reachable
from infra.settings import Settings
from streams.metrics import Metrics

DEPLOYMENT = RULES / "deployment.rules.yaml"


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


def test_every_process_is_scraped(settings: Settings) -> None:
    (job,) = configuration(settings)["scrape_configs"]
    targets = {one["labels"]["process"]: one["targets"] for one in job["static_configs"]}
    assert set(targets) == {"supervisor", "trainer", "deployer", *settings.ports.stages}
    assert targets["score"] == [f"127.0.0.1:{settings.ports.score}"]


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


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("alert", "series", "values", "checks"),
    [
        (
            "KailinDeploymentFailing",
            'kailin_deployment_failing{generator="theta3",process="deployer"}',
            "0x8 1x18 0x8",
            {"2m": False, "2m30s": False, "5m": True, "8m": False},
        ),
        (
            "KailinDeployerDown",
            'up{process="deployer"}',
            "1x8 0x30 1x8",
            {"2m": False, "7m": False, "9m": True, "11m": False},
        ),
    ],
)
def test_what_is_wrong_for_a_while_raises_an_alert_and_ends_it(
    binary: str,
    tmp_path: Path,
    alert: str,
    series: str,
    values: str,
    checks: dict[str, bool],
) -> None:
    (group,) = yaml.safe_load(DEPLOYMENT.read_text())["groups"]
    (rule,) = (rule for rule in group["rules"] if rule["alert"] == alert)
    told = {
        name: text.replace("{{ $labels.generator }}", "theta3")
        for name, text in rule["annotations"].items()
    }
    labels = {"severity": "warning", "process": "deployer"}
    if "generator" in series:
        labels["generator"] = "theta3"
    fired = [{"exp_labels": labels, "exp_annotations": told}]
    rules = {
        "rule_files": [str(DEPLOYMENT)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": series, "values": values}],
                "alert_rule_test": [
                    {"eval_time": at, "alertname": alert, "exp_alerts": fired if fires else []}
                    for at, fires in checks.items()
                ],
            }
        ],
    }
    # YAML is a superset of JSON.
    (tmp_path / "alerts.yaml").write_text(json.dumps(rules))
    checked = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "alerts.yaml"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
