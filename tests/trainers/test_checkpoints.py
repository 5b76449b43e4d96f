import shutil
from pathlib import Path

import pytest

from trainers.checkpoints import listed, newest


def checkpoint(directory: Path, step: int) -> Path:
    path = directory / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights" * step)
    (path / "trainer_state.json").write_text("{}")
    return path


def test_the_newest_is_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        listed(checkpoint(tmp_path, step))
    assert newest(tmp_path) == tmp_path / "checkpoint-10"


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 1)
    assert newest(tmp_path) is None
    assert not (tmp_path / "checkpoint-1").exists()


def cut(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: (path / "files.json").unlink(),
        lambda path: (path / "trainer_state.json").unlink(),
        lambda path: (path / "files.json").write_text("{"),
        lambda path: shutil.rmtree(path) or path.mkdir(),
    ],
)
def test_what_is_not_whole_is_passed_over_and_removed(tmp_path: Path, damage: object) -> None:
    listed(checkpoint(tmp_path, 5))
    listed(later := checkpoint(tmp_path, 6))
    assert callable(damage)
    damage(later)
    assert newest(tmp_path) == tmp_path / "checkpoint-5"
    assert not later.exists()
