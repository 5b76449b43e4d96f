"""Held-out records stay held out."""

import hashlib
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from trainers.split import held_out

PMIDS = st.integers(1, 10**10 - 1)
SHARES = st.floats(0, 1)
GOLDEN = [4, 6, 15, 17, 29, 38, 45, 48, 54, 56, 58, 74, 76, 78]


@given(PMIDS, SHARES)
def test_the_split_is_the_one_documented(pmid: int, share: float) -> None:
    digest = hashlib.blake2b(b"held out\0" + str(pmid).encode(), digest_size=8).hexdigest()
    assert held_out(pmid, share) == (Fraction(int(digest, 16), 2**64) < Fraction(share))


def test_the_same_records_are_held_out_in_every_release() -> None:
    assert [pmid for pmid in range(1, 101) if held_out(pmid, 0.1)] == GOLDEN


@given(PMIDS, SHARES, SHARES)
def test_a_larger_share_only_adds(pmid: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert held_out(pmid, large) or not held_out(pmid, small)


@given(PMIDS)
def test_none_of_nothing_and_all_of_everything(pmid: int) -> None:
    assert not held_out(pmid, 0)
    assert held_out(pmid, 1)


def test_the_share_is_kept_to() -> None:
    counts = [sum(held_out(pmid, share) for pmid in range(50_000)) for share in (0.01, 0.1, 0.5)]
    assert [round(count / 50_000, 2) for count in counts] == [0.01, 0.1, 0.5]
