"""From a `Preference` or `Ideal` record to a row: `preferences` for a comparison that has a winner,
`ideal` for a question that passed the gate, `dropped` for what is neither and for a record that
cannot be scored, `parked` for one that cannot be scored yet.
"""

import re
from datetime import UTC
from typing import Any

from streams.errors import Invalid
from streams.records import (
    Alignment,
    Answer,
    Candidate,
    Ideal,
    Passage,
    Preference,
    Retrieval,
)

Row = dict[str, Any]

ID = re.compile(r"[0-9a-f]{32}")

# Such a record can be scored once NLM has indexed it, or once a newer edition of MeSH is in use.
WAITING = ("record without MeSH", "unknown descriptors")

# The columns of an answer, and what its record calls them.
ANSWERED = {
    "answer": "decision",
    "answer_long": "long",
    "answer_rejected": "rejected",
    "answerer": "answerer",
    **{
        f"answer_{name}": name
        for name in (
            "model",
            "revision",
            "prompt",
            "temperature",
            "top_p",
            "max_tokens",
            "seed",
            "attempts",
            "prompt_tokens",
            "completion_tokens",
        )
    },
}


def row(record: Preference | Ideal) -> tuple[str, Row]:
    """The table that a record belongs to and its row, without the time of appending.

    Raises `Invalid` ("field") for what the tables cannot hold: another form of id, a time without
    a zone, a preference without two scored questions, an ideal record without one.
    """
    if not ID.fullmatch(record.id):
        raise Invalid("field", f"id: expected 32 hex digits, got {record.id[:80]!r}")
    if record.outcome in ("preference", "ideal"):
        if isinstance(record, Ideal):
            return "ideal", _ideal(record)
        return "preferences", _preference(record)
    return "parked" if record.reason in WAITING else "dropped", _undecided(record)


def _preference(preference: Preference) -> Row:
    if len(preference.alignments) != 2:
        raise Invalid("field", f"alignments: expected 2, got {len(preference.alignments)}")
    chosen, rejected = preference.alignments
    sides = {"chosen": _scored(chosen, "chosen one"), "rejected": _scored(rejected, "rejected one")}
    return {
        **_about(preference),
        **{f"{name}_{side}": value for side, of in sides.items() for name, value in of.items()},
        "margin": preference.margin,
        "mode": chosen.retrieval.mode,
    }


def _ideal(ideal: Ideal) -> Row:
    if len(ideal.alignments) != 1:
        raise Invalid("field", f"alignments: expected 1, got {len(ideal.alignments)}")
    (alignment,) = ideal.alignments
    return {
        **_about(ideal),
        **_scored(alignment, "only one"),
        **(_answered(ideal.answer) if ideal.answer else dict.fromkeys(ANSWERED)),
        "floor": ideal.floor,
        "mode": alignment.retrieval.mode,
    }


def _undecided(record: Preference | Ideal) -> Row:
    modes = {alignment.retrieval.mode for alignment in record.alignments}
    if len(modes) > 1:
        raise Invalid("field", f"alignments: expected one mode, got {', '.join(sorted(modes))}")
    return {
        **_about(record),
        "outcome": record.outcome,
        "reason": record.reason,
        "candidates": [
            {
                **_generated(alignment.retrieval.candidate),
                "question": alignment.retrieval.candidate.question,
                "rejected": alignment.retrieval.candidate.rejected,
                "score": alignment.score,
                "unscored": alignment.unscored,
                "context": _context(alignment.retrieval),
            }
            for alignment in record.alignments
        ],
        **_meant(record),
        "mode": next(iter(modes), None),
    }


def _meant(record: Preference | Ideal) -> Row:
    """What depends on the role; both have all of the columns."""
    if isinstance(record, Preference):
        return {"role": "preference", "margin": record.margin, "floor": None, "answered": None}
    answered = _answered(record.answer) if record.answer else None
    return {"role": "ideal", "margin": None, "floor": record.floor, "answered": answered}


def _about(record: Preference | Ideal) -> Row:
    """The columns that all tables have."""
    source = record.source
    if source.arrived.utcoffset() is None:
        raise Invalid("field", "source.arrived: expected a time with a zone")
    try:
        arrived = source.arrived.astimezone(UTC)
    except OverflowError:
        raise Invalid("field", "source.arrived: past the end of the calendar") from None
    return {
        "id": record.id,
        "pmid": source.pmid,
        "version": source.version,
        "text_hash": source.text_hash,
        "title": source.title,
        "abstract": source.abstract,
        "mesh": list(source.mesh),
        "indexing": source.indexing,
        "mesh_edition": record.edition,
        "frequency": record.frequency,
        "arrived": arrived,
        "month": f"{arrived:%Y-%m}",
    }


def _scored(alignment: Alignment, which: str) -> Row:
    candidate = alignment.retrieval.candidate
    if candidate.question is None or alignment.score is None:
        raise Invalid("field", f"alignments: the {which} lacks a question or a score")
    return {
        "question": candidate.question,
        "score": alignment.score,
        **_generated(candidate),
        "context": _context(alignment.retrieval),
    }


def _generated(candidate: Candidate) -> Row:
    return {
        "generator": candidate.generator,
        "model": candidate.model,
        "revision": candidate.revision,
        "prompt": candidate.prompt,
        "temperature": candidate.temperature,
        "top_p": candidate.top_p,
        "max_tokens": candidate.max_tokens,
        "seed": candidate.seed,
        "attempts": candidate.attempts,
        "prompt_tokens": candidate.prompt_tokens,
        "completion_tokens": candidate.completion_tokens,
    }


def _answered(answer: Answer) -> Row:
    return {column: getattr(answer, name) for column, name in ANSWERED.items()}


def _context(retrieval: Retrieval) -> list[Row]:
    return [_passage(passage) for passage in retrieval.passages]


def _passage(passage: Passage) -> Row:
    return {
        "pmid": passage.pmid,
        "title": passage.title,
        "abstract": passage.abstract,
        "mesh": list(passage.mesh),
        "bm25_rank": passage.bm25_rank,
        "dense_rank": passage.dense_rank,
        "score": passage.score,
    }
