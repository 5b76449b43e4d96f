"""The dashboards of the repository are those that the code makes, and ask for what there is."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dashboards import learning, overview
from streams.metrics import Metrics

# Grafana's ids of the units in use, and one of our own.
UNITS = {
    "none",
    "short",
    "s",
    "ops",
    "reqps",
    "recps",
    "rowsps",
    "wps",
    "percentunit",
    "bool_on_off",
    "suffix: tokens/s",
}


def dashboard(file: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(file.read_text())
    return held


DASHBOARDS = (overview, learning)


def panels(file: Path) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(file)["panels"] if panel["type"] != "row"]


PANELS = [panel for each in DASHBOARDS for panel in panels(each.FILE)]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def exposed() -> set[str]:
    """The names of all series, as a process would show them."""
    names = set()
    for family in Metrics(CollectorRegistry()).registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + ending for ending in endings.get(family.type, [""])}
    return names


@pytest.mark.parametrize("each", DASHBOARDS, ids=lambda each: each.__name__)
def test_the_file_is_what_the_code_makes(each: ModuleType) -> None:
    assert each.FILE.read_text() == each.text(), f"run `python -m {each.__name__}`"


def test_every_metric_asked_for_is_exposed() -> None:
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"kailin_\w+", expression)}

    assert asked
    assert asked - exposed() == set()


def test_every_metric_is_on_a_dashboard() -> None:
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"kailin_\w+", expression)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed()}

    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert families == shown


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_answers(panel: dict[str, Any]) -> None:
    assert len(panel["description"].split()) >= 5
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("each", DASHBOARDS, ids=lambda each: each.__name__)
def test_panels_do_not_overlap_and_differ_in_title(each: ModuleType) -> None:
    shown = panels(each.FILE)
    cells = [
        (x, y)
        for panel in shown
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["title"] for panel in shown}) == len(shown)


def test_the_stage_and_the_datasource_can_be_chosen() -> None:
    variables = {
        variable["name"]: variable for variable in dashboard(overview.FILE)["templating"]["list"]
    }

    assert list(variables) == ["datasource", "stage"]
    assert variables["stage"]["query"] == "label_values(kailin_records_in_total, stage)"
    assert variables["stage"]["includeAll"]
    chosen = [expression for expression in EXPRESSIONS if "$stage" in expression]
    assert len(chosen) >= 8
