"""How sure a figure is: bootstrap intervals, and McNemar's test of two models on the same items.

Everything is a function of its arguments and a seed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

# Resamples held at once: 2,000 values in such a batch are 16 MB.
_BATCH = 1000


def bootstrap_interval(
    values: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The two-sided percentile interval of the mean, (low, high).

    Which values a resample draws depends on the seed and their number alone, so that raising a
    value never lowers a bound. Raises ValueError without any value.
    """
    if len(values) == 0:
        raise ValueError("expected one value or more")
    sample = np.asarray(values, dtype=np.float64)
    low, high = sample.min(), sample.max()
    if low == high:
        return float(low), float(high)
    interval = bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def accuracy_interval(
    right: Sequence[bool], *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The bootstrap interval of the share that is True, (low, high)."""
    values = [float(x) for x in right]
    return bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)


def macro_f1_interval(
    truth: Sequence[str],
    predicted: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """The percentile interval of macro-F1 over resampled items, (low, high).

    Each resample is scored as scikit-learn would: over the classes that stand in its truth or its
    predictions, a class without a true positive as 0. Raises ValueError without any item.
    """
    if len(truth) == 0 or len(truth) != len(predicted):
        raise ValueError("expected one prediction for each of one item or more")
    classes, flat = np.unique([*truth, *predicted], return_inverse=True)
    count = len(classes)
    cells = np.bincount(flat[: len(truth)] * count + flat[len(truth) :], minlength=count * count)
    # Items drawn with replacement fall into the cells of the confusion matrix as a multinomial.
    drawn = np.random.default_rng(seed).multinomial(len(truth), cells / len(truth), size=resamples)
    scores = _macro_f1(drawn.reshape(resamples, count, count))
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def _macro_f1(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Macro-F1 of each matrix (true class, predicted class); shape (resamples,)."""
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    # 2·TP + FP + FN: a class that does not stand in a resample has none.
    seen = confusions.sum(axis=1) + confusions.sum(axis=2)
    f1 = np.divide(2 * hits, seen, out=np.zeros(hits.shape), where=seen > 0)
    return np.asarray(f1.sum(axis=1) / (seen > 0).sum(axis=1), dtype=np.float64)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The p-value that two models which answered the same items are equally often right.

    Exact and two-sided: a binomial test of the items that only one of them has right, 1.0 where
    there are none. Raises ValueError for lists of unequal length.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
