"""Prometheus beside the service, where its binary is on PATH: its configuration and component."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from infra import alertmanager
from infra.component import LOOPBACK, Component, write
from infra.settings import Kafka, Ports, Server, Settings
from infra.settings_alerts import Alerts
from infra.settings_learning import Deploy

RULES = Path(__file__).parent.parent / "dashboards"
EXAMPLE = Path(__file__).with_name("prometheus.yaml")

HEADER = """\
# For a Prometheus of your own: the containers of compose.yaml, which runs with it. What `kailin up`
# writes to <data>/prometheus is made alike. Written by `python -m infra.prometheus`.
"""


def prometheus(settings: Settings) -> Component | None:
    """Writes `<data>/prometheus/prometheus.yml`; None where there is no binary `prometheus`."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    home = settings.data.resolve() / "prometheus"
    config = home / "prometheus.yml"
    configured = configuration(settings)
    if not alertmanager.available(settings):
        del configured["alerting"]
    # JSON is YAML too. The key of a model server may be in it.
    write(config, json.dumps(configured, indent=2))
    address = f"{LOOPBACK}:{settings.prometheus.port}"
    return Component(
        name="prometheus",
        command=(
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={home / 'tsdb'}",
            f"--storage.tsdb.retention.time={settings.prometheus.retention_days}d",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ),
        env={},
        log=settings.data.resolve() / "logs" / "prometheus.log",
        ready=lambda: answers(f"http://{address}/-/ready"),
        ready_within=60.0,
        stop_within=20.0,
    )


def configuration(settings: Settings) -> dict[str, Any]:
    """What prometheus.yml says: scrape every process and engine, with the rules there are."""
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "alerting": alertmanager.alerting(settings),
        "rule_files": [str(path) for path in sorted(RULES.glob("*.rules.y*ml"))],
        "scrape_configs": [_processes(settings), *_brokers(settings), *_model_servers(settings)],
    }


def _processes(settings: Settings) -> dict[str, Any]:
    """Our own processes, each with its name as the label `process`."""
    host = reachable(settings.ports.host)
    ports = {"supervisor": settings.ports.supervisor, **settings.ports.stages}
    if settings.follow.any:
        ports["ingest"] = settings.ports.ingest
    if settings.training.enabled:
        ports["trainer"] = settings.ports.trainer
    ports["deployer"] = settings.ports.deployer
    targets = [
        {"targets": [f"{host}:{port}"], "labels": {"process": name}} for name, port in ports.items()
    ]
    return {"job_name": "kailin", "static_configs": targets}


def _brokers(settings: Settings) -> Iterator[dict[str, Any]]:
    """The JMX exporter of the embedded broker, or those that the settings name."""
    kafka = settings.kafka
    targets = [f"{LOOPBACK}:{settings.ports.kafka}"] if kafka.embedded else list(kafka.metrics)
    if targets:
        yield {"job_name": "kafka", "static_configs": [{"targets": targets}]}


def _model_servers(settings: Settings) -> Iterator[dict[str, Any]]:
    """vLLM's own metrics, by the name of the server in the settings as the label `server`.

    A model that takes θ3's place may have a server of its own, on one of `deploy.ports` by turns.
    """
    for name in sorted({asked.server for asked in settings.asked}):
        server = settings.servers[name]
        if server.embedded:
            yield _vllm(name, [f"{LOOPBACK}:{server.port}"])
        elif server.metrics_url:
            url = urlsplit(server.metrics_url)
            how = {"scheme": url.scheme, "metrics_path": url.path or "/metrics"}
            yield {**_vllm(name, [url.netloc]), **how, **_trust(server)}
    if settings.deploy.mode != "adapter":
        yield _vllm("theta3", [f"{LOOPBACK}:{port}" for port in settings.deploy.ports])


def _vllm(name: str, targets: list[str]) -> dict[str, Any]:
    static = {"targets": targets, "labels": {"server": name}}
    return {"job_name": f"vllm {name}", "static_configs": [static]}


def _trust(server: Server) -> dict[str, Any]:
    """The server's API key and certificate authority, where it has them."""
    told: dict[str, Any] = {}
    if server.api_key_file:
        told["authorization"] = {"credentials_file": str(server.api_key_file.resolve())}
    elif key := server.api_key.get_secret_value():
        told["authorization"] = {"credentials": key}
    if server.ca_file:
        told["tls_config"] = {"ca_file": str(server.ca_file.resolve())}
    return told


def example() -> str:
    """A prometheus.yml for where nothing is embedded: the containers of compose.yaml."""
    # Of the group dev: only who changes the settings writes this file.
    import yaml

    server = Server(url="http://vllm:8000/v1", metrics_url="http://vllm:8000/metrics")
    settings = Settings(
        kafka=Kafka(bootstrap="kafka:9092"),
        servers={"local": server},
        deploy=Deploy(mode="adapter"),
        ports=Ports(host="kailin"),
        alerts=Alerts(url="http://alertmanager:9093"),
    )
    configured = {**configuration(settings), "rule_files": ["rules/*.rules.yaml"]}
    text: str = yaml.safe_dump(configured, sort_keys=False)
    return f"{HEADER}{text}"


def reachable(host: str) -> str:
    """An address at which a process of this machine that listens on `host` can be reached."""
    return LOOPBACK if host in ("", "0.0.0.0", "::") else host  # noqa: S104


async def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with 200 within three seconds."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
            session.get(url) as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


if __name__ == "__main__":
    EXAMPLE.write_text(example())
