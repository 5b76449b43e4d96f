from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.learning import Compared
from trainers.gate import Policy, judge_answers, judge_generator, win

POLICY = Policy(
    bound=0.5, confidence=0.95, resamples=500, rejection_tolerance=0.0, least_records=20
)

scores = st.none() | st.floats(0, 1)
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=80)


def compared(of: list[tuple[float | None, float | None]]) -> list[Compared]:
    return [
        Compared(pmid=pmid, champion=champion, candidate=candidate)
        for pmid, (champion, candidate) in enumerate(of, 1)
    ]


@pytest.mark.parametrize(
    ("champion", "candidate", "expected"),
    [
        (0.4, 0.5, 1.0),
        (0.5, 0.4, 0.0),
        (0.5, 0.5, 0.5),
        (None, 0.0, 1.0),
        (0.0, None, 0.0),
        (None, None, 0.5),
    ],
)
def test_a_score_beats_a_lower_one_and_none(champion, candidate, expected):
    assert win(Compared(pmid=1, champion=champion, candidate=candidate)) == expected


@given(pairs)
def test_with_the_models_changed_over_the_win_rate_is_its_complement(of):
    there = judge_generator(compared(of), POLICY, job="a").figures
    back = judge_generator(compared([(b, a) for a, b in of]), POLICY, job="a").figures
    assert there["win_rate"] == pytest.approx(1 - back["win_rate"])
    assert (there["wins"], there["ties"]) == (back["losses"], back["ties"])
    assert there["champion_rejected"] == back["candidate_rejected"]


@given(pairs)
def test_never_do_both_of_two_models_beat_the_other(of):
    there = judge_generator(compared(of), POLICY, job="a")
    back = judge_generator(compared([(b, a) for a, b in of]), POLICY, job="a")
    assert not (there.passed and back.passed)


@given(st.lists(scores, min_size=1, max_size=80), st.floats(0.5, 1), st.text())
def test_a_model_does_not_beat_itself(of, bound, job):
    decision = judge_generator(
        compared([(score, score) for score in of]), replace(POLICY, bound=bound), job=job
    )
    assert not decision.passed
    assert decision.figures["win_rate"] == 0.5


@given(pairs, st.data())
def test_a_better_candidate_is_not_judged_worse(of, data):
    at = data.draw(st.integers(0, len(of) - 1))
    champion, candidate = of[at]
    better = data.draw(st.floats(0 if candidate is None else candidate, 1))
    improved = [*of[:at], (champion, better), *of[at + 1 :]]
    before = judge_generator(compared(of), POLICY, job="a")
    after = judge_generator(compared(improved), POLICY, job="a")
    for figure in ("win_rate", "win_rate_lower", "win_rate_upper"):
        assert after.figures[figure] >= before.figures[figure]
    assert after.passed or not before.passed


@given(pairs)
def test_the_same_job_is_decided_the_same(of):
    assert judge_generator(compared(of), POLICY, job="a") == judge_generator(
        compared(of), POLICY, job="a"
    )


def test_a_clear_winner_passes_and_the_reason_has_the_figures():
    decision = judge_generator(compared([(0.3, 0.4)] * 70 + [(0.4, 0.3)] * 30), POLICY, job="a")
    assert decision.passed
    assert "win rate 0.700" in decision.reason
    assert decision.figures["win_rate_lower"] > 0.5


def test_chance_passes_about_as_seldom_as_the_confidence_says():
    draw = np.random.default_rng(7)
    passed = 0
    for job in range(200):
        noise = [(float(a), float(b)) for a, b in draw.random((60, 2))]
        passed += judge_generator(compared(noise), POLICY, job=str(job)).passed
    # One side of a 95 % interval: 2.5 % of 200 are 5; 16 or more has a chance below 1 in 10,000.
    assert passed < 16


def test_every_condition_that_failed_is_named():
    losing = compared([(0.4, 0.3)] * 8 + [(0.4, None)] * 2)
    decision = judge_generator(losing, POLICY, job="a")
    assert not decision.passed
    few, rate, rejections = decision.reason.split("; ")
    assert few == "10 records with a score, expected 20 or more"
    assert rate.startswith("win rate 0.000")
    assert rate.endswith("is not above 0.5")
    assert rejections == "20.0% rejected against the champion's 0.0%, expected 0.0% more at most"


def test_a_winner_that_is_rejected_more_often_is_blocked_up_to_the_tolerance():
    of = compared([(0.3, 0.4)] * 90 + [(0.3, None)] * 10)
    assert judge_generator(of, POLICY, job="a").reason.startswith("10.0% rejected")
    assert judge_generator(of, replace(POLICY, rejection_tolerance=0.1), job="a").passed


def test_records_that_neither_has_a_score_for_do_not_count_as_enough():
    of = compared([(0.3, 0.4)] * 19 + [(None, None)] * 500)
    assert "19 records with a score" in judge_generator(of, POLICY, job="a").reason


@pytest.mark.parametrize("judge", [judge_answers, lambda of, p: judge_generator(of, p, job="a")])
def test_nothing_to_compare_on_is_a_reason_and_no_failure(judge):
    decision = judge([], POLICY)
    assert not decision.passed
    assert decision.reason == "0 records to compare on, expected 20 or more"


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=120)


def right(of: list[tuple[bool, bool]]) -> list[Compared]:
    return compared([(float(old), float(new)) for old, new in of])


@given(answers)
def test_answers_pass_only_where_more_are_right_and_never_both_ways(of):
    there = judge_answers(right(of), POLICY)
    back = judge_answers(right([(b, a) for a, b in of]), POLICY)
    assert there.figures["p"] == back.figures["p"]
    assert not (there.passed and back.passed)
    assert not there.passed or sum(new for _, new in of) > sum(old for old, _ in of)


@given(st.lists(st.booleans(), min_size=1, max_size=120))
def test_an_answer_model_does_not_beat_itself(of):
    decision = judge_answers(right([(one, one) for one in of]), POLICY)
    assert not decision.passed
    assert decision.figures["p"] == 1.0


def test_answer_models_are_told_apart_by_the_questions_that_only_one_has_right():
    # Of 100 questions 80 are the same: 15 to 5 is p = 0.041, 14 to 6 is 0.115.
    same = [(True, True)] * 50 + [(False, False)] * 30
    better = judge_answers(right(same + [(False, True)] * 15 + [(True, False)] * 5), POLICY)
    assert better.passed
    assert better.reason.startswith("accuracy 65.0% against the champion's 55.0%")
    luck = judge_answers(right(same + [(False, True)] * 14 + [(True, False)] * 6), POLICY)
    assert not luck.passed
    assert luck.reason.endswith("(McNemar p = 0.115): expected p below 0.05")
