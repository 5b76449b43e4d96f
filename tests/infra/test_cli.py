"""The command line: help that teaches, exit codes, and a quick start."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from infra.cli import app

COMMANDS = (
    *("up", "down", "status", "run", "ingest files", "records"),
    *("mesh", "mesh use", "rescore", "bench", "demo", "trace"),
    *("reindex", "doctor", "backup", "restore", "tables maintain"),
    *("dlq list", "dlq show", "dlq replay", "dlq drop", "pause", "resume"),
    *("trainer", "train status", "train retry", "eval pubmedqa"),
    *(f"train {job}" for job in ("dpo", "cpt", "sft-answers", "sft-generators")),
)
HEAVY = ("faust", "torch", "deltalake", "elasticsearch", "aiokafka", "pydantic", "vllm")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "--help" in shown.output


@pytest.mark.parametrize(
    "command",
    [
        "up",
        "status",
        "run",
        "ingest files",
        "mesh",
        "mesh use",
        "rescore",
        "trainer",
        "train dpo",
        "eval pubmedqa",
        "trace",
        "reindex",
        "doctor",
        "backup",
        "restore",
        "tables maintain",
        "dlq list",
        "dlq show",
        "dlq replay",
        "dlq drop",
        "pause",
        "resume",
    ],
)
def test_help_gives_the_exit_codes(command: str) -> None:
    assert "Exit codes" in CliRunner().invoke(app, [*command.split(), "--help"]).output


def test_the_whole_is_explained_with_the_commands_to_begin_with() -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "kailin up --detach" in text
    assert "0 done, 1 failed, 2 wrong usage or settings" in text


@pytest.mark.parametrize(
    "arguments", [["nope"], ["run"], ["run", "inedx"], ["bench", "nope"], ["status", "--nope"]]
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_wrong_stage_is_told_the_right_ones() -> None:
    shown = CliRunner().invoke(app, ["run", "inedx"])
    assert "inedx: expected a stage, one of index, generate, retrieve" in shown.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['kailin', '--help']\n"
        "from infra.cli import main\n"
        "try: main()\n"
        f"except SystemExit: sys.stderr.write(','.join(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
