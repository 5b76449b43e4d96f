import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.prefer import prefer
from fakes import records
from streams.preference import TELLING
from streams.records import Alignment, Preference


def asked(question: str, score: float) -> Alignment:
    candidate = records.candidate(question=question)
    return Alignment(retrieval=records.retrieval(candidate=candidate), score=score)


def preferred(*alignments: Alignment, margin: float = 0.01) -> Preference:
    made = prefer(records.alignments(alignments=alignments), margin)
    assert made
    return made


def test_the_better_question_comes_first() -> None:
    better, worse = records.alignment("theta2", 0.6), records.alignment("theta1", 0.4)
    made = preferred(worse, better)
    assert (made.outcome, made.reason) == ("preference", None)
    assert made.alignments == (better, worse)


def test_the_best_and_the_worst_of_several() -> None:
    several = [records.alignment(f"theta{i}", s) for i, s in enumerate((0.3, 0.7, 0.5, 0.1))]
    made = preferred(*several, records.unscored("theta9"))
    assert made.alignments == (several[1], several[3])


def test_a_record_that_was_not_asked_about_is_unscorable_for_that_reason() -> None:
    withheld = records.source(withheld="retracted")
    made = prefer(records.alignments(source=withheld, alignments=()), 0.01)
    assert made
    assert (made.outcome, made.reason, made.alignments) == ("unscorable", "retracted", ())


def test_provenance_rides_along() -> None:
    taken = records.alignments(edition="2025", frequency="kailin")
    made = prefer(taken, 0.05)
    assert made
    assert (made.id, made.source) == (taken.id, taken.source)
    assert (made.edition, made.frequency, made.margin) == ("2025", "kailin", 0.05)


def test_what_theta3_asked_makes_no_preference() -> None:
    assert prefer(records.alignments(role="ideal"), 0.01) is None


@pytest.mark.parametrize(
    ("scores", "margin", "outcome", "reason"),
    [
        ((0.5, 0.5), 0.0, "tie", "equal"),
        ((0.5, 0.5), 0.2, "tie", "equal"),
        ((0.5, 0.5, 0.5), 0.2, "tie", "equal"),
        ((0.25, 0.5), 0.3, "tie", "within margin"),
        ((0.25, 0.5), 0.25, "preference", None),
        ((0.5, 0.5 + 1e-9), 0.0, "preference", None),
    ],
)
def test_ties(scores: tuple[float, ...], margin: float, outcome: str, reason: str | None) -> None:
    alignments = tuple(records.alignment(f"theta{i}", s) for i, s in enumerate(scores))
    made = preferred(*alignments, margin=margin)
    assert (made.outcome, made.reason) == (outcome, reason)
    if outcome == "tie":
        assert made.alignments == alignments


@pytest.mark.parametrize("scores", [(0.5, 0.5), (0.2, 0.9)])
def test_the_same_question_is_no_preference(scores: tuple[float, float]) -> None:
    made = preferred(asked("Does  it work?", scores[0]), asked("does it work? ", scores[1]))
    assert (made.outcome, made.reason) == ("tie", "same question")


def test_equal_scores_of_several_questions_are_not_the_same_question() -> None:
    made = preferred(asked("Why?", 0.5), asked("Why?", 0.5), asked("How?", 0.5))
    assert (made.outcome, made.reason) == ("tie", "equal")


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["record without MeSH", "candidate rejected"], "record without MeSH"),
        (["candidate rejected", "context without MeSH"], "candidate rejected"),
        (["context without MeSH", "nothing retrieved"], "nothing retrieved"),
        (["context without MeSH", "unknown descriptors"], "unknown descriptors"),
        (["context without MeSH", None], "context without MeSH"),
        (["a reason of a later version", None], "unscored"),
        (["candidate rejected"], "single candidate"),
        ([None], "single candidate"),
        ([], "single candidate"),
    ],
)
def test_fewer_than_two_scores_are_unscorable(reasons: list[str | None], expected: str) -> None:
    alignments = tuple(
        records.alignment(f"theta{i}") if reason is None else records.unscored(f"theta{i}", reason)
        for i, reason in enumerate(reasons)
    )
    made = preferred(*alignments)
    assert (made.outcome, made.reason) == ("unscorable", expected)
    assert made.alignments == alignments


verdicts = st.one_of(
    st.floats(0, 1).map(lambda score: records.alignment(score=score)),
    st.sampled_from(TELLING).map(lambda reason: records.unscored(reason=reason)),
)


@given(st.lists(verdicts, max_size=5), st.floats(0, 1))
def test_a_preference_has_a_gap_and_everything_else_a_reason(
    verdicts: list[Alignment], margin: float
) -> None:
    # Questions that differ, so that ties come from scores alone.
    alignments = tuple(
        replace(a, retrieval=records.retrieval(candidate=records.candidate(f"theta{i}")))
        for i, a in enumerate(verdicts)
    )
    made = preferred(*alignments, margin=margin)
    scores = [a.score for a in alignments if a.score is not None]
    gap = max(scores) - min(scores) if len(scores) > 1 else math.nan
    assert (made.outcome == "preference") == (gap > 0 and gap >= margin)
    assert (made.outcome == "unscorable") == (len(scores) < 2)
    assert (made.reason is None) == (made.outcome == "preference")
    if made.outcome == "preference":
        assert [a.score for a in made.alignments] == [max(scores), min(scores)]
    else:
        assert made.alignments == alignments
