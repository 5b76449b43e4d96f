from dataclasses import replace

import pytest

from consumers.score import score
from fakes import records
from fakes.mesh import metals, ui
from streams.records import Contexts
from streams.similarity import Similarity

METALS = metals()
COPPER, GOLD, PLATINUM = (ui(METALS, name) for name in ("copper", "gold", "platinum"))
SCORER = Similarity(METALS)


def contexts(source: tuple[str, ...], *passages: tuple[str, ...]) -> Contexts:
    """One candidate, with a passage for each tuple of descriptors."""
    found = tuple(records.passage(2001 + i, mesh=uis) for i, uis in enumerate(passages))
    return records.contexts(
        source=records.source(mesh=source),
        retrievals=(records.retrieval("theta1", passages=found),),
    )


def test_the_terms_of_all_passages_count_one_after_the_other() -> None:
    (alignment,) = score(contexts((COPPER,), (GOLD, PLATINUM), (GOLD,)), SCORER).alignments
    assert alignment.score == pytest.approx(2 / 9)
    assert alignment.unscored is None


def test_what_was_scored_and_how_rides_along() -> None:
    taken = contexts((COPPER,), (GOLD,))
    made = score(taken, SCORER)
    assert (made.id, made.role, made.source) == (taken.id, taken.role, taken.source)
    assert (made.edition, made.frequency) == ("test", "intrinsic")
    assert tuple(a.retrieval for a in made.alignments) == taken.retrievals


def test_a_passage_without_mesh_adds_nothing() -> None:
    with_one, without = (
        score(contexts((COPPER,), *passages), SCORER).alignments[0].score
        for passages in ([(GOLD,), ()], [(GOLD,)])
    )
    assert with_one == without == pytest.approx(1 / 3)


def test_unknown_descriptors_beside_known_ones_are_passed_over() -> None:
    (alignment,) = score(contexts((COPPER, "D999999"), (GOLD, "D999998")), SCORER).alignments
    assert alignment.score == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        (contexts((), (GOLD,)), "record without MeSH"),
        (contexts((COPPER,)), "nothing retrieved"),
        (contexts((COPPER,), (), ()), "context without MeSH"),
        (contexts(("D999999",), (GOLD,)), "unknown descriptors"),
        (contexts((COPPER,), ("D999999",)), "unknown descriptors"),
    ],
)
def test_no_score_has_a_reason(taken: Contexts, reason: str) -> None:
    (alignment,) = score(taken, SCORER).alignments
    assert alignment.score is None
    assert alignment.unscored == reason


def test_each_candidate_has_a_verdict_of_its_own() -> None:
    rejected = records.retrieval(
        "theta2", candidate=records.rejected("theta2", "not a question"), passages=()
    )
    taken = contexts((COPPER,), (GOLD,))
    made = score(replace(taken, retrievals=(*taken.retrievals, rejected)), SCORER)
    assert [a.unscored for a in made.alignments] == [None, "candidate rejected"]
