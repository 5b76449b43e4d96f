"""The column `retracted` of rows that are in a table already, brought level with the view.

Only rows whose mark differs are changed, many in one commit. A commit says that it has looked at
rows appended until then (the tables have statistics of that column), so rows that another worker
appends meanwhile do not stand in its way: whoever appends has the view too.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, WriterProperties

from infra.retractions import Retractions

# Rows that stand again are counted under this reason.
STANDS = "stands again"

# Bytes of files that a commit rewrites, which take it some ten times the memory.
REWRITTEN_AT_ONCE = 128 << 20
ROWS_AT_ONCE = 50_000
# Values in one list of a query. At some 20,000 deltalake's engine ends the process without a word.
LISTED_AT_ONCE = 5000


def bring_level(
    delta: DeltaTable, view: Retractions, pmids: Collection[int], writer: WriterProperties
) -> Iterator[Counter[str]]:
    """Mark the rows of these PMIDs; after each commit, how many it has marked, by reason.

    A commit rewrites the files that it changes rows of, and takes memory by them, so it is of so
    many bytes of files; there is none where all marks are right. Raises `CommitFailedError` where
    another writer has changed one of the rows meanwhile.
    """
    part: list[dict[str, Any]] = []
    size = 0
    for wrong, weight in _wrong_by_file(delta, view, pmids):
        if part and size + weight > REWRITTEN_AT_ONCE:
            yield from _marked(delta, view, part, writer)
            part, size = [], 0
        part += wrong
        size += weight
    yield from _marked(delta, view, part, writer)


def _wrong_by_file(
    delta: DeltaTable, view: Retractions, pmids: Collection[int]
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The rows whose mark is to change, file by file, each with the size of the file in bytes."""
    if not pmids:
        return
    pmid = pc.field("pmid")
    # The bounds pass over files by their statistics.
    wanted = (
        (pmid >= min(pmids)) & (pmid <= max(pmids)) & pmid.isin(pa.array(sorted(pmids), pa.int64()))
    )
    adds = pa.table(delta.get_add_actions(flatten=True))
    sizes = dict(zip(adds["path"].to_pylist(), adds["size_bytes"].to_pylist(), strict=True))
    columns = ["id", "pmid", "mesh", "retracted", "appended"]
    for file in delta.to_pyarrow_dataset().get_fragments(filter=wanted):
        # Most often there is none, and the numbers alone tell that sooner.
        if not file.count_rows(filter=wanted):
            continue
        # All rows of the file that are to change, for it is written anew as a whole.
        batches = file.to_batches(columns=columns, batch_size=ROWS_AT_ONCE)
        if wrong := [row for batch in batches for row in _unlike(batch, view)]:
            yield wrong, sizes.get(file.path, 0)


def _marked(
    delta: DeltaTable, view: Retractions, wrong: list[dict[str, Any]], writer: WriterProperties
) -> Iterator[Counter[str]]:
    for start in range(0, len(wrong), LISTED_AT_ONCE):
        yield _mark(delta, view, wrong[start : start + LISTED_AT_ONCE], writer)


def _mark(
    delta: DeltaTable, view: Retractions, wrong: list[dict[str, Any]], writer: WriterProperties
) -> Counter[str]:
    marks: dict[str | None, set[str]] = {}
    for row in wrong:
        marks.setdefault(view.mark(row["pmid"], row["mesh"]), set()).add(row["id"])
    cases = [
        f"when {_in('id', map(quoted, ids))} then {quoted(reason)}"
        for reason, ids in marks.items()
        if reason is not None
    ]
    predicate = (
        f"{among('pmid', {row['pmid'] for row in wrong})} "
        f"and {_in('id', [quoted(row['id']) for row in wrong])} "
        f"and appended <= {moment(max(row['appended'] for row in wrong))}"
    )
    delta.update(
        predicate=predicate,
        updates={"retracted": f"case {' '.join(cases)} end" if cases else "cast(null as string)"},
        writer_properties=writer,
    )
    return Counter(view.mark(row["pmid"], row["mesh"]) or STANDS for row in wrong)


def among(column: str, numbers: Collection[int]) -> str:
    """SQL for "one of these numbers", with the bounds by which files are passed over."""
    bounds = f"{column} >= {min(numbers)} and {column} <= {max(numbers)}"
    return f"({bounds} and {_in(column, map(str, sorted(numbers)))})"


def moment(at: datetime) -> str:
    """SQL for a time."""
    return quoted(at.isoformat())


def quoted(text: str) -> str:
    """SQL for a text."""
    return "'" + text.replace("'", "''") + "'"


def _in(column: str, values: Iterable[str]) -> str:
    return f"{column} in ({', '.join(values)})"


def _unlike(rows: pa.RecordBatch, view: Retractions) -> Iterator[dict[str, Any]]:
    # Not `take`, which pyarrow does not have for strings as deltalake writes them.
    for place in view.unlike(rows):
        yield rows.slice(place, 1).to_pylist()[0]
