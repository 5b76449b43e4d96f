"""The dashboards of the repository are those that the code makes, and ask for what there is."""

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import click
import pytest
import typer
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from dashboards.written import FOLDER, files
from infra.cli import app
from infra.elastic_stats import ElasticStats
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
    "mps",
    "Bps",
    "bytes",
    "percentunit",
    "bool_on_off",
    "suffix: tokens/s",
}
# Links from elsewhere hold on to these.
UIDS = {
    "ingestion.json": "kailin-ingestion",
    "models.json": "kailin-models",
    "overview.json": "kailin-overview",
    "quality.json": "kailin-quality",
    "runtime.json": "kailin-runtime",
    "training.json": "kailin-training",
}
VARIABLES = {
    "kailin-ingestion": [],
    "kailin-models": ["model"],
    "kailin-overview": ["stage", "topic"],
    "kailin-quality": [],
    "kailin-runtime": ["topic"],
    "kailin-training": [],
}

BOARDS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}
PANELS: list[dict[str, Any]] = [
    {**panel, "board": board["uid"]}
    for board in BOARDS.values()
    for panel in board["panels"]
    if panel["type"] != "row"
]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def named(panel: dict[str, Any]) -> str:
    return f"{panel['board']}: {panel['title']}"


def families() -> list[Metric]:
    """All that our processes show, but for what every process does."""
    stats = ElasticStats()
    return [*Metrics(CollectorRegistry()).registry.collect(), *stats.describe()]


def exposed() -> set[str]:
    """The names of all series, as a process would show them."""
    endings = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_sum", "_count"],
        "summary": ["_sum", "_count"],
    }
    return {
        family.name + ending for family in families() for ending in endings.get(family.type, [""])
    }


def asked() -> set[str]:
    return {name for each in EXPRESSIONS for name in re.findall(r"\bkailin_\w+", each)}


def test_the_files_are_what_the_code_makes() -> None:
    assert {path: path.read_text() for path in sorted(FOLDER.glob("*.json"))} == dict(
        sorted(files().items())
    ), "run `python -m dashboards`"


def test_every_metric_asked_for_is_exposed() -> None:
    assert asked()
    assert asked() - exposed() == set()


def test_every_metric_is_on_a_dashboard() -> None:
    def family(name: str) -> str:
        return re.sub(r"_(bucket|sum|count|total)$", "", name)

    assert {family(name) for name in exposed()} == {family(name) for name in asked()}


@pytest.mark.parametrize("panel", PANELS, ids=named)
def test_a_panel_says_what_it_answers_and_what_is_bad(panel: dict[str, Any]) -> None:
    description = panel["description"]
    defaults = panel["fieldConfig"]["defaults"]
    assert description.startswith(panel["title"])
    assert panel["title"].endswith("?")
    assert len(description.removeprefix(panel["title"]).split()) >= 5
    assert defaults["unit"] in UNITS
    steps = defaults.get("thresholds", {"steps": ()})["steps"]
    colours = [step["color"] for step in steps if step["color"] != "green"]
    last = description.rpartition(". ")[2]
    if colours:
        assert re.fullmatch(r"(Orange (from|below) [^,]+(,\d+)*, r|R)ed (from|below) .+\.", last)
    else:
        assert last == "No value is bad in itself."
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board["uid"])
def test_panels_do_not_overlap_and_differ_in_title(board: dict[str, Any]) -> None:
    shown = [panel for panel in board["panels"] if panel["type"] != "row"]
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


def test_each_board_keeps_its_address_and_has_its_variables() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == UIDS
    for board in BOARDS.values():
        source, *others = board["templating"]["list"]
        assert source["name"] == "datasource"
        assert [variable["name"] for variable in others] == VARIABLES[board["uid"]]
        for variable in others:
            assert variable["includeAll"]
            (metric,) = re.findall(r"label_values\((\w+),", variable["query"])
            assert metric in exposed()
            # Chosen in vain, where no panel goes by it.
            assert f"${variable['name']}" in json.dumps(board["panels"]).replace("${__field", "")


def test_every_board_leads_to_the_others() -> None:
    for board in BOARDS.values():
        (link,) = board["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(board["tags"])
        assert link["includeVars"]
        assert link["keepTime"]


LINKED = [panel for panel in PANELS if panel["fieldConfig"]["defaults"].get("links")]


@pytest.mark.parametrize("panel", LINKED, ids=named)
def test_a_link_leads_to_a_board_that_knows_what_is_passed_on(panel: dict[str, Any]) -> None:
    for link in panel["fieldConfig"]["defaults"]["links"]:
        address = urlsplit(link["url"])
        board = address.path.removeprefix("/d/")
        assert board in VARIABLES
        assert "${__url_time_range}" in address.query
        for name, value in parse_qsl(address.query):
            assert name.removeprefix("var-") in VARIABLES[board]
            label = value.removeprefix("${__field.labels.").removesuffix("}")
            for target in panel["targets"]:
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"])


def test_every_board_can_be_reached_by_a_symptom_on_another() -> None:
    reached = {
        urlsplit(link["url"]).path.removeprefix("/d/")
        for panel in LINKED
        for link in panel["fieldConfig"]["defaults"]["links"]
        if panel["board"] not in link["url"]
    }
    assert reached == set(VARIABLES)


def test_who_sees_dead_letters_is_told_how_to_look_at_them() -> None:
    shown = [panel for panel in PANELS if "kailin_dead_letters" in json.dumps(panel["targets"])]
    assert shown
    assert all("`kailin dlq list --stage" in panel["description"] for panel in shown)


@pytest.mark.parametrize(
    "words",
    sorted({c for p in PANELS for c in re.findall(r"`kailin ([a-z ]+)", p["description"])}),
)
def test_a_command_that_is_named_exists(words: str) -> None:
    command: click.Command = typer.main.get_command(app)
    for word in words.split():
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
