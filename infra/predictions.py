"""Predictions on a set of questions, in a file: who was asked, how, and every raw answer."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from consumers.ports import Completion
from infra.component import write
from streams.answers import read_answer
from streams.records import Decision
from trainers.errors import DataError
from trainers.pubmedqa import read_decisions

Setting = Literal["reasoning-required", "question-only"]

# Why an answer that a server would not give cannot be read.
REFUSED = "model refused"


class PredictionsError(Exception):
    """A file of predictions cannot be used; one line: the file, what was expected, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who is asked, and how. `model` is the name that it is served under."""

    model: str
    setting: Setting
    prompt: str = "answer/1"
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 16
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A raw answer, and what it says: exactly one of `decision` and `rejected` is set.

    `asked` is a digest of the whole prompt; `finished` is False where the token limit cut it.
    """

    asked: str
    text: str
    finished: bool
    decision: Decision | None = None
    rejected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a file holds: answers by PMID."""

    asking: Asking
    answers: Mapping[int, Prediction]


_FILE = TypeAdapter(Predictions)


def prediction(asked: str, completion: Completion, prompt: str) -> Prediction:
    """A model's answer to the prompt of this name, read strictly."""
    reading = read_answer(completion.text, prompt=prompt, finished=completion.finished)
    return Prediction(
        asked=asked,
        text=completion.text,
        finished=completion.finished,
        decision=reading.decision,
        rejected=reading.rejected,
    )


def refused(asked: str, said: str) -> Prediction:
    """Stands for the answer to a question that the server would not take, with what it said."""
    return Prediction(asked=asked, text=said, finished=True, rejected=REFUSED)


def load(path: Path, asking: Asking) -> dict[int, Prediction]:
    """The answers of a run that was stopped, or none where there is no such file yet.

    Raises `PredictionsError`, also where the file is of another model or way of asking.
    """
    if not path.exists():
        return {}
    found = _read(path)
    if found.asking != asking:
        differing = ", ".join(
            f"{name} {before!r}, not {now!r}"
            for (name, before), now in zip(
                asdict(found.asking).items(), asdict(asking).values(), strict=True
            )
            if before != now
        )
        raise PredictionsError(
            f"{path}: holds another run's answers ({differing}); name another file with --out"
        )
    return dict(found.answers)


def save(path: Path, asking: Asking, answers: Mapping[int, Prediction]) -> None:
    """Write a file whole or not at all. Raises `PredictionsError` where it cannot be written."""
    whole = Predictions(asking=asking, answers=answers)
    _write(path, _FILE.dump_json(whole, indent=2).decode() + "\n")


def save_decisions(path: Path, decisions: Mapping[int, Decision]) -> None:
    """The decision of each PMID, in the layout that PubMedQA's evaluation.py reads."""
    by_pmid = {str(pmid): decision for pmid, decision in decisions.items()}
    _write(path, json.dumps(by_pmid, indent=2) + "\n")


def decisions_in(path: Path, pmids: Iterable[int]) -> dict[int, Decision | None]:
    """What another model said about these PMIDs, None where it cannot be read.

    The file is one of ours or in the layout {PMID: decision}. Raises `PredictionsError`, also where
    it lacks a PMID.
    """
    try:
        answers = _read(path).answers
        found = {pmid: answer.decision for pmid, answer in answers.items()}
    except PredictionsError:
        found = _plain_decisions(path)
    missing = [pmid for pmid in pmids if pmid not in found]
    if missing:
        raise PredictionsError(
            f"{path}: lacks {len(missing):,} of the questions, PMID {missing[0]} for one; "
            "compare runs over the same questions"
        )
    return {pmid: found[pmid] for pmid in pmids}


def _plain_decisions(path: Path) -> dict[int, Decision | None]:
    try:
        return {**read_decisions(path)}
    except DataError as error:
        raise PredictionsError(f"{error} (nor are these answers saved by kailin eval)") from None


def _read(path: Path) -> Predictions:
    """A file of ours, its answers read anew: how they are read may have changed since."""
    try:
        found = _FILE.validate_json(path.read_bytes())
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its text"
        raise PredictionsError(
            f"{path}: expected predictions as saved by kailin eval: {where}: {fault['msg']}"
        ) from None
    return replace(
        found,
        answers={pmid: _again(answer, found.asking) for pmid, answer in found.answers.items()},
    )


def _again(answer: Prediction, asking: Asking) -> Prediction:
    if answer.rejected == REFUSED:
        return answer
    reading = read_answer(answer.text, prompt=asking.prompt, finished=answer.finished)
    return replace(answer, decision=reading.decision, rejected=reading.rejected)


def _write(path: Path, text: str) -> None:
    try:
        write(path, text)
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be written: {error.strerror or error}") from None
