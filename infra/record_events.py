"""What a message or a row says happened to its record."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from aiokafka import ConsumerRecord

from consumers.dead_letters import replayed
from consumers.generate import not_asked
from consumers.stored import contexts
from infra.tables import DROPPED, PARKED
from streams.citation import Article
from streams.codec import decode
from streams.errors import Invalid
from streams.log_lines import cut
from streams.operations import Settled
from streams.records import (
    Alignment,
    Alignments,
    Answer,
    Candidate,
    Contexts,
    DeadLetter,
    Ideal,
    Passage,
    Preference,
    Questions,
    Record,
    Retraction,
    Retrieval,
)
from streams.topics import Topic

# Of a text that is told: characters.
LONGEST = 300

Detail: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a record: when (UTC), what did it, and what came of it.

    `where` is the message or the table that says so. `details` has one entry a generator, or one
    of the whole; texts in it are cut.
    """

    at: datetime
    stage: str
    outcome: str
    where: str
    details: tuple[Detail, ...] = ()


def of_message(topic: Topic, message: ConsumerRecord) -> Event:
    """What a message of a record says."""
    where = f"{message.topic} [{message.partition}] offset {message.offset}"
    at = datetime.fromtimestamp(message.timestamp / 1000, UTC)
    if message.value is None:
        return Event(at=at, stage="ingest", outcome="deleted", where=where)
    try:
        stage, outcome, details = _told(decode(topic.record, message.value))
    except Invalid as error:
        return Event(at=at, stage="", outcome=f"not readable: {error}", where=where)
    replay = replayed(message.headers)
    if replay:
        first = replay.first
        outcome += f"; put back after {first.stage} set it aside ({first.reason})"
    return Event(at=at, stage=stage, outcome=outcome, where=where, details=tuple(details))


def _told(record: Record) -> tuple[str, str, list[Detail]]:
    """The stage that wrote a record, what came of its work, and the details."""
    if isinstance(record, Article):
        return "ingest", _article(record), [_citation(record)]
    if isinstance(record, Retraction):
        stands = record.reason is None
        meant = " under other MeSH" if record.mesh is not None else ""
        outcome = "rows stand" if stands else f"rows{meant} stand no more: {record.reason}"
        return "ingest", outcome, []
    if isinstance(record, Questions):
        kept = sum(c.question is not None for c in record.candidates)
        outcome = f"{kept} of {len(record.candidates)} questions kept, for {record.role}"
        if record.source.withheld:
            outcome = f"not asked about: {record.source.withheld}"
        return "generate", outcome, [_candidate(c) for c in record.candidates]
    if isinstance(record, Contexts):
        count = sum(len(retrieval.passages) for retrieval in record.retrievals)
        details = [_retrieval(retrieval) for retrieval in record.retrievals]
        return "retrieve or rescore", f"{count} passages", details
    if isinstance(record, Alignments):
        details = [_alignment(alignment) for alignment in record.alignments]
        return "score", f"under MeSH {record.edition}, {record.frequency}", details
    if isinstance(record, Preference):
        details = [_alignment(alignment) for alignment in record.alignments]
        return "prefer", _because(record.outcome, record.reason), details
    if isinstance(record, Ideal):
        details = [_alignment(alignment) for alignment in record.alignments]
        if record.answer:
            details.append(_answer(record.answer))
        return "answer", _because(record.outcome, record.reason), details
    raise TypeError(f"{type(record).__name__} is about no record")


def of_letter(letter: DeadLetter, message: ConsumerRecord, settled: Settled | None) -> Event:
    """What a dead letter says, and what an operator has done about it."""
    state = "open"
    if settled and settled.letter >= letter.at:
        state = f"{settled.how} by {settled.who} at {settled.at:%Y-%m-%d %H:%M} UTC"
        state += f": {settled.why}" if settled.why else ""
    return Event(
        at=letter.at,
        stage=letter.stage,
        outcome=f"dead letter: {letter.reason}; {state}",
        where=f"{message.topic} [{message.partition}] offset {message.offset}",
        details=(
            {
                "message": f"{letter.topic} [{letter.partition}] offset {letter.offset}",
                "detail": cut(letter.detail, LONGEST),
                "replays": letter.replays,
            },
        ),
    )


def of_row(table: str, row: Mapping[str, Any], version: int | None) -> Event:
    """What a row of a table says; `version` is the table's that first had it."""
    outcome = f"row in {table}"
    if table in (DROPPED, PARKED):
        outcome += f": {_because(row['outcome'], row['reason'])}"
    if row["retracted"]:
        outcome += f"; stands no more: {row['retracted']}"
    scores = [row.get(f"score{side}") for side in ("_chosen", "_rejected")]
    if table in (DROPPED, PARKED):
        scores = [candidate["score"] for candidate in row["candidates"]]
    elif "score" in row:
        scores = [row["score"]]
    kept = contexts(table, dict(row))
    details = [
        _candidate(retrieval.candidate)
        | _retrieval(retrieval)
        | ({} if score is None else {"score": score})
        for retrieval, score in zip(kept.retrievals, scores, strict=False)
    ]
    if kept.answer:
        details.append(_answer(kept.answer))
    since = "" if version is None else f" version {version}"
    return Event(
        at=row["appended"],
        stage="append",
        outcome=outcome,
        where=f"table {table}{since}, id {row['id']}",
        details=tuple(details),
    )


def _article(article: Article) -> str:
    why = not_asked(article)
    asked = f", not asked about: {why}" if why else ""
    return f"{article.change}, version {article.version}{asked}"


def _citation(article: Article) -> Detail:
    return {
        "title": cut(article.title, LONGEST),
        "source": article.source,
        "descriptors": len(article.descriptors),
        "abstract_characters": len(article.abstract),
        "arrived": article.arrived,
    }


def _candidate(candidate: Candidate) -> Detail:
    made: Detail = {
        "generator": candidate.generator,
        "model": f"{candidate.model}@{candidate.revision}",
        "attempts": candidate.attempts,
    }
    if candidate.question is None:
        return made | {"rejected": candidate.rejected}
    return made | {"question": cut(candidate.question, LONGEST)}


def _retrieval(retrieval: Retrieval) -> Detail:
    found = {"passages": list(_ranks(retrieval.passages))}
    return {"generator": retrieval.candidate.generator, "mode": retrieval.mode, **found}


def _ranks(passages: Iterable[Passage]) -> Iterable[Detail]:
    for passage in passages:
        yield {
            "pmid": passage.pmid,
            "bm25_rank": passage.bm25_rank,
            "dense_rank": passage.dense_rank,
        }


def _alignment(alignment: Alignment) -> Detail:
    generator = {"generator": alignment.retrieval.candidate.generator}
    if alignment.score is None:
        return generator | {"unscored": alignment.unscored}
    return generator | {"score": alignment.score}


def _answer(answer: Answer) -> Detail:
    said = {"decision": answer.decision} if answer.decision else {"rejected": answer.rejected}
    return {"answerer": answer.answerer, "model": f"{answer.model}@{answer.revision}", **said}


def _because(outcome: str, reason: str | None) -> str:
    return f"{outcome}: {reason}" if reason else outcome
