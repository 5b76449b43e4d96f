"""The order in which examples are trained on, so that little of a batch is padding.

Transformers' own grouping draws from the global random state, and so draws another order when a
job is resumed in a later epoch: rows would be seen twice, others never.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Batches whose examples are sorted among each other: the batches are of like lengths, and each
# epoch still makes other ones.
SORTED_TOGETHER = 50


def by_length(
    lengths: Sequence[int], *, total: int, batch: int, seed: int
) -> npt.NDArray[np.int64]:
    """Indices of `total` examples, epoch after epoch, each example once in every epoch.

    Examples of like length stand in the same batch of `batch`; which ones, and the order of the
    batches, is random, and always the same for the same arguments.
    """
    of = np.asarray(lengths, dtype=np.int64)
    drawn = np.random.default_rng(seed)
    order: list[npt.NDArray[np.int64]] = []
    missing = total
    while missing > 0:
        epoch = _epoch(of, batch, drawn)[:missing]
        order.append(epoch)
        missing -= len(epoch)
    return np.concatenate(order) if order else np.empty(0, dtype=np.int64)


def whole_rounds(total: int, *, batch: int, processes: int) -> int:
    """How many of `total` examples fill whole rounds, in which each process takes a batch.

    Accelerate fills the last round with the first examples, which would be seen twice. One process
    ends with a smaller batch, and too few examples for a round are filled up after all.
    """
    return (total - total % (batch * processes) or total) if processes > 1 else total


def _epoch(
    lengths: npt.NDArray[np.int64], batch: int, drawn: np.random.Generator
) -> npt.NDArray[np.int64]:
    shuffled = drawn.permutation(len(lengths))
    together = SORTED_TOGETHER * batch
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), together):
        part = shuffled[start : start + together]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[at : at + batch] for at in range(0, len(part), batch)]
    # A batch that is not full comes last, where it shifts none of the others.
    full = [one for one in batches if len(one) == batch]
    rest = [one for one in batches if len(one) < batch]
    return np.concatenate([full[at] for at in drawn.permutation(len(full))] + rest)
