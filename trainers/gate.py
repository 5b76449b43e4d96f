"""The gate: whether a candidate takes the champion's place, from what both made of the same items.

It only decides; the comparison is run elsewhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from streams.learning import Compared
from trainers.statistics import bootstrap_interval, mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a candidate must show.

    `bound`: a generator's win rate must lie above it, and so must the lower end of its interval at
    this `confidence` (bootstrap of so many `resamples`). `rejection_tolerance`: by how much its
    share of records without a score may exceed the champion's. `least_records`: how many there must
    be to compare.
    """

    bound: float
    confidence: float
    resamples: int
    rejection_tolerance: float
    least_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether the candidate passed; the reason names every condition that failed."""

    passed: bool
    reason: str
    figures: dict[str, float]


def win(compared: Compared) -> float:
    """1 where the candidate's score is the greater one, 0 where the champion's is, 1/2 for a tie.

    A question that was rejected, or whose context has nothing to score, loses against one that has
    a score; two such are a tie, which counts for neither and keeps the number of records the same
    whatever the models do.
    """
    champion = -1.0 if compared.champion is None else compared.champion
    candidate = -1.0 if compared.candidate is None else compared.candidate
    return 0.5 if candidate == champion else float(candidate > champion)


def judge_generator(compared: Sequence[Compared], policy: Policy, *, job: str) -> Decision:
    """The decision about a question generator, from alignments; `job` seeds the bootstrap.

    The share rejected is that of records without a score: a question that finds nothing to score
    is of no more use than one that was rejected.
    """
    wins = [win(one) for one in compared]
    scored = sum(one.champion is not None or one.candidate is not None for one in compared)
    if not wins:
        return _too_few(0, policy)
    lower, upper = bootstrap_interval(
        wins, confidence=policy.confidence, resamples=policy.resamples, seed=_seed(job)
    )
    rate = sum(wins) / len(wins)
    champion = _share([one.champion is None for one in compared])
    candidate = _share([one.candidate is None for one in compared])
    figures = {
        "records": float(len(wins)),
        "scored": float(scored),
        "wins": float(wins.count(1.0)),
        "ties": float(wins.count(0.5)),
        "losses": float(wins.count(0.0)),
        "win_rate": rate,
        "win_rate_lower": lower,
        "win_rate_upper": upper,
        "champion_rejected": champion,
        "candidate_rejected": candidate,
        **_means(compared),
    }
    faults = []
    if scored < policy.least_records:
        faults.append(f"{scored} records with a score, expected {policy.least_records} or more")
    shown = f"win rate {rate:.3f} ({policy.confidence:.0%} interval {lower:.3f} to {upper:.3f})"
    if not lower > policy.bound:
        faults.append(f"{shown} is not above {policy.bound:g}")
    # A share of n records is a multiple of 1/n, so that rounding alone makes no difference.
    if candidate > champion + policy.rejection_tolerance + 1e-9:
        faults.append(
            f"{candidate:.1%} rejected against the champion's {champion:.1%}, expected "
            f"{policy.rejection_tolerance:.1%} more at most"
        )
    reason = f"{shown} over {len(wins)} records, {candidate:.1%} rejected against {champion:.1%}"
    return Decision(passed=not faults, reason="; ".join(faults) or reason, figures=figures)


def judge_answers(compared: Sequence[Compared], policy: Policy) -> Decision:
    """The decision about an answer model, from 1.0 for a right answer and 0.0 for a wrong one.

    It passes when it is right more often, and McNemar's test says so at the policy's confidence.
    """
    if not compared:
        return _too_few(0, policy)
    champion = [one.champion == 1.0 for one in compared]
    candidate = [one.candidate == 1.0 for one in compared]
    before, after, p = _share(champion), _share(candidate), mcnemar(champion, candidate)
    figures = {
        "records": float(len(compared)),
        "champion_accuracy": before,
        "candidate_accuracy": after,
        "only_candidate_right": float(
            sum(new and not old for old, new in zip(champion, candidate, strict=True))
        ),
        "only_champion_right": float(
            sum(old and not new for old, new in zip(champion, candidate, strict=True))
        ),
        "p": p,
    }
    shown = f"accuracy {after:.1%} against the champion's {before:.1%} (McNemar p = {p:.3g})"
    faults = []
    if len(compared) < policy.least_records:
        faults.append(f"{len(compared)} questions, expected {policy.least_records} or more")
    if not after > before:
        faults.append(f"{shown} is not above it")
    elif not p < 1 - policy.confidence:
        faults.append(f"{shown}: expected p below {1 - policy.confidence:.3g}")
    return Decision(
        passed=not faults,
        reason="; ".join(faults) or f"{shown} on {len(compared)} questions",
        figures=figures,
    )


def _too_few(records: int, policy: Policy) -> Decision:
    return Decision(
        passed=False,
        reason=f"{records} records to compare on, expected {policy.least_records} or more",
        figures={"records": float(records)},
    )


def _means(compared: Sequence[Compared]) -> dict[str, float]:
    """Mean scores over the records that both have one for; nothing where there are none."""
    both = [
        (one.champion, one.candidate)
        for one in compared
        if one.champion is not None and one.candidate is not None
    ]
    if not both:
        return {}
    return {
        "champion_score": sum(champion for champion, _ in both) / len(both),
        "candidate_score": sum(candidate for _, candidate in both) / len(both),
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _seed(job: str) -> int:
    return int.from_bytes(hashlib.blake2b(job.encode(), digest_size=4).digest(), "big")
