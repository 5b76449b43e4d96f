"""Which of a record's questions is preferred (KAILIN, section 2: preference dataset)."""

from collections.abc import Sequence
from dataclasses import dataclass

from streams.records import Alignment, Outcome

# Why a candidate has no score, what explains most first: a record without MeSH could not have been
# compared whatever the candidates were, and a rejected candidate has nothing retrieved either.
TELLING = (
    "record without MeSH",
    "unknown descriptors",
    "candidate rejected",
    "nothing retrieved",
    "context without MeSH",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """As in `Preference`: `alignments` are q+ and q− of a preference, otherwise all there were."""

    outcome: Outcome
    reason: str | None
    alignments: tuple[Alignment, ...]


def choose(alignments: Sequence[Alignment], margin: float) -> Choice:
    """The best scored candidate over the worst, a tie, or unscorable with fewer than two scores.

    A tie is between two that ask the "same question", whose scores are "equal", or whose scores
    differ, but by less than `margin`. The first of equals is taken.
    """
    held = tuple(alignments)
    scored = [(a.score, a) for a in held if a.score is not None]
    if len(scored) < 2:
        return Choice("unscorable", _reason(held), held)
    best, chosen = max(scored, key=lambda pair: pair[0])
    worst, rejected = min(scored, key=lambda pair: pair[0])
    compared = [a for _, a in scored] if best == worst else [chosen, rejected]
    if len({_question(a) for a in compared}) == 1:
        return Choice("tie", "same question", held)
    if best == worst:
        return Choice("tie", "equal", held)
    if best - worst < margin:
        return Choice("tie", "within margin", held)
    return Choice("preference", None, (chosen, rejected))


def telling(alignments: Sequence[Alignment]) -> str:
    """Of the reasons why these alignments have no score, the one that explains most."""
    reasons = {alignment.unscored for alignment in alignments}
    return next((reason for reason in TELLING if reason in reasons), "unscored")


def _question(alignment: Alignment) -> str:
    """The question's text, with neither case nor spacing."""
    return " ".join((alignment.retrieval.candidate.question or "").split()).casefold()


def _reason(alignments: Sequence[Alignment]) -> str:
    return "single candidate" if len(alignments) < 2 else telling(alignments)
