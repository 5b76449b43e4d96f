"""Offsets are acked in order, whatever order work finishes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.acks import Acks


def test_what_finishes_in_order_is_acked_at_once():
    acks = Acks()
    for offset in (5, 6):
        acks.take(0, offset)
    acks.finish(0, 5)
    assert acks.ready() == {0: 6}
    acks.finish(0, 6)
    assert acks.ready() == {0: 7}


def test_what_finishes_early_waits_for_those_before_it():
    acks = Acks()
    for offset in (5, 6, 7):
        acks.take(0, offset)
    acks.finish(0, 6)
    acks.finish(0, 7)
    assert (acks.ready(), acks.held, acks.next(0)) == ({}, 3, 5)
    assert acks.foremost() == (0, 5)
    acks.finish(0, 5)
    assert (acks.ready(), acks.held, acks.next(0)) == ({0: 8}, 0, 8)
    assert acks.foremost() is None


def test_partitions_do_not_wait_for_each_other():
    acks = Acks()
    acks.take(0, 1)
    acks.take(1, 1)
    acks.finish(1, 1)
    assert acks.ready() == {1: 2}


def test_a_committed_offset_is_not_ready_again():
    acks = Acks()
    acks.take(0, 0)
    acks.finish(0, 0)
    acks.committed({0: 1})
    assert acks.ready() == {}


def test_an_offset_that_does_not_rise_is_an_error():
    acks = Acks()
    acks.take(0, 4)
    acks.finish(0, 4)
    with pytest.raises(ValueError, match="partition 0: offset 4 comes after 4"):
        acks.take(0, 4)


@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    shuffle=st.randoms(use_true_random=False),
    finished=st.integers(0, 30),
)
def test_exactly_the_unbroken_beginning_is_acked(gaps, shuffle, finished):
    """With gaps, as compaction leaves them, and any part of the work done in any order."""
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    acks = Acks()
    for offset in offsets:
        acks.take(0, offset)
    done = shuffle.sample(offsets, min(finished, len(offsets)))
    for offset in done:
        acks.finish(0, offset)
    unfinished = [offset for offset in offsets if offset not in done]
    acked = [offset for offset in offsets if not unfinished or offset < unfinished[0]]
    assert acks.ready() == ({0: acked[-1] + 1} if acked else {})
    assert acks.held == len(offsets) - len(acked)
    if unfinished:
        assert acks.next(0) == unfinished[0]
