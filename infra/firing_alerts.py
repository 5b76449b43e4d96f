"""The alerts that fire now, as `kailin status` shows them."""

import http.client
import json
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from infra.component import LOOPBACK
from infra.settings import Settings

TIMEOUT = 2.0
COLOURS = {"critical": "red", "warning": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Firing:
    """An alert that fires since a time; `runbook` is the section that it is explained in."""

    alert: str
    severity: str
    since: datetime
    summary: str
    runbook: str


def read_status(settings: Settings) -> tuple[Firing, ...] | None:
    """What fires, the worst first; None where no Prometheus of `kailin up` answers."""
    connection = http.client.HTTPConnection(LOOPBACK, settings.prometheus.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/api/v1/alerts")
        alerts = json.loads(connection.getresponse().read())["data"]["alerts"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()
    firing = [
        Firing(
            alert=each["labels"]["alertname"],
            severity=each["labels"]["severity"],
            since=datetime.fromisoformat(each["activeAt"]),
            summary=each["annotations"]["summary"],
            runbook=each["annotations"]["runbook"],
        )
        for each in alerts
        if each["state"] == "firing" and each["labels"].get("severity") in COLOURS
    ]
    return tuple(sorted(firing, key=lambda one: (list(COLOURS).index(one.severity), one.since)))


def line(firing: Firing) -> Text:
    """One alert in a line."""
    told = f"{firing.severity}: {firing.summary} Since {firing.since:%Y-%m-%d %H:%M} UTC; "
    return Text(f"{told}{firing.runbook}", style=COLOURS[firing.severity])
