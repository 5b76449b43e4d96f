"""The demonstration of the loop begins from nothing, but never at the cost of somebody's data."""

from pathlib import Path

import pytest

from infra.demo_loop import _begin_anew
from infra.demo_records import Stalled


def test_data_of_something_else_is_not_removed(tmp_path: Path):
    kept = tmp_path / "tables" / "preferences"
    kept.mkdir(parents=True)
    with pytest.raises(Stalled, match="not of this demonstration"):
        _begin_anew(tmp_path)
    assert kept.exists()


def test_what_an_earlier_run_left_is_removed(tmp_path: Path):
    data = tmp_path / "data"
    _begin_anew(data)
    (data / "tables").mkdir()
    _begin_anew(data)
    assert data.is_dir()
    assert not (data / "tables").exists()
