"""A job's configuration from the settings: what each step is given, and what goes with it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra import train_command, train_config
from infra.settings import Settings, SettingsError
from infra.train_config import directory, prepare, single, tidy
from streams.learning import Job, Target, job_id
from trainers import config, result
from trainers.selection import read_branches

NOW = datetime(2026, 3, 7, tzinfo=UTC)
MESH = "D000001\tDiseases\t\tC01\nD000002\tAspirin\t\tD01.100|C01.200\nD000003\tFemale\t\t\n"


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "mesh.tsv").write_text(MESH)
    base = f"file://{tmp_path}/base"
    return {
        "data": tmp_path / "data",
        "servers": {"local": {"source": base}},
        "mesh": {"source": str(tmp_path / "mesh.tsv")},
        "training": {"answers_source": base, "held_out": 0.2, "excluded": [tmp_path / "pmids"]},
    }


def job(target: Target = "theta3", version: int = 7, state: Any = "training") -> Job:
    kind, table = ("dpo", "preferences") if target == "theta3" else ("sft-answers", "ideal")
    return Job(
        id=job_id(target, kind, table, version),  # type: ignore[arg-type]
        target=target,
        kind=kind,  # type: ignore[arg-type]
        table=table,
        data_version=version,
        rows=10,
        newest=NOW + timedelta(days=version),
        state=state,
        attempt=1,
        reason="10 new rows",
        by="trainer",
        model=f"{target}-v{version}",
        began=NOW,
        at=NOW,
    )


def test_dpo_is_given_the_pinned_table_the_origin_and_the_branches(
    values: dict[str, Any], tmp_path: Path
):
    settings = Settings(**values)
    (step,) = prepare(settings, job())
    assert (step.kind, step.module) == ("dpo", "trainers.dpo")
    assert not step.done
    read = config.read(config.Dpo, step.config)
    assert read.id == job().id
    assert read.model == str(tmp_path / "base")
    assert read.output == step.output == directory(settings, job().id) / "output"
    assert (read.data.table, read.data.version) == (f"{tmp_path}/data/tables/preferences", 7)
    assert read.data.held_out == 0.2
    assert read.data.excluded == (tmp_path / "pmids",)
    assert read.tracking.uri == settings.mlflow_uri
    assert read.data.branches
    assert read_branches(read.data.branches) == {"D000001": "C", "D000002": "CD"}


def test_what_was_left_is_gone_on_from_only_under_the_same_settings(values: dict[str, Any]):
    (step,) = prepare(Settings(**values), job())
    (step.output / "checkpoint-4").mkdir(parents=True)
    prepare(Settings(**values), job())
    assert (step.output / "checkpoint-4").exists()
    prepare(Settings(**values, dpo={"beta": 0.2}), job())
    assert not step.output.exists()


def test_a_changed_first_step_takes_the_second_with_it(values: dict[str, Any]):
    first, second = prepare(Settings(**values), job("answers"))
    for step in (first, second):
        step.output.mkdir()
    prepare(Settings(**values, cpt={"optimisation": {"learning_rate": 1e-3}}), job("answers"))
    assert not first.output.exists()
    assert not second.output.exists()


@pytest.mark.parametrize("cpt", [{"rank": 8}, None])
@pytest.mark.parametrize("sft", [{"rank": 8}, None])
def test_nothing_of_the_first_step_is_needed_once_the_second_is_done(
    values: dict[str, Any], tmp_path: Path, cpt: Any, sft: Any
):
    settings = Settings(**values, cpt={"lora": cpt}, sft_answers={"lora": sft})
    first, second = prepare(settings, job("answers"))
    assert (first.kind, second.kind) == ("cpt", "sft-answers")
    before = config.read(config.Cpt, first.config)
    after = config.read(config.SftAnswers, second.config)
    assert before.id != after.id == job("answers").id
    assert after.output == directory(settings, after.id) / "output"
    trained = before.output / result.MODEL
    if cpt and sft:
        # One adapter, trained twice.
        assert (after.adapter, after.model) == (trained, str(tmp_path / "base"))
        assert not before.merge
        assert not after.merge
    else:
        # Whole weights, then whole weights.
        assert (after.adapter, after.model) == (None, str(trained))
        assert before.merge == bool(cpt)
        assert after.merge == bool(sft)


def test_a_generator_is_left_as_whole_weights_for_its_server(
    values: dict[str, Any], tmp_path: Path
):
    made = train_command.sft_generators(Settings(**values), "theta1", (tmp_path,), None)
    assert isinstance(made, config.SftGenerators)
    assert made.merge


def test_by_itself_the_second_step_begins_with_the_model_of_the_settings(
    values: dict[str, Any], tmp_path: Path
):
    made = single(Settings(**values), "sft-answers", "by-hand", tmp_path / "place")
    assert isinstance(made, config.SftAnswers)
    assert (made.model, made.adapter) == (str(tmp_path / "base"), None)
    assert made.data
    assert made.data.version is None


def test_what_the_gate_compares_on_is_never_trained_on(values: dict[str, Any], tmp_path: Path):
    settings = Settings(**values, gate={"pubmedqa": tmp_path / "pqal.json"})
    assert train_config.excluded(settings) == (tmp_path / "pmids", tmp_path / "pqal.json")


def test_a_server_that_is_elsewhere_has_to_name_its_model(values: dict[str, Any]):
    settings = Settings(**{**values, "servers": {"local": {"url": "http://model/v1"}}})
    with pytest.raises(SettingsError, match=r"servers\.local\.source: expected the model"):
        prepare(settings, job())
    settings = Settings(**{**values, "training": {}})
    with pytest.raises(SettingsError, match=r"training\.answers_source"):
        prepare(settings, job("answers"))


def test_old_directories_go_and_those_that_are_needed_stay(values: dict[str, Any]):
    settings = Settings(**values)
    jobs = [job(version=version, state="passed") for version in range(8)]
    jobs[0] = job(version=0, state="training")
    jobs += [job("answers", version, "blocked") for version in range(2)]
    for each in jobs:
        directory(settings, each.id).mkdir(parents=True)
    by_hand = directory(settings, "dpo-20260307-093000")
    by_hand.mkdir()
    tidy(settings, jobs, {"theta3-v2"})
    left = {(j.target, j.data_version) for j in jobs if directory(settings, j.id).exists()}
    kept = {("theta3", version) for version in (0, 2, 5, 6, 7)}
    assert left == kept | {("answers", 0), ("answers", 1)}
    assert by_hand.exists()
