import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.fusion import Fused, reciprocal_rank_fusion

rankings = st.lists(st.integers(1, 60), max_size=40, unique=True)
constants = st.integers(0, 200)


def test_scores_are_the_papers() -> None:
    assert reciprocal_rank_fusion([7, 8], [9, 7]) == [
        Fused(7, 1, 2, pytest.approx(1 / 61 + 1 / 62)),
        Fused(9, None, 1, pytest.approx(1 / 61)),
        Fused(8, 2, None, pytest.approx(1 / 62)),
    ]


def test_a_record_in_both_beats_one_at_the_top_of_one() -> None:
    assert reciprocal_rank_fusion([1, 2, 3], [4, 5, 3])[0].pmid == 3


def test_equal_scores_go_by_better_rank_then_pmid() -> None:
    assert [fused.pmid for fused in reciprocal_rank_fusion([5], [3])] == [3, 5]
    # With k = 0 two second places are worth one first place.
    tied = reciprocal_rank_fusion([9, 5], [8, 5], k=0)
    assert [(fused.pmid, fused.score) for fused in tied] == [(8, 1.0), (9, 1.0), (5, 1.0)]


def test_nothing_fuses_to_nothing() -> None:
    assert reciprocal_rank_fusion([], []) == []


@given(rankings, rankings, constants)
def test_every_record_is_there_once_with_its_ranks(
    bm25: list[int], dense: list[int], k: int
) -> None:
    fused = reciprocal_rank_fusion(bm25, dense, k=k)

    assert sorted(f.pmid for f in fused) == sorted({*bm25, *dense})
    for f in fused:
        assert f.bm25_rank == (bm25.index(f.pmid) + 1 if f.pmid in bm25 else None)
        assert f.dense_rank == (dense.index(f.pmid) + 1 if f.pmid in dense else None)
        held = [rank for rank in (f.bm25_rank, f.dense_rank) if rank is not None]
        assert f.score == pytest.approx(sum(1 / (k + rank) for rank in held))
    assert all(a.score >= b.score for a, b in itertools.pairwise(fused))


@given(rankings, rankings)
def test_neither_ranking_is_favoured(bm25: list[int], dense: list[int]) -> None:
    one, other = reciprocal_rank_fusion(bm25, dense), reciprocal_rank_fusion(dense, bm25)

    assert [(f.pmid, f.score) for f in one] == [(f.pmid, f.score) for f in other]


@given(rankings)
def test_one_ranking_alone_keeps_its_order(ranking: list[int]) -> None:
    assert [f.pmid for f in reciprocal_rank_fusion(ranking, [])] == ranking
    assert [f.pmid for f in reciprocal_rank_fusion(ranking, ranking)] == ranking


@given(rankings, st.randoms(use_true_random=False))
def test_a_better_rank_never_lowers_a_record(ranking: list[int], chance: random.Random) -> None:
    if len(ranking) < 2:
        return
    place = chance.randrange(1, len(ranking))
    raised = [*ranking]
    raised[place - 1], raised[place] = raised[place], raised[place - 1]
    pmid = ranking[place]
    other = sorted(ranking)

    before = [f.pmid for f in reciprocal_rank_fusion(ranking, other)].index(pmid)
    after = [f.pmid for f in reciprocal_rank_fusion(raised, other)].index(pmid)

    assert after <= before


def test_a_repeated_record_counts_at_its_first_place() -> None:
    assert reciprocal_rank_fusion([4, 5, 4, 6], []) == reciprocal_rank_fusion([4, 5, 6], [])
