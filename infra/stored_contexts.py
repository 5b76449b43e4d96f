"""The `Stored` port on the Delta tables: what was retrieved for a record, found by its PMID."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from consumers.stored import contexts
from infra.batcher import Batcher
from infra.row_marks import among, quoted
from infra.settings import Settings
from infra.tables import (
    DECIDED,
    PARKED,
    STORE_ERRORS,
    TableError,
    one_line,
    select,
)
from streams.errors import Transient
from streams.records import Contexts

# PMID and text hash.
Asked: TypeAlias = tuple[int, str]
Row: TypeAlias = dict[str, Any]

RECORDS = 1000
LINGER = 0.05


class StoredContexts:
    """Concurrent calls share the queries. Raises `Transient` while the tables' store fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._find: Batcher[Asked, tuple[Contexts, ...]] = Batcher(
            self._batch, size=RECORDS, linger=LINGER
        )

    async def __call__(self, pmid: int, text_hash: str) -> tuple[Contexts, ...]:
        return await self._find((pmid, text_hash))

    async def _batch(self, asked: Sequence[Asked]) -> list[tuple[Contexts, ...]]:
        found = await asyncio.to_thread(_find, self._settings, set(asked))
        return [found[each] for each in asked]


def _find(settings: Settings, asked: set[Asked]) -> dict[Asked, tuple[Contexts, ...]]:
    found: dict[Asked, list[tuple[datetime, Contexts]]] = defaultdict(list)
    meant = among("pmid", {pmid for pmid, _ in asked})
    for table in (*DECIDED, PARKED):
        # The columns of keys are small; contexts are read of the rows that are meant only.
        query = f"select id, month, pmid, text_hash from rows where {meant}"  # noqa: S608
        keys = read(settings, table, query)
        kept = [key for key in keys if (key["pmid"], key["text_hash"]) in asked]
        for row in whole(settings, table, kept):
            of = row["pmid"], row["text_hash"]
            found[of].append((row["appended"], contexts(table, row)))
    return {
        each: tuple(kept for _, kept in sorted(found[each], key=lambda pair: pair[0], reverse=True))
        for each in asked
    }


def read(settings: Settings, table: str, query: str) -> list[Row]:
    """What a query over a table returns, nothing where there is no table yet.

    Raises `Transient`.
    """
    try:
        return select(settings, table, query)
    except TableError:
        return []
    except STORE_ERRORS as error:
        raise Transient("tables", f"{table}: {one_line(error)}") from error


def whole(settings: Settings, table: str, keys: Collection[Row]) -> list[Row]:
    """The rows, with all columns, that have an `id` and a `month` as `keys` have them.

    Raises `Transient`.
    """
    if not keys:
        return []
    meant = f"{month_in(keys)} and {id_in(key['id'] for key in keys)}"
    return read(settings, table, f"select * from rows where {meant}")  # noqa: S608


def id_in(ids: Iterable[str]) -> str:
    """SQL for "one of these rows"."""
    return f"id in ({', '.join(map(quoted, ids))})"


def month_in(rows: Iterable[Row]) -> str:
    """SQL for the partitions of rows, which spares reading the others."""
    months = sorted({row["month"] for row in rows})
    return f"month in ({', '.join(map(quoted, months))})"
