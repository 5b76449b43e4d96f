"""Every alert: promtool sees it fire and not fire, the runbook has it, the code feeds it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from infra.cli import app
from infra.prometheus import RULES
from streams.metrics import Metrics

ROOT = RULES.parent
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
TESTS = sorted(Path(__file__).parent.glob("*.test.yaml"))

ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for file in RULES.glob("*.rules.yaml")
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
}
# Not of ours: Prometheus makes it of every scrape.
ITS_OWN = {"up"}


@pytest.mark.prometheus
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_promtool_sees_them_fire_and_clear(prometheus_binary: str, file: Path) -> None:
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_plays_each_of_them_both_ways() -> None:
    fired, quiet = set(), set()
    for test in (test for file in TESTS for test in yaml.safe_load(file.read_text())["tests"]):
        for looked in test["alert_rule_test"]:
            (fired if looked["exp_alerts"] else quiet).add(looked["alertname"])
    assert fired == ALERTS.keys()
    assert quiet == ALERTS.keys() - {"KailinWatchdog"}


@pytest.mark.parametrize("name", ALERTS)
def test_it_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    section = RUNBOOK.split(f"\n## {name}\n")[1].split("\n#")[0]
    if name != "KailinWatchdog":
        assert section.startswith(f"{rule['labels']['severity']}. ")
        assert "- **Look**" in section
        assert "- **Do**" in section


def test_every_section_of_an_alert_has_its_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


def test_links_within_the_runbook_lead_somewhere() -> None:
    links = re.findall(r"\]\(#(\w+)\)", RUNBOOK)
    assert links
    assert set(links) <= {name.lower() for name in ALERTS}


def test_every_metric_asked_for_is_exposed() -> None:
    exposed = set()
    for family in Metrics(CollectorRegistry()).registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        exposed |= {family.name + ending for ending in endings.get(family.type, [""])}
    asked = {
        name
        for rule in ALERTS.values()
        for name in re.findall(r"\b(?:kailin_\w+|up\b)", re.sub(r'"[^"]*"', "", rule["expr"]))
    }
    assert asked - ITS_OWN
    assert asked - ITS_OWN <= exposed


QUOTED = sorted(
    {
        command
        for block in re.findall(r"^```\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
        for command in re.findall(r"^kailin [^#\n]*\b", block, re.MULTILINE)
    }
    | set(re.findall(r"`(kailin [^`]+)`", RUNBOOK))
)


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_command_that_is_quoted_exists(quoted: str) -> None:
    command: Any = typer.main.get_command(app)
    words = quoted.split()[1:]
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{quoted}: no such command"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options, quoted
