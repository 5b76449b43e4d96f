"""From a row of a table back to what it was scored from: the inverse of `consumers.append`."""

from collections.abc import Mapping, Sequence
from typing import Any

from streams.records import (
    Alignment,
    Candidate,
    Contexts,
    Passage,
    Preference,
    Retrieval,
    Source,
)


def contexts(table: str, row: Mapping[str, Any]) -> Contexts:
    """The contexts that a row of `preferences`, `dropped` or `parked` keeps.

    A row of `preferences` has those of its two questions, the chosen one's first. Token counts are
    not kept and come back as 0.
    """
    withheld = None
    if table == "preferences":
        sides = [_side(row, side) for side in ("chosen", "rejected")]
    else:
        sides = list(row["candidates"])
        withheld = None if sides else row["reason"]
    return Contexts(
        id=row["id"],
        role="preference",
        source=_source(row, withheld),
        retrievals=tuple(_retrieval(side, row["mode"]) for side in sides),
    )


def given_up(row: Mapping[str, Any], reason: str) -> Preference:
    """What a row of `parked` becomes that has waited too long: unscorable, for this reason."""
    kept = contexts("parked", row)
    return Preference(
        id=kept.id,
        source=kept.source,
        edition=row["mesh_edition"],
        frequency=row["frequency"],
        margin=row["margin"],
        outcome="unscorable",
        reason=reason,
        alignments=tuple(
            Alignment(retrieval=retrieval, unscored=candidate["unscored"])
            for retrieval, candidate in zip(kept.retrievals, row["candidates"], strict=True)
        ),
    )


def _source(row: Mapping[str, Any], withheld: str | None) -> Source:
    return Source(
        pmid=row["pmid"],
        version=row["version"],
        text_hash=row["text_hash"],
        title=row["title"],
        abstract=row["abstract"],
        mesh=tuple(row["mesh"]),
        indexing=row["indexing"],
        arrived=row["arrived"],
        withheld=withheld,
    )


def _side(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    """The columns of one side of a preference, named as those of a candidate are."""
    ending = f"_{side}"
    return {
        name.removesuffix(ending): value for name, value in row.items() if name.endswith(ending)
    }


def _retrieval(side: Mapping[str, Any], mode: Any) -> Retrieval:
    candidate = Candidate(
        generator=side["generator"],
        model=side["model"],
        revision=side["revision"],
        prompt=side["prompt"],
        temperature=side["temperature"],
        top_p=side["top_p"],
        max_tokens=side["max_tokens"],
        seed=side["seed"],
        attempts=side["attempts"],
        prompt_tokens=0,
        completion_tokens=0,
        question=side["question"],
        rejected=side.get("rejected"),
    )
    return Retrieval(candidate=candidate, mode=mode, passages=_passages(side["context"]))


def _passages(context: Sequence[Mapping[str, Any]]) -> tuple[Passage, ...]:
    return tuple(Passage(**{**passage, "mesh": tuple(passage["mesh"])}) for passage in context)
