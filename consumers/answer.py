"""answer: `alignments` → `ideal`, what θ3 asked, its context, and a static model's answer to it.

KAILIN, Algorithm 1, lines 8 to 12: the alignment is the gate that a question passes, and one of the
static models θS answers what has passed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from consumers.ports import Completion, Generate
from consumers.sampling import sample
from streams.answers import Reading, read_answer
from streams.preference import telling
from streams.prompts import answer_prompt, context_text
from streams.records import (
    Alignment,
    Alignments,
    Answer,
    Ideal,
    IdealOutcome,
    Retrieval,
)

# Of an id's hash, so that shares follow from it.
_RANGE = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """One static model θS behind `ask`, how it is prompted and sampled.

    It answers `share` of the questions, in proportion to the others' shares. `attempts` bounds how
    often an answer that cannot be read is asked for again, each time with another seed.
    """

    name: str
    model: str
    revision: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    attempts: int
    share: float
    ask: Generate


async def answer(
    alignments: Alignments, *, floor: float, answerers: Sequence[Answerer]
) -> Ideal | None:
    """What becomes of a record that θ3 asked about; None for one that was compared.

    A question whose alignment is below `floor` is not answered, none is without answerers, and one
    that was answered before keeps that. Raises what the port raises; then the record as a whole is
    tried again, with the same seeds.
    """
    if alignments.role != "ideal":
        return None
    gated = gate(alignments, floor)
    if gated.outcome != "ideal" or gated.answer or not answerers:
        return gated
    passed = next(a.retrieval for a in gated.alignments if a.score is not None)
    answered = await _answer(chosen(answerers, gated.id), gated.id, passed)
    return replace(gated, answer=answered)


def gate(alignments: Alignments, floor: float) -> Ideal:
    """What a record that θ3 asked about is by its alignment, with the answer that it had before."""
    scored = next((a for a in alignments.alignments if a.score is not None), None)
    outcome, reason = _gate(alignments, scored, floor)
    return Ideal(
        id=alignments.id,
        source=alignments.source,
        edition=alignments.edition,
        frequency=alignments.frequency,
        floor=floor,
        outcome=outcome,
        reason=reason,
        alignments=alignments.alignments,
        answer=alignments.answer,
    )


def chosen(answerers: Sequence[Answerer], id: str) -> Answerer:
    """Who answers the question of a record: by a hash of its id, in proportion to the shares."""
    digest = hashlib.blake2b(f"answerer\x00{id}".encode(), digest_size=8).digest()
    left = int.from_bytes(digest, "big") / _RANGE * sum(answerer.share for answerer in answerers)
    for answerer in answerers:
        left -= answerer.share
        if left < 0:
            return answerer
    # Where the sum was rounded up.
    return answerers[-1]


def _gate(
    alignments: Alignments, scored: Alignment | None, floor: float
) -> tuple[IdealOutcome, str | None]:
    if scored is None or scored.score is None:
        return "unscorable", alignments.source.withheld or telling(alignments.alignments)
    if scored.score < floor:
        return "below the gate", "low alignment"
    return "ideal", None


async def _answer(answerer: Answerer, id: str, retrieval: Retrieval) -> Answer:
    prompt = answer_prompt(
        answerer.prompt,
        question=retrieval.candidate.question or "",
        context=context_text(retrieval.passages),
    )

    def read(completion: Completion) -> tuple[Reading, str | None]:
        reading = read_answer(completion.text, prompt=answerer.prompt, finished=completion.finished)
        return reading, reading.rejected

    reading, _, sampled = await sample(answerer, id, prompt, read)
    return Answer(
        answerer=answerer.name,
        **sampled,
        decision=reading.decision,
        long=reading.long,
        rejected=reading.rejected,
    )
