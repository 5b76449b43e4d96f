"""Configurations that are wrong in more than one field."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from trainers.config import ConfigError, Dpo, Job, SftAnswers, read

ANY = {
    "id": "job",
    "output": "output",
    "model": "base",
    "tracking": {"uri": "sqlite://"},
    "optimisation": {"learning_rate": 1e-5},
}


def complaint(directory: Path, config: type[Job], **values: Any) -> str:
    file = directory / "job.json"
    file.write_bytes(orjson.dumps(ANY | values))
    with pytest.raises(ConfigError) as raised:
        read(config, file)
    return str(raised.value)


def test_a_prompt_that_is_not_there(tmp_path: Path) -> None:
    told = complaint(tmp_path, Dpo, data={"table": "t"}, prompt="question/9")
    assert "job.json: prompt: " in told
    assert "expected one of question/1" in told


@pytest.mark.parametrize("sources", [{}, {"data": {"table": "t"}, "pqa": "f"}])
def test_answers_are_of_one_source(tmp_path: Path, sources: dict[str, Any]) -> None:
    told = complaint(tmp_path, SftAnswers, **sources)
    assert "expected either data, a table, or pqa, a file of PubMedQA" in told


def test_exclusions_are_given_where_they_hold(tmp_path: Path) -> None:
    told = complaint(tmp_path, SftAnswers, data={"table": "t"}, excluded=["ori_pqal.json"])
    assert "held_out and excluded: expected under data" in told


def test_a_configuration_that_was_written_out_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    settings = SftAnswers.model_validate(ANY | {"data": {"table": "t", "excluded": ["f"]}})
    file.write_text(settings.model_dump_json())
    assert read(SftAnswers, file) == settings
