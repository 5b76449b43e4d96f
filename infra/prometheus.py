"""Prometheus beside the service, where its binary is on PATH: its configuration and component."""

import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from infra.component import Component
from infra.settings import Settings

RULES = Path(__file__).parent.parent / "dashboards"
LOOPBACK = "127.0.0.1"


def prometheus(settings: Settings) -> Component | None:
    """Writes `<data>/prometheus/prometheus.yml`; None where there is no binary `prometheus`."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    home = settings.data.resolve() / "prometheus"
    home.mkdir(parents=True, exist_ok=True)
    config = home / "prometheus.yml"
    # JSON is YAML too.
    config.write_text(json.dumps(configuration(settings), indent=2))
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
    """What prometheus.yml says: scrape every process of the service, with the rules there are."""
    host = reachable(settings.ports.host)
    ports = {"supervisor": settings.ports.supervisor, **settings.ports.stages}
    if settings.follow.any:
        ports["ingest"] = settings.ports.ingest
    if settings.training.enabled:
        ports["trainer"] = settings.ports.trainer
    ports["deployer"] = settings.ports.deployer
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(path) for path in sorted(RULES.glob("*.rules.y*ml"))],
        "scrape_configs": [
            {
                "job_name": "kailin",
                "static_configs": [
                    {"targets": [f"{host}:{port}"], "labels": {"process": name}}
                    for name, port in ports.items()
                ],
            }
        ],
    }


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
