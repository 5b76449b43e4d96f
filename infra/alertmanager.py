"""Alertmanager beside the service, where its binary is on PATH: its configuration and component."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.component import LOOPBACK, Component, listens, write
from infra.settings import Settings
from infra.settings_alerts import Alerts

# As Alertmanager's own project calls it, and Debian.
NAMES = ("alertmanager", "prometheus-alertmanager")

HEADER = """\
# For an Alertmanager of your own, as in compose.yaml: give the receivers an address, by mail, Slack
# or what else it can. What `kailin up` writes to <data>/alertmanager is made alike. Written by
# `python -m infra.alertmanager`.
"""

# While one of these does not run, those that need it tell nothing new.
ENGINES = "supervisor|kafka|elasticsearch|vllm-.+"
FOLLOW = "Kailin(StageStuck|LagGrowing|ModelFailing|ModelSlow|NoRows|IngestStale|KeepsRestarting)"


def available(settings: Settings) -> bool:
    """Whether alerts have an Alertmanager to go to: one elsewhere, or a binary to be started."""
    return bool(settings.alerts.url) or _binary() is not None


def alertmanager(settings: Settings) -> Component | None:
    """Writes `<data>/alertmanager/alertmanager.yml`; None where none is to be started.

    That is where there is no binary, or `alerts.url` names one that runs elsewhere.
    """
    program = _binary()
    if program is None or settings.alerts.url:
        return None
    home = settings.data.resolve() / "alertmanager"
    config = settings.alerts.config
    if config is None:
        # JSON is YAML too. A webhook's URL is a secret, so others must not read it.
        config = write(
            home / "alertmanager.yml", json.dumps(configuration(settings.alerts), indent=2)
        )
    port = settings.alerts.port
    return Component(
        name="alertmanager",
        command=(
            program,
            f"--config.file={config.resolve()}",
            f"--storage.path={home / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            # It is the only one: no port for others of a cluster.
            "--cluster.listen-address=",
            "--log.level=warn",
        ),
        env={},
        log=settings.data.resolve() / "logs" / "alertmanager.log",
        ready=lambda: listens(port),
        ready_within=60.0,
        stop_within=20.0,
    )


def configuration(alerts: Alerts) -> dict[str, Any]:
    """What alertmanager.yml says: alerts go to the webhook, the watchdog to the heartbeat.

    Alerts of one name come in one message. What goes on is told again after four hours if it is
    critical, else after a day.
    """
    return {
        "route": {
            "receiver": "webhook",
            "group_by": ["alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "4h",
            "routes": [
                {
                    "matchers": ['alertname="KailinWatchdog"'],
                    "receiver": "heartbeat",
                    "repeat_interval": "5m",
                },
                {"matchers": ['severity="warning"'], "repeat_interval": "1d"},
            ],
        },
        "inhibit_rules": [
            _silences("KailinProcessDown", FOLLOW, of=f'process=~"{ENGINES}"'),
            _silences("KailinStageStuck", "KailinLagGrowing", equal="stage"),
            _silences("KailinDiskFull", "KailinDiskFilling", equal="directory"),
            _silences("KailinBudgetSpent", "KailinBudgetLow"),
        ],
        "receivers": [
            _receiver("webhook", alerts.webhook.get_secret_value(), resolved=True),
            _receiver("heartbeat", alerts.heartbeat.get_secret_value(), resolved=False),
        ],
    }


def alerting(settings: Settings) -> dict[str, Any]:
    """The section `alerting` of prometheus.yml."""
    address = urlsplit(settings.alerts.url or f"http://{LOOPBACK}:{settings.alerts.port}")
    target = {
        "scheme": address.scheme,
        "path_prefix": address.path or "/",
        "static_configs": [{"targets": [address.netloc]}],
    }
    return {"alertmanagers": [target]}


def _binary() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _silences(
    cause: str, effect: str, *, of: str | None = None, equal: str | None = None
) -> dict[str, Any]:
    """While `cause` fires, `effect` (a regular expression) is not told."""
    return {
        "source_matchers": [f'alertname="{cause}"', *([of] if of else [])],
        "target_matchers": [f'alertname=~"{effect}"'],
        "equal": [equal] if equal else [],
    }


def _receiver(name: str, url: str, *, resolved: bool) -> dict[str, Any]:
    hooks = [{"url": url, "send_resolved": resolved}] if url else []
    return {"name": name, "webhook_configs": hooks}


def example() -> str:
    """An alertmanager.yml with nobody to tell yet."""
    # Of the group dev: only who changes this file writes it.
    import yaml

    text: str = yaml.safe_dump(configuration(Alerts()), sort_keys=False, width=100)
    return f"{HEADER}{text}"


if __name__ == "__main__":
    Path(__file__).with_suffix(".yaml").write_text(example())
