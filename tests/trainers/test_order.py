from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.order import by_length, whole_rounds

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once_in_each_epoch(
    lengths: list[int], batch: int, epochs: int, seed: int
) -> None:
    order = by_length(lengths, total=epochs * len(lengths), batch=batch, seed=seed)
    for epoch in np.split(order, epochs):
        assert Counter(epoch.tolist()) == Counter(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9), st.integers(1, 1000), st.integers(0, 5))
def test_a_longer_order_begins_with_the_shorter_one(
    lengths: list[int], batch: int, total: int, seed: int
) -> None:
    order = by_length(lengths, total=total, batch=batch, seed=seed)
    assert len(order) == total
    longer = by_length(lengths, total=total + 7, batch=batch, seed=seed)
    assert (longer[:total] == order).all()


@given(st.integers(1, 300), st.integers(1, 9), st.integers(2, 4))
def test_processes_see_no_example_twice(total: int, batch: int, processes: int) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    taken = whole_rounds(total, batch=batch, processes=processes)
    batches = BatchSampler(range(taken), batch_size=batch, drop_last=False)
    shards = [BatchSamplerShard(batches, processes, number) for number in range(processes)]
    seen = Counter(example for shard in shards for one in shard for example in one)
    assert seen.keys() == set(range(taken))
    assert total - batch * processes < taken <= total
    if total >= batch * processes:
        assert set(seen.values()) == {1}
    assert whole_rounds(total, batch=batch, processes=1) == total


def test_batches_are_of_like_lengths_and_differ_between_epochs() -> None:
    lengths = np.random.default_rng(0).integers(50, 1000, 800)
    order = by_length(lengths.tolist(), total=1600, batch=4, seed=1)
    first, second = (epoch.reshape(-1, 4) for epoch in np.split(order, 2))
    padded = lengths[first].max(axis=1).sum() * 4
    assert padded < 1.03 * lengths.sum()
    assert {tuple(sorted(one)) for one in first} != {tuple(sorted(one)) for one in second}
    # Short and long batches take turns: training would else drift with the lengths.
    means = lengths[first].mean(axis=1)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2
