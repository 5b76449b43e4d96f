"""How full the disks are, as the supervisor tells it."""

import math
import shutil
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from infra.disk import directories, watch
from infra.settings import Settings
from streams.metrics import Metrics


def test_the_disk_of_the_data_directory_is_measured_when_it_is_asked(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    watch(Settings(data=tmp_path), Metrics(registry))
    labels = {"directory": str(tmp_path)}
    size = registry.get_sample_value("kailin_disk_size_bytes", labels)
    free = registry.get_sample_value("kailin_disk_free_bytes", labels)
    assert size == shutil.disk_usage(tmp_path).total
    assert free is not None
    assert 0 < free < size


def test_a_directory_that_is_gone_does_not_break_the_others(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    watch(Settings(data=tmp_path, tables=str(tmp_path.parent / "away")), Metrics(registry))
    gone = registry.get_sample_value(
        "kailin_disk_free_bytes", {"directory": str(tmp_path.parent / "away")}
    )
    assert gone is not None
    assert math.isnan(gone)
    assert b"kailin_disk_free_bytes" in generate_latest(registry)


@pytest.mark.parametrize(
    ("tables", "beside"),
    [("", []), ("{data}/tables", []), ("s3://bucket/tables", []), ("{data}-2", ["{data}-2"])],
)
def test_tables_that_lie_elsewhere_on_this_machine_are_too(
    tmp_path: Path, tables: str, beside: list[str]
) -> None:
    settings = Settings(data=tmp_path, tables=tables.format(data=tmp_path))
    expected = [Path(path.format(data=tmp_path)) for path in beside]
    assert directories(settings) == (tmp_path, *expected)
