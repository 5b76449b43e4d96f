"""The `Lookup` and `Versions` ports: one suite on the index in memory and on the real node."""

import asyncio
from typing import Any

import numpy as np

from consumers.ports import Vector
from fakes.records import article
from streams.citation import MeshHeading

UNIT: Vector = np.eye(1, 8, dtype=np.float32)[0]
ASPIRIN = ("D001241", "D010974")


def heading(ui: str) -> MeshHeading:
    return MeshHeading(ui=ui, name=ui)


async def test_a_record_is_looked_up_as_soon_as_it_is_written(library: Any) -> None:
    await library.index.put(article(10), UNIT, version=1)

    assert await library.lookup([10]) == {10: ASPIRIN}


async def test_the_mesh_is_that_of_the_newest_state(library: Any) -> None:
    await library.index.put(article(10, mesh=()), UNIT, version=1)
    assert await library.lookup([10]) == {10: ()}

    await library.index.put(article(10, mesh=(heading("D000009"),)), UNIT, version=2)
    assert await library.lookup([10]) == {10: ("D000009",)}


async def test_what_is_not_there_is_left_out(library: Any) -> None:
    await library.index.put(article(10), UNIT, version=1)
    await library.index.put(article(11), UNIT, version=1)
    await library.index.delete(11, version=2)

    assert await library.lookup([9, 10, 11]) == {10: ASPIRIN}
    assert await library.lookup([9]) == {}
    assert await library.lookup([]) == {}


async def test_a_record_asked_for_twice_is_answered_once(library: Any) -> None:
    await library.index.put(article(10), UNIT, version=1)

    assert await library.lookup([10, 10]) == {10: ASPIRIN}


async def test_thousands_are_looked_up_at_once(library: Any) -> None:
    await asyncio.gather(
        *(library.index.put(article(pmid), UNIT, version=1) for pmid in range(1, 51))
    )

    found = await library.lookup(range(1, 2501))

    assert found == dict.fromkeys(range(1, 51), ASPIRIN)


async def test_concurrent_calls_get_their_own_answers(library: Any) -> None:
    for pmid in (1, 2, 3):
        held = article(pmid, mesh=(heading(f"D00000{pmid}"),))
        await library.index.put(held, UNIT, version=1)

    answers = await asyncio.gather(*(library.lookup([pmid, 4]) for pmid in (1, 2, 3) * 50))

    assert answers == [{pmid: (f"D00000{pmid}",)} for pmid in (1, 2, 3) * 50]


async def test_the_version_of_a_state_is_known_as_soon_as_it_is_written(library: Any) -> None:
    await library.index.put(article(10), UNIT, version=7)
    assert await library.versions(10) == 7

    await library.index.put(article(10), UNIT, version=9)
    await library.index.put(article(10), UNIT, version=8)
    assert await library.versions(10) == 9


async def test_what_is_not_there_has_no_version(library: Any) -> None:
    assert await library.versions(10) is None

    await library.index.put(article(10), UNIT, version=0)
    assert await library.versions(10) == 0

    await library.index.delete(10, version=1)
    assert await library.versions(10) is None
