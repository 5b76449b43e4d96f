"""What counts as new: rows that stand, and were appended after the last job's newest."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fakes.records import answer, ideal, preference, source
from fakes.tables import append
from infra.settings import Settings
from infra.training_data import policy, read_data, targets
from trainers.triggers import Data

NOW = datetime(2026, 3, 7, 9, 30, 0, 123456, tzinfo=UTC)


def test_without_a_table_there_is_nothing(tmp_path: Path):
    found = read_data(Settings(tables=str(tmp_path)), "theta3", None)
    assert found == Data(version=0, rows=0, new=0, newest=None)


def test_rows_are_new_that_stand_and_came_later(tmp_path: Path):
    settings = Settings(tables=str(tmp_path))
    records = [preference(source=source(pmid=pmid)) for pmid in range(1, 7)]
    append(tmp_path, records[:3], at=NOW, retracted={2: "erratum"})
    assert read_data(settings, "theta3", None) == Data(version=1, rows=3, new=2, newest=NOW)
    later = NOW + timedelta(microseconds=1)
    append(tmp_path, records[3:], at=later, retracted={4: "deleted"})
    assert read_data(settings, "theta3", NOW) == Data(version=2, rows=6, new=2, newest=later)
    assert read_data(settings, "theta3", None).new == 4
    assert read_data(settings, "theta3", later) == Data(version=2, rows=6, new=0, newest=None)


def test_ideal_rows_are_new_that_have_an_answer(tmp_path: Path):
    settings = Settings(tables=str(tmp_path))
    append(tmp_path, [ideal(1), ideal(2)], at=NOW)
    later = NOW + timedelta(microseconds=1)
    refused = answer(decision=None, rejected="no answer")
    append(tmp_path, [ideal(3, answer=None), ideal(4, answer=refused)], at=later)
    assert read_data(settings, "answers", None) == Data(version=2, rows=4, new=2, newest=NOW)
    assert read_data(settings, "answers", NOW).new == 0


def test_answers_are_trained_for_only_with_a_base_model():
    both = ["theta3", "answers"]
    assert targets(Settings(training={"targets": both})) == ("theta3",)
    named = Settings(training={"targets": both, "answers_source": "hf://org/name@main"})
    assert targets(named) == ("theta3", "answers")


def test_the_policy_is_that_of_the_settings():
    made = policy(Settings(training={"age_days": 0.5, "retry_first": 2.0}))
    assert (made.age, made.retry_first) == (timedelta(hours=12), timedelta(seconds=2))
