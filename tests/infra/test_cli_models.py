"""`kailin models` on a real MLflow."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.cli import app
from infra.job_process import AWAY
from infra.model_registry import ModelRegistry, Registered
from infra.settings import Settings
from mlflow_engine import finished_job

Kailin = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path, mlflow_uri: str, request: pytest.FixtureRequest) -> Settings:
    return Settings(data=tmp_path, mlflow={"uri": mlflow_uri, "experiment": request.node.name})


@pytest.fixture
def kailin(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Kailin:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("KAILIN_DATA", str(settings.data))
    monkeypatch.setenv("KAILIN_MLFLOW__URI", settings.mlflow.uri)
    monkeypatch.setenv("KAILIN_MLFLOW__EXPERIMENT", settings.mlflow.experiment)
    return lambda *words: CliRunner().invoke(app, ["models", *words])


@pytest.fixture
def three(settings: Settings) -> list[Registered]:
    """Three versions: one passed, one was blocked, one is not judged yet."""
    registry = ModelRegistry(settings)
    made = []
    for number, verdict in enumerate(("passed", "blocked", None), 1):
        done = finished_job(settings, f"job{number}")
        one = registry.register(
            "theta3",
            job=done.job,
            run=done.run,
            directory=done.model,
            base="pypi://b",
            adapter=True,
        )
        if verdict == "passed":
            registry.promote(one, by="gate", reason="win rate 0.612")
        if verdict:
            registry.decide(one, verdict, f"win rate 0.{'612' if number == 1 else '480'}")
        made.append(one)
    return made


def test_the_list_says_which_one_serves_and_why_the_others_do_not(kailin, three):
    shown = kailin("list")
    assert shown.exit_code == 0
    # Under the headings, newest first.
    lines = [line.split() for line in shown.output.splitlines()[1:]]
    assert lines[0][:2] == ["3", "candidate"]
    assert lines[0][-2:] == ["not", "judged"]
    assert lines[1][0] == "2"
    assert lines[1][-4:] == ["blocked", "win", "rate", "0.480"]
    assert lines[2][:2] == ["1", "champion"]
    assert lines[2][-4:] == ["passed", "win", "rate", "0.612"]


def test_the_list_is_json_for_scripts(kailin, three):
    rows = [json.loads(line) for line in kailin("list", "--json").output.splitlines()]
    assert [(row["version"], row["role"], row["verdict"]) for row in rows] == [
        ("3", "candidate", None),
        ("2", None, "blocked"),
        ("1", "champion", "passed"),
    ]


def test_nothing_is_listed_before_there_is_a_model(kailin):
    assert kailin("list").output == "no model is registered for theta3 yet\n"
    assert kailin("list", "--json").output == ""


def test_an_override_says_who_and_why(kailin, three, settings):
    done = kailin("promote", "2", "--reason", "looked at by hand", "--by", "ada")
    assert done.output == "theta3-v2 is champion now, in place of theta3-v1\n"
    champion = ModelRegistry(settings).champion("theta3")
    assert (champion.version, champion.by, champion.reason) == ("2", "ada", "looked at by hand")
    assert champion.verdict == "blocked"
    assert "by ada: looked at by hand" in kailin("list").output
    assert kailin("promote", "2", "--reason", "x").output == "theta3-v2 is champion already\n"

    back = kailin("rollback", "--reason", "odd questions", "--by", "bob")
    assert back.output == "theta3-v1 is champion again, in place of theta3-v2\n"
    assert "rolled back by bob: odd questions" in kailin("list").output
    again = kailin("rollback", "--reason", "odd questions")
    assert again.exit_code == 1
    assert again.stderr.startswith("theta3-v1 took no other's place")


def test_who_decides_is_the_user_unless_it_is_said(kailin, three, settings, monkeypatch):
    monkeypatch.setenv("LOGNAME", "grace")
    kailin("promote", "3", "--reason", "to try it")
    assert ModelRegistry(settings).champion("theta3").by == "grace"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("promote", "7", "--reason", "x"), 1, "theta3 has no version 7: expected one of 3, 2, 1"),
        (("promote", "2", "--reason", " "), 2, "--reason: expected why, in a few words"),
        (("promote", "2"), 2, "Missing option '--reason'"),
        (("rollback",), 2, "Missing option '--reason'"),
        (("list", "--target", "theta9"), 2, "Invalid value for '--target'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(kailin, three, words, code, line):
    done = kailin(*words)
    assert done.exit_code == code
    assert line in done.stderr


def test_a_job_that_has_not_ended_cannot_be_judged(kailin, settings, caplog):
    done = kailin("judge", "--job", "nothing")
    assert done.exit_code == 1
    assert "job nothing: there is no result in" in done.stderr


def test_a_judge_that_finds_the_broker_away_says_so_by_its_exit_status(
    kailin, settings, monkeypatch
):
    finished_job(settings, "job1")
    monkeypatch.setenv("KAILIN_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    done = kailin("judge", "--job", "job1")
    assert done.exit_code == AWAY
    assert "no Kafka broker to be reached" in done.stderr
