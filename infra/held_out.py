"""Records that no job has trained on, for the gate to compare models on."""

import hashlib
from collections.abc import Iterator
from heapq import nsmallest
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from infra.settings import Settings
from infra.tables import DECIDED, TableError, location, open_table
from streams.citation import AbstractSection, Article, Journal, MeshHeading
from trainers.split import held_out

# PMIDs asked for in one query.
AT_ONCE = 500


def sample(settings: Settings, *, job: str) -> list[Article]:
    """So many standing held-out records with MeSH as `gate.records` says, each as it last was.

    They are drawn by a hash of the job's id and the PMID, and come in the order of that hash, from
    all that has been decided: to leave out records without a winner, or those whose question was
    good enough, would make the sample another than what the models will meet.
    Raises `TableError` where there is no table at all, and what deltalake raises where the tables
    cannot be read.
    """
    share = settings.training.held_out
    if not any(_opened(settings, table) for table in DECIDED):
        raise TableError(
            f"there is none of the tables {', '.join(DECIDED)}, the first of them expected at "
            f"{location(settings, DECIDED[0])}: is `tables` in the settings right?"
        )
    pmids = {
        pmid for table in DECIDED for pmid in _standing(settings, table) if held_out(pmid, share)
    }
    chosen = nsmallest(settings.gate.records, pmids, key=lambda pmid: _draw(job, pmid))
    newest: dict[int, dict[str, Any]] = {}
    for table in DECIDED:
        for at in range(0, len(chosen), AT_ONCE):
            for row in _texts(settings, table, chosen[at : at + AT_ONCE]):
                known = newest.get(row["pmid"])
                if known is None or _age(row) > _age(known):
                    newest[row["pmid"]] = row
    return [_article(newest[pmid]) for pmid in chosen if pmid in newest]


def _draw(job: str, pmid: int) -> bytes:
    return hashlib.blake2b(f"{job}\x00{pmid}".encode(), digest_size=8).digest()


def _standing(settings: Settings, table: str) -> Iterator[int]:
    query = "select pmid from rows where retracted is null and cardinality(mesh) > 0"
    for batch in _batches(settings, table, query):
        yield from batch.column("pmid").to_pylist()


def _texts(settings: Settings, table: str, pmids: list[int]) -> Iterator[dict[str, Any]]:
    among = ", ".join(map(str, pmids))
    query = (
        "select pmid, version, title, abstract, mesh, indexing, arrived from rows "  # noqa: S608
        f"where retracted is null and cardinality(mesh) > 0 and pmid in ({among})"
    )
    for batch in _batches(settings, table, query):
        yield from batch.to_pylist()


def _batches(settings: Settings, table: str, query: str) -> Iterator[pa.RecordBatch]:
    """What a query returns, as it comes; nothing where the table is not there yet."""
    opened = _opened(settings, table)
    if opened is None:
        return
    for batch in QueryBuilder().register("rows", opened).execute(query):
        yield pa.record_batch(batch)


def _opened(settings: Settings, table: str) -> DeltaTable | None:
    try:
        return open_table(settings, table)
    except TableError:
        return None


def _age(row: dict[str, Any]) -> tuple[int, Any]:
    return row["version"], row["arrived"]


def _article(row: dict[str, Any]) -> Article:
    """A record as the generate stage takes it; of what it does not read, nothing is made up."""
    return Article(
        pmid=row["pmid"],
        version=row["version"],
        title=row["title"],
        sections=(AbstractSection(text=row["abstract"]),),
        languages=(),
        journal=Journal(title=""),
        published=None,
        completed=None,
        revised=None,
        publication_types=(),
        mesh=tuple(MeshHeading(ui=ui, name="") for ui in row["mesh"]),
        indexing=row["indexing"],
        keywords=(),
        doi=None,
        pmcid=None,
        corpus=False,
        source="held out",
        arrived=row["arrived"],
    )
