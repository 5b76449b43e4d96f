"""Intervals and tests, compared with closed forms and with resampling item by item."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import f1_score

from trainers.statistics import (
    accuracy_interval,
    bootstrap_interval,
    macro_f1_interval,
    mcnemar,
)

WINS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)
OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def interval(values, *, confidence=0.95, resamples=500, seed=7):
    return bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)


# The interval of a mean.


def test_it_is_the_percentiles_of_all_resamples_of_three_values():
    values = [0.0, 1.0, 4.0]
    means = [sum(drawn) / 3 for drawn in product(values, repeat=3)]
    # 27 resamples, each as likely: a tail of 15 % lies well inside a step of their distribution.
    expected = np.quantile(means, [0.15, 0.85], method="inverted_cdf")
    assert interval(values, confidence=0.7, resamples=50_000) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("right", "of"), [(276, 500), (30, 50), (1999, 2000)])
def test_that_of_a_share_is_the_binomials(right, of):
    low, high = accuracy_interval(
        [True] * right + [False] * (of - right), confidence=0.95, resamples=10_000, seed=1
    )
    expected = binom.ppf([0.025, 0.975], of, right / of) / of
    assert (low, high) == pytest.approx(tuple(expected), abs=2 / of)


def test_it_holds_the_mean_about_as_often_as_it_says():
    draw = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        low, high = interval(list(draw.normal(size=60)), resamples=300, seed=trial)
        held += low <= 0.0 <= high
    # A binomial of 200 at 95 % lies above 179 in all but one of a thousand runs; a percentile
    # interval is slightly narrow.
    assert 177 <= held <= 199


@given(values=WINS, seed=st.integers(0, 2**63))
def test_it_lies_around_the_mean_within_the_values_and_the_same_each_time(values, seed):
    low, high = interval(values, seed=seed)
    assert min(values) <= low <= high <= max(values)
    assert interval(values, seed=seed) == (low, high)
    wider = interval(values, seed=seed, confidence=0.99)
    assert wider[0] <= low
    assert high <= wider[1]


@given(values=WINS, data=st.data())
def test_a_better_value_never_lowers_a_bound(values, data):
    at = data.draw(st.integers(0, len(values) - 1))
    better = list(values)
    better[at] = 1.0
    before, after = interval(values), interval(better)
    assert after[0] >= before[0] - 1e-12
    assert after[1] >= before[1] - 1e-12


@given(values=WINS, shift=st.floats(-10, 10), scale=st.floats(0.1, 10))
def test_it_moves_and_stretches_with_the_values(values, shift, scale):
    expected = [scale * bound + shift for bound in interval(values)]
    assert interval([scale * x + shift for x in values]) == pytest.approx(expected, abs=1e-9)


def test_one_value_is_its_own_interval_and_none_has_no_interval():
    assert interval([0.5]) == (0.5, 0.5)
    assert interval([1.0] * 9) == (1.0, 1.0)
    with pytest.raises(ValueError, match="one value or more"):
        interval([])


# McNemar.


def exact(first: int, second: int) -> float:
    """Twice the lighter tail of a fair coin, in whole numbers."""
    tosses = first + second
    tail = sum(math.comb(tosses, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**tosses)


@given(OUTCOMES)
def test_mcnemar_is_the_exact_binomial_of_the_items_that_differ(outcomes):
    first, second = [one for one, _ in outcomes], [other for _, other in outcomes]
    only_first = sum(one and not other for one, other in outcomes)
    only_second = sum(other and not one for one, other in outcomes)
    assert mcnemar(first, second) == pytest.approx(exact(only_first, only_second))
    assert mcnemar(second, first) == pytest.approx(mcnemar(first, second))


@given(OUTCOMES, st.booleans())
def test_what_both_have_right_or_wrong_tells_nothing(outcomes, both):
    first, second = [one for one, _ in outcomes], [other for _, other in outcomes]
    assert mcnemar([*first, both], [*second, both]) == mcnemar(first, second)


def test_known_values():
    # 10 against 2 of the discordant: 2 · (1 + 12 + 66) / 4096.
    assert mcnemar([True] * 10 + [False] * 2, [False] * 10 + [True] * 2) == pytest.approx(
        158 / 4096
    )
    assert mcnemar([], []) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True], [])


# Macro-F1.

LABELS = st.sampled_from(["yes", "no", "maybe"])
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30)


@settings(max_examples=6, deadline=None)
@given(PAIRS)
def test_macro_f1_is_resampled_as_scikit_learn_scores_each(pairs):
    truth, predicted = np.array(pairs).T
    draw = np.random.default_rng(5)
    drawn = [draw.integers(0, len(pairs), len(pairs)) for _ in range(400)]
    scores = [f1_score(truth[i], predicted[i], average="macro") for i in drawn]
    low, high = macro_f1_interval(
        list(truth), list(predicted), confidence=0.8, resamples=4000, seed=1
    )
    # The oracle's tails, with room for its 400 resamples: 4.5 standard errors of 10 %.
    assert np.quantile(scores, 0.03) <= low + 1e-9
    assert low <= np.quantile(scores, 0.17) + 1e-9
    assert np.quantile(scores, 0.83) <= high + 1e-9
    assert high <= np.quantile(scores, 0.97) + 1e-9


@given(PAIRS)
def test_all_right_is_one_and_all_wrong_is_zero(pairs):
    truth = [label for label, _ in pairs]
    other = {"yes": "no", "no": "maybe", "maybe": "yes"}
    sure = {"confidence": 0.95, "resamples": 50, "seed": 0}
    assert macro_f1_interval(truth, truth, **sure) == (1.0, 1.0)
    assert macro_f1_interval(truth, [other[label] for label in truth], **sure) == (0.0, 0.0)


def test_it_wants_a_prediction_for_each_item():
    sure = {"confidence": 0.95, "resamples": 50, "seed": 0}
    with pytest.raises(ValueError, match="one prediction for each"):
        macro_f1_interval([], [], **sure)
    with pytest.raises(ValueError, match="one prediction for each"):
        macro_f1_interval(["yes"], [], **sure)
