"""A copy of a table is the table, and goes on as one whose topics begin anew."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from fakes.entries import entry
from fakes.records import preference
from infra.delta_sink import DeltaSink
from infra.settings import Settings
from infra.table_copy import copy_version, is_there, restore
from infra.tables import CONFIGURATION, SCHEMAS, open_table
from streams.metrics import Metrics


def sink(settings: Settings) -> DeltaSink:
    opened = DeltaSink(settings, Metrics(CollectorRegistry()))
    opened.open()
    return opened


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tables=str(tmp_path / "tables"), append={"compact_every": 1_000_000})


@pytest.mark.parametrize("commits", [3, 13])
def test_a_copy_goes_on_where_the_table_was_and_takes_each_record_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
):
    """Before and after the first checkpoint of its log."""
    monkeypatch.setitem(CONFIGURATION, "delta.checkpointInterval", "10")
    writer = sink(settings)
    for at in range(commits):
        writer.append([entry(at, preference(at + 1), timestamp=at)])
    pinned = {name: open_table(settings, name) for name in SCHEMAS}
    # What comes after the version that is copied is not in the copy.
    writer.append([entry(commits, preference(commits + 1), timestamp=commits)])
    for name, delta in pinned.items():
        copy_version(delta, tmp_path / "copy" / name)

    other = Settings(tables=str(tmp_path / "elsewhere"))
    assert not is_there(other, "preferences")
    for name in SCHEMAS:
        restore(other, name, tmp_path / "copy" / name)
    assert is_there(other, "preferences")

    table = open_table(other, "preferences")
    assert table.version() > pinned["preferences"].version()
    assert table.count() == commits
    assert table.metadata().configuration == pinned["preferences"].metadata().configuration
    restored = sink(other)
    # The topics begin anew: two of these are repeated, and one is new.
    restored.append(
        [
            entry(0, preference(2), timestamp=900),
            entry(1, preference(1), timestamp=901),
            entry(2, preference(4711), timestamp=902),
        ]
    )
    pmids = open_table(other, "preferences").to_pyarrow_table()["pmid"].to_pylist()
    assert sorted(pmids) == [*range(1, commits + 1), 4711]
