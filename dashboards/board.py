"""What every dashboard has: a source, variables, rows of panels, and links to the others."""

import json
from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards.panels import SOURCE, Panel

TAG = "kailin"
# Variables by name: their label, and the query for their values.
VARIABLES = {
    "stage": ("Stage", "label_values(kailin_records_in_total, stage)"),
    "model": ("Model", "label_values(kailin_model_requests_total, model)"),
    "topic": ("Topic", "label_values(kailin_consumer_lag_records, topic)"),
}


def board(
    name: str,
    description: str,
    rows: Mapping[str, Sequence[Panel]],
    *,
    variables: Sequence[str] = (),
    since: str = "now-1h",
    refresh: str = "10s",
) -> dashboard.Dashboard:
    """A dashboard with rows of panels, in the order in which one asks."""
    made = (
        dashboard.Dashboard(f"Kailin: {name}")
        .uid(f"kailin-{name.lower()}")
        .description(description)
        .tags([TAG])
        .time(since, "now")
        .refresh(refresh)
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_others())
        .with_variable(_source())
    )
    for variable in variables:
        made.with_variable(_variable(variable))
    for title, panels in rows.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def as_json(made: dashboard.Dashboard) -> str:
    """A dashboard as Grafana's JSON."""
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def _others() -> dashboard.DashboardLink:
    """The other dashboards, for the same time and with what is chosen here."""
    return (
        dashboard.DashboardLink("Kailin")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )


def _source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _variable(name: str) -> dashboard.QueryVariable:
    label, query = VARIABLES[name]
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )
