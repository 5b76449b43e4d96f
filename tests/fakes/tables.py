"""Delta tables as the append stage leaves them, from example records."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from consumers.append import row
from fakes.records import ARRIVED
from infra.settings import Settings
from infra.tables import SCHEMAS, create, location
from streams.records import Ideal, Preference


def append(
    directory: Path,
    records: Sequence[Preference | Ideal],
    *,
    at: datetime = ARRIVED,
    retracted: Mapping[int, str] | None = None,
) -> str:
    """Commit rows of one table under `directory`, made where it is not there; returns its path.

    `at` is when they were appended, `retracted` why the rows of some PMIDs do not stand.
    """
    settings = Settings(tables=str(directory))
    reasons = retracted or {}
    tables, rows = zip(*map(row, records), strict=True)
    (table,) = set(tables)
    create(settings, table)
    full = [{**one, "appended": at, "retracted": reasons.get(one["pmid"])} for one in rows]
    uri = location(settings, table)
    write_deltalake(uri, pa.Table.from_pylist(full, SCHEMAS[table]), mode="append")
    return uri
