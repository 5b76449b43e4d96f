"""From a row of a table back to what it was scored from: the inverse of `consumers.append`."""

from collections.abc import Mapping, Sequence
from typing import Any

from consumers.append import ANSWERED
from streams.records import (
    Alignment,
    Answer,
    Candidate,
    Contexts,
    Ideal,
    Passage,
    Preference,
    Retrieval,
    Role,
    Source,
)


def contexts(table: str, row: Mapping[str, Any]) -> Contexts:
    """The contexts that a row of a table keeps.

    A row of `preferences` has those of its two questions, the chosen one's first.
    """
    role: Role
    sides: Sequence[Mapping[str, Any]]
    answered = withheld = None
    if table == "preferences":
        role, sides = "preference", [_side(row, side) for side in ("chosen", "rejected")]
    elif table == "ideal":
        role, sides, answered = "ideal", [row], row
    else:
        role, sides, answered = row["role"], row["candidates"], row["answered"]
        withheld = None if sides else row["reason"]
    return Contexts(
        id=row["id"],
        role=role,
        source=_source(row, withheld),
        retrievals=tuple(_retrieval(side, row["mode"]) for side in sides),
        answer=_answer(answered),
    )


def given_up(row: Mapping[str, Any], reason: str) -> Preference | Ideal:
    """What a row of `parked` becomes that has waited too long: unscorable, for this reason."""
    kept = contexts("parked", row)
    alignments = tuple(
        Alignment(retrieval=retrieval, unscored=candidate["unscored"])
        for retrieval, candidate in zip(kept.retrievals, row["candidates"], strict=True)
    )
    if kept.role == "ideal":
        return Ideal(
            id=kept.id,
            source=kept.source,
            edition=row["mesh_edition"],
            frequency=row["frequency"],
            floor=row["floor"],
            outcome="unscorable",
            reason=reason,
            alignments=alignments,
            answer=kept.answer,
        )
    return Preference(
        id=kept.id,
        source=kept.source,
        edition=row["mesh_edition"],
        frequency=row["frequency"],
        margin=row["margin"],
        outcome="unscorable",
        reason=reason,
        alignments=alignments,
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
        prompt_tokens=side["prompt_tokens"],
        completion_tokens=side["completion_tokens"],
        question=side["question"],
        rejected=side.get("rejected"),
    )
    return Retrieval(candidate=candidate, mode=mode, passages=_passages(side["context"]))


def _passages(context: Sequence[Mapping[str, Any]]) -> tuple[Passage, ...]:
    return tuple(Passage(**{**passage, "mesh": tuple(passage["mesh"])}) for passage in context)


def _answer(answered: Mapping[str, Any] | None) -> Answer | None:
    """The answer in these columns; None where no model was asked."""
    if answered is None or answered["answerer"] is None:
        return None
    return Answer(**{name: answered[column] for column, name in ANSWERED.items()})
