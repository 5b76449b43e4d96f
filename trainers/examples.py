"""The examples of each job, in the layouts that TRL takes, read one after the other.

What is left out is counted by reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from streams.injection import inert
from streams.prompts import answer_prompt, context_text, pretraining_text, question_prompt
from streams.records import Passage
from trainers import bioasq, exclusions, pubmedqa
from trainers.config import Cpt, Data, Dpo, SftAnswers, SftGenerators
from trainers.errors import DataError
from trainers.rows import Pinned, pin
from trainers.selection import COLUMNS, STANDING, Choice, Side, Wanted, choose, read_branches
from trainers.split import held_out

Row = dict[str, Any]
Example = tuple[Side, Row]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ID = ("id", pa.string())
PREFERENCE = pa.schema([_ID, ("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)])
COMPLETION = pa.schema([_ID, ("prompt", _MESSAGES), ("completion", _MESSAGES)])
TEXT = pa.schema([_ID, ("text", pa.string())])


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows left out by reason, training rows by MeSH branch, and what else is worth knowing."""

    left_out: Counter[str] = field(default_factory=Counter)
    branches: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Reading:
    """A source and its examples; the counts are complete once the examples are read to the end.

    `source` is the table or the files, `version` the table's, None for files; `excluded` are the
    files of PMIDs that are not in the examples.
    """

    source: tuple[str, ...]
    version: int | None
    examples: Iterable[Example]
    counts: Counts
    excluded: tuple[Path, ...]


def preferences(config: Dpo) -> Reading:
    """The rows of `preferences` that the policy chooses, as `PREFERENCE`. Raises `DataError`."""
    data, counts = config.data, Counts()
    if config.selection.branch_share < 1 and data.branches is None:
        raise DataError(
            "selection.branch_share: expected data.branches, the file of descriptors' branches"
        )
    wanted = Wanted(
        policy=config.selection,
        held_out=data.held_out,
        excluded=exclusions.read(data.excluded),
        branches=read_branches(data.branches) if data.branches else {},
        seed=config.seed,
    )
    table = _pinned(data, counts)
    chosen = _chosen(table, choose(table, wanted), config.prompt, counts)
    return Reading((table.uri,), table.version, chosen, counts, data.excluded)


def _chosen(table: Pinned, choice: Choice, prompt: str, counts: Counts) -> Iterator[Example]:
    texts = ("title", "abstract", "question_chosen", "question_rejected")
    for batch in table.batches((*COLUMNS, *texts), STANDING):
        for at, row in enumerate(batch.select(COLUMNS).to_pylist()):
            side, reason = choice.place(row)
            if side is None:
                counts.left_out[reason] += 1
                continue
            if side == "train" and choice.wanted.branches:
                counts.branches[choice.branch(row)] += 1
            title, abstract, chosen, rejected = (batch[text][at].as_py() for text in texts)
            example = {
                "id": row["id"],
                "prompt": _asks(question_prompt(prompt, title=title, abstract=abstract)),
                "chosen": _says(chosen),
                "rejected": _says(rejected),
            }
            yield side, example


def pretraining(config: Cpt) -> Reading:
    """The rows of `ideal` as `TEXT`. Raises `DataError`."""
    counts = Counts()
    table = _pinned(config.data, counts)
    texts = _texts(table, config, counts)
    return Reading((table.uri,), table.version, texts, counts, config.data.excluded)


def _texts(table: Pinned, config: Cpt, counts: Counts) -> Iterator[Example]:
    share = config.data.held_out
    for row, passages in _ideal(table, config.data, (), counts):
        # All of the text is learnt, so a passage would give a held-out record away.
        told = [passage for passage in passages if not held_out(passage.pmid, share)]
        counts.notes["held-out passages taken out of contexts"] += len(passages) - len(told)
        if not told:
            counts.left_out["no passage that is not held out"] += 1
            continue
        text = pretraining_text(
            config.prompt,
            title=row["title"],
            abstract=row["abstract"],
            context=context_text(told),
            question=row["question"],
        )
        yield _side(row["pmid"], share), {"id": row["id"], "text": text}


def answers(config: SftAnswers) -> Reading:
    """The answered rows of `ideal`, or the items of a PubMedQA file, as `COMPLETION`.

    Raises `DataError`.
    """
    counts = Counts()
    if config.pqa is not None:
        items = _items(config.pqa, config, counts)
        return Reading((str(config.pqa),), None, items, counts, config.excluded)
    assert config.data is not None  # noqa: S101 (the configuration has one of the two)
    table = _pinned(config.data, counts)
    answered = _answered(table, config.data, config.prompt, counts)
    return Reading((table.uri,), table.version, answered, counts, config.data.excluded)


def _answered(table: Pinned, data: Data, prompt: str, counts: Counts) -> Iterator[Example]:
    for row, passages in _ideal(table, data, ("answer", "answer_long"), counts):
        completion, lacking = _completion(prompt, row["answer"], row["answer_long"])
        if lacking:
            counts.left_out[lacking] += 1
            continue
        asked = answer_prompt(prompt, question=row["question"], context=context_text(passages))
        yield _side(row["pmid"], data.held_out), _turn(row["id"], asked, completion)


def _items(path: Path, config: SftAnswers, counts: Counts) -> Iterator[Example]:
    excluded = exclusions.read(config.excluded)
    for item in pubmedqa.read(path):
        completion, lacking = _completion(config.prompt, item.decision, item.long_answer)
        if item.pmid in excluded:
            lacking = "excluded PMID"
        if lacking:
            counts.left_out[lacking] += 1
            continue
        asked = answer_prompt(config.prompt, question=item.question, context=item.context)
        yield _side(item.pmid, config.held_out), _turn(str(item.pmid), asked, completion)


def _completion(prompt: str, decision: str | None, long: str | None) -> tuple[str, str | None]:
    """What is to be answered, or the reason why there is nothing."""
    if not decision:
        return "", "no answer"
    if not prompt.startswith("answer-long/"):
        return decision.capitalize(), None
    return (f"{decision.capitalize()}\n{long}", None) if long else ("", "no long answer")


def questions(config: SftGenerators) -> Reading:
    """BioASQ's questions by document, as `COMPLETION`. Raises `DataError`."""
    counts = Counts()
    files = tuple(map(str, config.bioasq))
    return Reading(files, None, _asked(config, counts), counts, config.excluded)


def _asked(config: SftGenerators, counts: Counts) -> Iterator[Example]:
    excluded = exclusions.read(config.excluded)
    for example in bioasq.read(config.bioasq, config.records, counts.left_out):
        side = _side(example.pmid, config.held_out)
        if example.pmid in excluded:
            counts.left_out["excluded PMID"] += 1
        # A question has several documents, and would cross over with them.
        elif side != _side(example.lead, config.held_out):
            counts.left_out["question of the other side"] += 1
        else:
            counts.notes["examples without a title"] += not example.title
            asked = question_prompt(config.prompt, title=example.title, abstract=example.abstract)
            yield side, _turn(example.id, asked, example.question)


def _pinned(data: Data, counts: Counts) -> Pinned:
    table = pin(data.table, data.version)
    counts.left_out["retracted"] += table.count(f"NOT ({STANDING})")
    return table


def _ideal(
    table: Pinned, data: Data, columns: tuple[str, ...], counts: Counts
) -> Iterator[tuple[Row, list[Passage]]]:
    """The standing rows of `ideal`, some columns of them, with their contexts.

    One whose context has an excluded record is left out too: a benchmark's question is made of its
    record's own abstract, which would be learnt.
    """
    excluded = exclusions.read(data.excluded)
    wanted = ("id", "pmid", "title", "abstract", "question", "context", *columns)
    for batch in table.batches(wanted, STANDING):
        for row in batch.to_pylist():
            if row["pmid"] in excluded:
                counts.left_out["excluded PMID"] += 1
            elif any(passage["pmid"] in excluded for passage in row["context"]):
                counts.left_out["excluded PMID in its context"] += 1
            else:
                yield row, [Passage(**passage) for passage in row["context"]]


def _side(pmid: int, share: float) -> Side:
    return "held out" if held_out(pmid, share) else "train"


def _asks(prompt: str) -> list[Row]:
    return [{"role": "user", "content": prompt}]


def _says(answer: str) -> list[Row]:
    # TRL puts it into a chat template, as it does a prompt, in which records are inert already.
    return [{"role": "assistant", "content": inert(answer)}]


def _turn(id: str, asked: str, answer: str) -> Row:
    return {"id": id, "prompt": _asks(asked), "completion": _says(answer)}
