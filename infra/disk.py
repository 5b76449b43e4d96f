"""How full the file systems are that the service writes to, for its metrics."""

import math
from functools import partial
from pathlib import Path

import psutil

from infra.settings import Settings
from streams.metrics import Metrics


def watch(settings: Settings, metrics: Metrics) -> None:
    """Show the free and all bytes under each of `directories`, as they are when it is asked."""
    for directory in directories(settings):
        name = str(directory)
        metrics.disk_free.labels(name).set_function(partial(_bytes, directory, "free"))
        metrics.disk_size.labels(name).set_function(partial(_bytes, directory, "total"))


def directories(settings: Settings) -> tuple[Path, ...]:
    """The data directory, and the tables' where they lie elsewhere on this machine."""
    data = settings.data.resolve()
    if not settings.tables or "://" in settings.tables:
        return (data,)
    tables = Path(settings.tables).resolve()
    return (data,) if tables.is_relative_to(data) else (data, tables)


def _bytes(directory: Path, which: str) -> float:
    """NaN where the directory is not there (yet)."""
    try:
        found: int = getattr(psutil.disk_usage(str(directory)), which)
    except OSError:
        return math.nan
    return found
