"""A record whose MeSH has come is scored anew from what was retrieved for it."""

from dataclasses import replace
from typing import Any

import pytest

from consumers.answer import gate
from consumers.prefer import prefer
from consumers.rescore import rescore
from consumers.score import score
from fakes import records as example
from fakes.mesh import metals
from fakes.stored import FakeStored
from streams.citation import Article, Change, MeshHeading
from streams.records import (
    Contexts,
    Passage,
    record_id,
    text_hash,
)
from streams.similarity import Similarity

SCORER = Similarity(metals())
VERSIONS = [example.candidate(name).version for name in ("theta1", "theta2")]


class Shelf:
    """The `Stored` and `Lookup` ports on what a test puts in, the newest first."""

    def __init__(self, *held: Contexts, mesh: dict[int, tuple[str, ...]] | None = None) -> None:
        scored = [score(contexts, SCORER) for contexts in reversed(held)]
        self.stored = FakeStored(*(prefer(each, 0.01) or gate(each, 0.2) for each in scored))
        self.mesh = mesh or {}

    async def lookup(self, pmids: Any) -> dict[int, tuple[str, ...]]:
        return {pmid: self.mesh[pmid] for pmid in pmids if pmid in self.mesh}

    async def rescore(self, article: Article) -> list[Contexts]:
        return await rescore(article, stored=self.stored, lookup=self.lookup)


def indexed(**changes: Any) -> Article:
    return replace(example.article(1001, change="mesh"), **changes)


def waiting(**changes: Any) -> Contexts:
    """Contexts of a record that had no MeSH, as its row names them."""
    source = example.source(1001, mesh=(), indexing=None)
    contexts = example.contexts(1001, id=identity(mesh=()), source=source)
    return replace(contexts, **changes)


def identity(mesh: tuple[str, ...]) -> str:
    of = example.source(1001)
    return record_id(1001, of.text_hash, "preference", VERSIONS, mesh=mesh)


def questions(contexts: Contexts) -> list[str | None]:
    return [r.candidate.question for r in contexts.retrievals]


def passages(contexts: Contexts) -> list[Passage]:
    return [p for r in contexts.retrievals for p in r.passages]


async def test_the_record_goes_on_with_its_mesh_and_the_id_that_belongs_to_it() -> None:
    (made,) = await Shelf(waiting()).rescore(indexed())

    assert made.source == example.source(1001)
    assert made.id == identity(example.source(1001).mesh) != waiting().id
    assert questions(made) == questions(waiting())
    assert passages(made) == passages(waiting())


async def test_what_theta3_asked_goes_on_too_with_the_answer_it_had() -> None:
    theta3 = example.retrieval("theta3")
    source = example.source(1001, mesh=("D000006",))
    ideal = waiting(
        id="e" * 32, role="ideal", source=source, retrievals=(theta3,), answer=example.answer()
    )

    compared, asked = await Shelf(waiting(), ideal).rescore(indexed())

    assert compared.id == identity(example.source(1001).mesh)
    of = example.source(1001)
    versions = [theta3.candidate.version]
    assert asked.id == record_id(1001, of.text_hash, "ideal", versions, mesh=of.mesh)
    assert (asked.role, asked.answer, asked.retrievals) == ("ideal", example.answer(), (theta3,))
    assert (compared.role, compared.answer) == ("preference", None)


async def test_the_mesh_of_every_passage_is_looked_up_again() -> None:
    shelf = Shelf(waiting(), mesh={2001: ("D000009",), 2002: ()})

    (made,) = await shelf.rescore(indexed())

    assert [p.mesh for p in passages(made)] == [("D000009",), ()] * 2


async def test_a_passage_whose_record_is_gone_keeps_what_it_had() -> None:
    (made,) = await Shelf(waiting(), mesh={2001: ("D000009",)}).rescore(indexed())

    assert [p.mesh for p in passages(made)] == [("D000009",), ("D001241",)] * 2


@pytest.mark.parametrize("change", ["new", "text", "other"])
async def test_other_changes_rescore_nothing(change: Change) -> None:
    assert await Shelf(waiting()).rescore(indexed(change=change)) == []


async def test_a_record_that_comes_back_with_its_mesh_is_rescored() -> None:
    assert len(await Shelf(waiting()).rescore(indexed(change="reinstated"))) == 1


async def test_a_record_whose_mesh_was_taken_away_is_not() -> None:
    assert await Shelf(waiting()).rescore(indexed(mesh=())) == []


async def test_another_text_was_asked_other_questions() -> None:
    other = replace(waiting().source, text_hash=text_hash("Another title.", ""))

    assert await Shelf(waiting(source=other)).rescore(indexed()) == []


async def test_of_one_set_of_generators_the_newest_contexts_are_taken() -> None:
    renewed = waiting(retrievals=waiting().retrievals[::-1])

    (made,) = await Shelf(renewed, waiting()).rescore(indexed())

    assert questions(made) == questions(renewed)


async def test_each_set_of_generators_is_rescored() -> None:
    improved = replace(example.candidate("theta1"), revision="dpo-1")
    later = waiting(retrievals=(example.retrieval(candidate=improved), example.retrieval("theta2")))

    made = await Shelf(later, waiting()).rescore(indexed())

    assert len({contexts.id for contexts in made}) == len(made) == 2


async def test_what_a_table_holds_under_this_mesh_is_not_made_again() -> None:
    there = waiting(id=identity(indexed().descriptors))
    shuffled = indexed(mesh=tuple(reversed(indexed().mesh)))

    assert await Shelf(waiting(), there).rescore(indexed()) == []
    assert await Shelf(there, waiting()).rescore(shuffled) == []


async def test_mesh_that_changes_again_makes_another_record() -> None:
    there = waiting(id=identity(indexed().descriptors))
    third = MeshHeading(ui="D012345", name="Third")

    (made,) = await Shelf(there, waiting()).rescore(indexed(mesh=(*indexed().mesh, third)))

    assert made.id == identity((*indexed().descriptors, "D012345"))


async def test_a_record_that_was_not_asked_about_has_nothing_to_rescore() -> None:
    assert await Shelf(waiting(retrievals=())).rescore(indexed()) == []
