"""The `Stored` port: one suite on rows in memory and on the Delta tables."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Stored
from fakes.entries import entry
from fakes.records import alignment, answer, ideal, preference, source, unscored
from fakes.stored import FakeStored
from infra.delta_sink import DeltaSink
from infra.settings import Settings
from infra.stored_contexts import StoredContexts
from streams.metrics import Metrics
from streams.records import Ideal, Preference, text_hash


@dataclass
class Shelf:
    stored: Stored
    add: Callable[..., None]


@pytest.fixture(params=["fake", "real"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "fake":
        fake = FakeStored()
        return Shelf(fake, fake.add)
    settings = Settings(tables=str(tmp_path / "tables"))
    offsets = count()

    def add(*added: Preference | Ideal) -> None:
        sink = DeltaSink(settings, Metrics(CollectorRegistry()))
        sink.open()
        for record in added:
            sink.append([entry(next(offsets), record)])

    return Shelf(StoredContexts(settings), add)


def waiting(pmid: int, **changes: object) -> Preference:
    reason = "record without MeSH"
    return preference(
        pmid,
        **{
            "outcome": "unscorable",
            "reason": reason,
            "alignments": (unscored("theta1", reason), unscored("theta2", reason)),
            "source": source(pmid, mesh=()),
            **changes,
        },
    )


def text(pmid: int) -> str:
    return source(pmid).text_hash


async def test_nothing_is_kept_where_nothing_was_appended(shelf: Shelf) -> None:
    assert await shelf.stored(1001, text(1001)) == ()


@pytest.mark.parametrize(
    "kept",
    [
        waiting(1001),
        preference(1001),
        preference(1001, outcome="tie", reason="equal"),
        ideal(1001),
        ideal(1001, answer=None),
        ideal(1001, outcome="below the gate", reason="low alignment"),
        ideal(
            1001,
            outcome="unscorable",
            reason="record without MeSH",
            alignments=(unscored("theta3", "record without MeSH"),),
        ),
    ],
    ids=[
        "parked",
        "preferences",
        "dropped",
        "ideal",
        "ideal without an answer",
        "dropped, once ideal",
        "parked, once ideal",
    ],
)
async def test_contexts_are_found_in_every_table(shelf: Shelf, kept: Preference | Ideal) -> None:
    shelf.add(kept, preference(1002), ideal(1003, answer=answer(decision="no")))

    (found,) = await shelf.stored(1001, text(1001))

    assert (found.id, found.source) == (kept.id, kept.source)
    assert list(found.retrievals) == [alignment.retrieval for alignment in kept.alignments]
    assert found.role == ("ideal" if isinstance(kept, Ideal) else "preference")
    assert found.answer == (kept.answer if isinstance(kept, Ideal) else None)


async def test_another_text_of_the_record_is_not_meant(shelf: Shelf) -> None:
    other = source(1001, text_hash=text_hash("Another title.", ""))
    shelf.add(preference(1001, source=other))

    assert await shelf.stored(1001, text(1001)) == ()
    assert len(await shelf.stored(1001, other.text_hash)) == 1


async def test_the_newest_comes_first_whatever_table_it_is_in(shelf: Shelf) -> None:
    tie = preference(1001, id="b" * 32, outcome="tie", reason="equal")
    shelf.add(waiting(1001, id="c" * 32), tie, preference(1001, id="a" * 32))

    found = await shelf.stored(1001, text(1001))

    assert [contexts.id for contexts in found] == ["a" * 32, "b" * 32, "c" * 32]


async def test_what_is_appended_later_is_found_later(shelf: Shelf) -> None:
    shelf.add(waiting(1001, id="a" * 32))
    assert len(await shelf.stored(1001, text(1001))) == 1

    shelf.add(preference(1001, id="b" * 32))
    assert len(await shelf.stored(1001, text(1001))) == 2


async def test_concurrent_calls_get_their_own_answers(shelf: Shelf) -> None:
    better = (alignment("theta2", 0.9), alignment("theta1", 0.1))
    shelf.add(preference(1001), waiting(1002), preference(1003, alignments=better))
    asked = [1001, 1002, 1003, 1004] * 25

    answers = await asyncio.gather(*(shelf.stored(pmid, text(pmid)) for pmid in asked))

    assert [[c.source.pmid for c in found] for found in answers] == [
        [1001],
        [1002],
        [1003],
        [],
    ] * 25
    assert answers[2][0].retrievals[0].candidate.generator == "theta2"
