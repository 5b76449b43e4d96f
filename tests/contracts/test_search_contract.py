"""The `Search` port: one suite on the index in memory and on the real node."""

import asyncio
from typing import Any

import numpy as np
import pytest

from consumers.ports import Hit, Hits, Vector
from fakes.records import article
from streams.citation import AbstractSection, Article

NOTHING = Hits(bm25=(), dense=())


def record(pmid: int, title: str, abstract: str = "") -> Article:
    sections = (AbstractSection(text=abstract),) if abstract else ()
    return article(pmid, title=title, sections=sections)


def direction(degrees: float) -> Vector:
    """Unit vectors in one plane: the nearer the angles, the nearer the records."""
    values = np.zeros(8, dtype=np.float32)
    values[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return values


async def shelve(library: Any, *records: tuple[Article, Vector]) -> None:
    await asyncio.gather(*(library.index.put(held, vector, version=1) for held, vector in records))
    await library.refresh()


def pmids(hits: tuple[Hit, ...]) -> list[int]:
    return [hit.pmid for hit in hits]


@pytest.fixture
async def shelf(library: Any) -> Any:
    await shelve(
        library,
        (record(11, "Aspirin after stroke.", "Forty adults were followed."), direction(0)),
        (
            record(12, "A cohort of adults.", "Aspirin was given to some of many."),
            direction(30),
        ),
        (record(13, "Zebrafish fins regenerate.", "Blastema cells divide."), direction(60)),
        (record(14, "Maize and drought.", "Yield fell in dry years."), direction(90)),
    )
    return library


async def test_bm25_finds_words_and_ranks_the_title_first(shelf: Any) -> None:
    hits = await shelf.search("aspirin", None, mode="bm25", depth=10, exclude=1)

    assert pmids(hits.bm25) == [11, 12]
    assert hits.dense == ()


async def test_a_question_finds_other_forms_of_its_words(shelf: Any) -> None:
    hits = await shelf.search("Did the DROUGHTS matter?", None, mode="bm25", depth=10, exclude=1)

    assert pmids(hits.bm25) == [14]


async def test_dense_ranks_all_by_angle(shelf: Any) -> None:
    hits = await shelf.search("", direction(55), mode="dense", depth=10, exclude=1)

    assert pmids(hits.dense) == [13, 12, 14, 11]
    assert hits.bm25 == ()


async def test_hybrid_is_both_searches(shelf: Any) -> None:
    hits = await shelf.search("aspirin", direction(85), mode="hybrid", depth=2, exclude=1)

    assert pmids(hits.bm25) == [11, 12]
    assert pmids(hits.dense) == [14, 13]


async def test_a_vector_is_not_used_in_mode_bm25(shelf: Any) -> None:
    hits = await shelf.search("aspirin", direction(85), mode="bm25", depth=2, exclude=1)

    assert pmids(hits.bm25) == [11, 12]
    assert hits.dense == ()


async def test_the_source_is_left_out_and_does_not_use_up_depth(shelf: Any) -> None:
    hits = await shelf.search("aspirin adults", direction(0), mode="hybrid", depth=1, exclude=11)

    assert pmids(hits.bm25) == [12]
    assert pmids(hits.dense) == [12]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
async def test_depth_bounds_each_list(shelf: Any, depth: int) -> None:
    hits = await shelf.search(
        "aspirin zebrafish maize adults", direction(0), mode="hybrid", depth=depth, exclude=1
    )

    assert len(hits.bm25) == depth
    assert len(hits.dense) == depth


@pytest.mark.parametrize(
    "question",
    ["", "   ", "???", "is it of the", "xylophone", '"unclosed', "\x00"],
)
async def test_a_question_that_no_word_answers_finds_nothing(shelf: Any, question: str) -> None:
    assert await shelf.search(question, None, mode="bm25", depth=5, exclude=1) == NOTHING


async def test_query_syntax_is_just_words(shelf: Any) -> None:
    question = '+aspirin -stroke title: maize AND (NOT [zebrafish TO *]) "cells'

    hits = await shelf.search(question, None, mode="bm25", depth=10, exclude=1)

    assert set(pmids(hits.bm25)) == {11, 12, 13, 14}


async def test_a_very_long_question_is_answered(shelf: Any) -> None:
    question = " ".join(f"gene{number}" for number in range(800)) + " zebrafish"

    hits = await shelf.search(question, None, mode="bm25", depth=10, exclude=1)

    assert pmids(hits.bm25) == [13]


async def test_an_empty_index_answers_with_nothing(library: Any) -> None:
    hits = await library.search("aspirin", direction(0), mode="hybrid", depth=5, exclude=1)

    assert hits == NOTHING


async def test_words_outside_ascii_are_found(library: Any) -> None:
    await shelve(
        library,
        (record(21, "Rôle de la β-caténine"), direction(0)),
        (record(22, "糖尿病 の 治療"), direction(45)),
    )

    greek = await library.search("β", None, mode="bm25", depth=5, exclude=1)
    japanese = await library.search("治療", None, mode="bm25", depth=5, exclude=1)

    assert pmids(greek.bm25) == [21]
    assert pmids(japanese.bm25) == [22]


async def test_concurrent_searches_get_their_own_answers(shelf: Any) -> None:
    asked = [("aspirin", [11, 12]), ("zebrafish", [13]), ("maize", [14]), ("xylophone", [])] * 10
    modes = ("bm25", "hybrid")

    answers = await asyncio.gather(
        *(
            shelf.search(word, direction(0), mode=modes[place % 2], depth=5, exclude=1)
            for place, (word, _) in enumerate(asked)
        )
    )

    assert [pmids(hits.bm25) for hits in answers] == [expected for _, expected in asked]
    assert {len(hits.dense) for hits in answers[1::2]} == {4}
    assert {len(hits.dense) for hits in answers[0::2]} == {0}
