"""Reciprocal rank fusion of the lexical and the dense ranking.

Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods", SIGIR 2009: score(d) = Σ 1 / (k + rank of d), over the rankings that hold d.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fused:
    """Ranks count from 1; None means that this ranking does not hold the record."""

    pmid: int
    bm25_rank: int | None
    dense_rank: int | None
    score: float


def reciprocal_rank_fusion(
    bm25: Sequence[int], dense: Sequence[int], *, k: int = 60
) -> list[Fused]:
    """The PMIDs of two rankings (best first) as one, best first.

    Records of equal score are ordered by their better rank, then by PMID, so that the same
    rankings give the same order everywhere. A PMID that a ranking repeats counts once, at its
    first place; either ranking may be empty.
    """
    lexical, semantic = _ranks(bm25), _ranks(dense)
    fused = [
        _fused(pmid, lexical.get(pmid), semantic.get(pmid), k)
        for pmid in lexical.keys() | semantic.keys()
    ]
    return sorted(fused, key=lambda f: (-f.score, min(_held(f.bm25_rank, f.dense_rank)), f.pmid))


def _ranks(ranking: Sequence[int]) -> dict[int, int]:
    return {pmid: rank for rank, pmid in enumerate(dict.fromkeys(ranking), start=1)}


def _fused(pmid: int, bm25_rank: int | None, dense_rank: int | None, k: int) -> Fused:
    score = sum(1 / (k + rank) for rank in _held(bm25_rank, dense_rank))
    return Fused(pmid, bm25_rank, dense_rank, score)


def _held(*ranks: int | None) -> list[int]:
    return [rank for rank in ranks if rank is not None]
