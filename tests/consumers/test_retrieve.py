import asyncio
from typing import Any

import numpy as np
import pytest

from consumers.ports import Hits, Vector
from consumers.retrieve import retrieve
from fakes.records import article, candidate, questions, rejected, source
from fakes.search import FakeLibrary
from streams.citation import AbstractSection
from streams.errors import Transient
from streams.records import Contexts, SearchMode, record_id

TOPICS = ("aspirin", "stroke", "fish", "maize")


async def embed(text: str) -> Vector:
    """One dimension a topic, and one for anything else."""
    counts = [text.lower().count(topic) for topic in TOPICS]
    values = np.array([*counts, 0 if any(counts) else 1], dtype=np.float32)
    return values / np.float32(np.linalg.norm(values))


async def no_embedding(text: str) -> Vector:
    raise AssertionError("embedded in mode bm25")


@pytest.fixture
async def library() -> FakeLibrary:
    library = FakeLibrary(dimensions=len(TOPICS) + 1)
    texts = {
        1001: "Aspirin and stroke.",
        2: "Aspirin, aspirin and stroke in adults.",
        3: "Aspirin in children.",
        4: "Stroke units.",
        5: "Fish and maize.",
        6: "Adults who do not exercise.",
    }
    for pmid, text in texts.items():
        held = article(pmid, title=text, sections=(AbstractSection(text=text),))
        await library.put(held, await embed(text), version=1)
    return library


async def run(
    library: FakeLibrary,
    mode: SearchMode = "hybrid",
    mesh: tuple[str, ...] = ("D001241", "D010974"),
    **changes: Any,
) -> Contexts:
    asked = questions(
        1001,
        source=source(1001, mesh=mesh),
        candidates=(
            candidate("theta1", question="Does aspirin prevent stroke in adults?"),
            candidate("theta2", question="Do fish eat maize?"),
        ),
    )
    settings: dict[str, Any] = {
        "embed": embed,
        "search": library,
        "lookup": library.lookup,
        "k": 4,
        "depth": 50,
    }
    return await retrieve(asked, mode=mode, rrf_k=60, **settings | changes)


async def test_no_question_is_searched_on_for_a_record_that_another_fails(
    library: FakeLibrary,
) -> None:
    cancelled = asyncio.Event()

    async def one_waits_one_fails(text: str) -> Vector:
        if "fish" in text:
            raise Transient("embedder away")
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    with pytest.raises(Transient):
        await run(library, embed=one_waits_one_fails)
    assert cancelled.is_set()


async def test_each_candidate_gets_the_passages_of_its_own_question(library: FakeLibrary) -> None:
    contexts = await run(library, k=1)

    assert [r.candidate.generator for r in contexts.retrievals] == ["theta1", "theta2"]
    assert [[p.pmid for p in r.passages] for r in contexts.retrievals] == [[2], [5]]


async def test_what_came_in_goes_on(library: FakeLibrary) -> None:
    asked = questions(1001)
    contexts = await retrieve(
        asked,
        embed=embed,
        search=library,
        lookup=library.lookup,
        mode="hybrid",
        k=4,
        depth=50,
        rrf_k=60,
    )

    assert (contexts.id, contexts.role, contexts.source) == (asked.id, asked.role, asked.source)
    assert tuple(r.candidate for r in contexts.retrievals) == asked.candidates


async def test_passages_carry_text_mesh_both_ranks_and_score(library: FakeLibrary) -> None:
    first = (await run(library)).retrievals[0].passages[0]

    assert (first.pmid, first.title) == (2, "Aspirin, aspirin and stroke in adults.")
    assert first.mesh == ("D001241", "D010974")
    assert (first.bm25_rank, first.dense_rank) == (1, 1)
    assert first.score == pytest.approx(2 / 61)


async def test_the_source_is_never_its_own_evidence(library: FakeLibrary) -> None:
    contexts = await run(library, k=50)

    assert all(p.pmid != 1001 for r in contexts.retrievals for p in r.passages)


async def test_passages_are_the_best_k_of_the_fusion(library: FakeLibrary) -> None:
    all_of_them = (await run(library, k=50)).retrievals[0].passages
    best = (await run(library, k=2)).retrievals[0].passages

    assert len(all_of_them) == 5
    assert best == all_of_them[:2]


@pytest.mark.parametrize("mode", ["bm25", "dense", "hybrid"])
async def test_a_mode_uses_its_own_rankings(library: FakeLibrary, mode: SearchMode) -> None:
    contexts = await run(library, mode=mode)

    passages = [p for r in contexts.retrievals for p in r.passages]
    assert {r.mode for r in contexts.retrievals} == {mode}
    assert any(p.bm25_rank for p in passages) == (mode != "dense")
    assert any(p.dense_rank for p in passages) == (mode != "bm25")


async def test_bm25_asks_for_no_embedding(library: FakeLibrary) -> None:
    contexts = await run(library, mode="bm25", embed=no_embedding)

    assert all(r.passages for r in contexts.retrievals)


async def test_a_rejected_candidate_goes_on_without_passages(library: FakeLibrary) -> None:
    asked = questions(1001, candidates=(rejected("theta1", "too long"), candidate("theta2")))

    contexts = await retrieve(
        asked,
        embed=embed,
        search=library,
        lookup=library.lookup,
        mode="hybrid",
        k=4,
        depth=50,
        rrf_k=60,
    )

    assert contexts.retrievals[0].candidate.rejected == "too long"
    assert contexts.retrievals[0].passages == ()
    assert contexts.retrievals[1].passages != ()


async def test_candidates_are_searched_at_the_same_time(library: FakeLibrary) -> None:
    both_here = asyncio.Barrier(2)

    async def search(*args: Any, **kwargs: Any) -> Hits:
        await both_here.wait()
        return await library(*args, **kwargs)

    async with asyncio.timeout(5):
        contexts = await run(library, search=search)

    assert all(r.passages for r in contexts.retrievals)


async def test_a_search_that_is_away_is_told_as_it_is(library: FakeLibrary) -> None:
    async def away(*args: Any, **kwargs: Any) -> Hits:
        raise Transient("elasticsearch away")

    with pytest.raises(Transient, match="elasticsearch away"):
        await run(library, search=away)


async def test_a_record_without_mesh_goes_on_with_what_it_has_by_now(library: FakeLibrary) -> None:
    contexts = await run(library, mesh=())

    mesh = ("D001241", "D010974")
    assert contexts.source == source(1001, mesh=mesh)
    versions = [r.candidate.version for r in contexts.retrievals]
    text = contexts.source.text_hash
    assert contexts.id == record_id(1001, text, "preference", versions, mesh=mesh)


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_record_that_still_has_no_mesh_goes_on_without(
    library: FakeLibrary, indexed: bool
) -> None:
    if indexed:
        await library.put(article(1001, mesh=()), await embed("Aspirin"), version=2)
    else:
        await library.delete(1001, version=2)

    contexts = await run(library, mesh=())

    assert (contexts.id, contexts.source.mesh) == (questions(1001).id, ())


async def test_the_mesh_that_a_record_was_asked_about_with_stays(library: FakeLibrary) -> None:
    async def no_lookup(pmids: Any) -> dict[int, tuple[str, ...]]:
        raise AssertionError("looked up a record that has MeSH")

    contexts = await run(library, mesh=("D000009",), lookup=no_lookup)

    assert contexts.source.mesh == ("D000009",)


async def test_a_record_that_was_not_asked_about_goes_through(library: FakeLibrary) -> None:
    withheld = source(1001, mesh=(), withheld="retracted")
    asked = questions(1001, source=withheld, candidates=())

    contexts = await retrieve(
        asked,
        embed=embed,
        search=library,
        lookup=library.lookup,
        mode="hybrid",
        k=4,
        depth=50,
        rrf_k=60,
    )

    assert (contexts.id, contexts.source, contexts.retrievals) == (asked.id, withheld, ())
