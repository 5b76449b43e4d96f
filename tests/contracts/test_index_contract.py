"""The `Index` port: one suite on the index in memory and on the real node."""

import asyncio
from typing import Any

import numpy as np
import pytest

from consumers.ports import Hit, Vector
from fakes.records import article
from streams.citation import AbstractSection, Keyword
from streams.errors import Invalid


def unit(first: float = 1.0, *rest: float) -> Vector:
    values = np.zeros(8, dtype=np.float32)
    values[: 1 + len(rest)] = (first, *rest)
    return values / np.float32(np.linalg.norm(values))


async def found(library: Any, pmid: int) -> Hit | None:
    """The record as every search by vector sees it, or None."""
    await library.refresh()
    hits = await library.search("", unit(), mode="dense", depth=50, exclude=1)
    return next((hit for hit in hits.dense if hit.pmid == pmid), None)


async def test_a_record_is_found_as_it_was_put(library: Any) -> None:
    record = article(10)

    assert await library.index.put(record, unit(), version=0)

    assert await found(library, 10) == Hit(
        pmid=10, title=record.title, abstract=record.abstract, mesh=("D001241", "D010974")
    )


async def test_a_later_version_replaces_and_an_earlier_one_does_not(library: Any) -> None:
    assert await library.index.put(article(10, title="First."), unit(), version=5)
    assert await library.index.put(article(10, title="Second."), unit(), version=6)
    assert not await library.index.put(article(10, title="Again."), unit(), version=6)
    assert not await library.index.put(article(10, title="Stale."), unit(), version=2)

    hit = await found(library, 10)
    assert hit is not None
    assert hit.title == "Second."


async def test_a_deleted_record_is_not_found(library: Any) -> None:
    await library.index.put(article(10), unit(), version=1)

    assert await library.index.delete(10, version=2)

    assert await found(library, 10) is None


async def test_an_older_copy_does_not_bring_a_deleted_record_back(library: Any) -> None:
    await library.index.put(article(10), unit(), version=4)
    await library.index.delete(10, version=9)

    assert not await library.index.put(article(10), unit(), version=8)
    assert await found(library, 10) is None

    assert await library.index.put(article(10), unit(), version=10)
    assert await found(library, 10) is not None


async def test_a_stale_deletion_changes_nothing(library: Any) -> None:
    await library.index.put(article(10), unit(), version=4)

    assert not await library.index.delete(10, version=3)
    assert not await library.index.delete(10, version=4)

    assert await found(library, 10) is not None


async def test_deleting_an_unknown_record_holds_against_its_older_copies(library: Any) -> None:
    assert not await library.index.delete(10, version=7)
    assert not await library.index.put(article(10), unit(), version=6)

    assert await found(library, 10) is None


async def test_of_many_concurrent_writes_each_is_done(library: Any) -> None:
    writes = [library.index.put(article(pmid), unit(), version=1) for pmid in range(100, 300)]

    assert all(await asyncio.gather(*writes))

    await library.refresh()
    hits = await library.search("aspirin", None, mode="bm25", depth=500, exclude=1)
    assert {hit.pmid for hit in hits.bm25} == set(range(100, 300))


async def test_of_concurrent_versions_the_last_one_stays(library: Any) -> None:
    versions = (3, 9, 1, 7, 8, 2)
    await asyncio.gather(
        *(library.index.put(article(10, title=f"v{v}"), unit(), version=v) for v in versions)
    )

    hit = await found(library, 10)
    assert hit is not None
    assert hit.title == "v9"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sections": ()}, id="no abstract"),
        pytest.param({"title": ""}, id="no title"),
        pytest.param({"mesh": ()}, id="no MeSH"),
        pytest.param({"title": "β-catenin 与 \u200fمرض\u200e 🧬 \x00 e\u0301"}, id="unicode"),
        pytest.param({"sections": (AbstractSection(text="word " * 80_000),)}, id="long abstract"),
        pytest.param({"sections": (AbstractSection(text="x" * 400_000),)}, id="endless word"),
        pytest.param({"published": "1998 Dec-1999 Jan"}, id="loose date"),
        pytest.param({"published": "2001-02-30"}, id="no such day"),
        pytest.param(
            {"keywords": (Keyword(text="k" * 40_000, owner="NOTNLM"),)}, id="long keyword"
        ),
        pytest.param({"doi": None, "pmcid": None, "published": None}, id="sparse"),
    ],
)
async def test_a_sound_record_is_taken_whatever_it_holds(
    library: Any, changes: dict[str, Any]
) -> None:
    record = article(10, **changes)

    assert await library.index.put(record, unit(), version=1)

    hit = await found(library, 10)
    assert hit is not None
    assert (hit.title, hit.abstract, hit.mesh) == (
        record.title,
        record.abstract,
        record.descriptors,
    )


async def test_a_refused_record_leaves_its_neighbours_alone(library: Any) -> None:
    short = np.ones(1, dtype=np.float32)

    good, bad, other = await asyncio.gather(
        library.index.put(article(10), unit(), version=1),
        library.index.put(article(11), short, version=1),
        library.index.put(article(12), unit(), version=1),
        return_exceptions=True,
    )

    assert (good, other) == (True, True)
    assert isinstance(bad, Invalid)
    assert bad.reason == "index refused"
    assert "dimensions" in bad.detail
    assert await found(library, 12) is not None
