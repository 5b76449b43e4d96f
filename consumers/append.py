"""From a `Preference` record to a row: `preferences` for a comparison that has a winner, `dropped`
for a tie or a record that cannot be scored, `parked` for one that cannot be scored yet.
"""

import re
from datetime import UTC
from typing import Any

from streams.errors import Invalid
from streams.records import (
    Alignment,
    Candidate,
    Passage,
    Preference,
    Retrieval,
)

Row = dict[str, Any]

ID = re.compile(r"[0-9a-f]{32}")

# Such a record can be scored once NLM has indexed it, or once a newer edition of MeSH is in use.
WAITING = ("record without MeSH", "unknown descriptors")


def row(preference: Preference) -> tuple[str, Row]:
    """The table that a record belongs to and its row, without the time of appending.

    Raises `Invalid` ("field") for what the tables cannot hold: another form of id, a time without
    a zone, a preference without two scored questions.
    """
    if not ID.fullmatch(preference.id):
        raise Invalid("field", f"id: expected 32 hex digits, got {preference.id[:80]!r}")
    if preference.outcome == "preference":
        return "preferences", _preference(preference)
    return "parked" if preference.reason in WAITING else "dropped", _undecided(preference)


def _preference(preference: Preference) -> Row:
    if len(preference.alignments) != 2:
        raise Invalid("field", f"alignments: expected 2, got {len(preference.alignments)}")
    chosen, rejected = preference.alignments
    return {
        **_about(preference),
        **_side("chosen", chosen),
        **_side("rejected", rejected),
        "mode": chosen.retrieval.mode,
    }


def _undecided(preference: Preference) -> Row:
    modes = {alignment.retrieval.mode for alignment in preference.alignments}
    if len(modes) > 1:
        raise Invalid("field", f"alignments: expected one mode, got {', '.join(sorted(modes))}")
    return {
        **_about(preference),
        "outcome": preference.outcome,
        "reason": preference.reason,
        "candidates": [
            {
                **_generated(alignment.retrieval.candidate),
                "question": alignment.retrieval.candidate.question,
                "rejected": alignment.retrieval.candidate.rejected,
                "score": alignment.score,
                "unscored": alignment.unscored,
                "context": _context(alignment.retrieval),
            }
            for alignment in preference.alignments
        ],
        "mode": next(iter(modes), None),
    }


def _about(preference: Preference) -> Row:
    """The columns that all tables have."""
    source = preference.source
    if source.arrived.utcoffset() is None:
        raise Invalid("field", "source.arrived: expected a time with a zone")
    try:
        arrived = source.arrived.astimezone(UTC)
    except OverflowError:
        raise Invalid("field", "source.arrived: past the end of the calendar") from None
    return {
        "id": preference.id,
        "pmid": source.pmid,
        "version": source.version,
        "text_hash": source.text_hash,
        "title": source.title,
        "abstract": source.abstract,
        "mesh": list(source.mesh),
        "indexing": source.indexing,
        "margin": preference.margin,
        "mesh_edition": preference.edition,
        "frequency": preference.frequency,
        "arrived": arrived,
        "month": f"{arrived:%Y-%m}",
    }


def _side(side: str, alignment: Alignment) -> Row:
    candidate = alignment.retrieval.candidate
    if candidate.question is None or alignment.score is None:
        raise Invalid("field", f"alignments: the {side} one lacks a question or a score")
    columns = {
        "question": candidate.question,
        "score": alignment.score,
        **_generated(candidate),
        "context": _context(alignment.retrieval),
    }
    return {f"{name}_{side}": value for name, value in columns.items()}


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
    }


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
