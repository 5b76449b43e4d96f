"""PubMedQA: its questions as published, and answers scored as its own evaluation scores them.

Jin et al. 2019; the files and evaluation.py are those of the repository pubmedqa/pubmedqa.
"""

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, get_args

import ijson
from pydantic import BaseModel, Field, ValidationError
from sklearn.metrics import accuracy_score, f1_score

from streams.records import Decision
from trainers.errors import DataError
from trainers.statistics import accuracy_interval, macro_f1_interval

DECISIONS: tuple[Decision, ...] = get_args(Decision)

GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question with its abstract, less the conclusion, which is the long answer.

    `contexts` are the abstract's sections and `labels` their headings; `meshes` are names.
    """

    pmid: int
    question: str
    contexts: tuple[str, ...]
    labels: tuple[str, ...]
    meshes: tuple[str, ...]
    year: str | None
    decision: Decision
    long_answer: str

    @property
    def context(self) -> str:
        """The sections in their order, each on a line, without their headings."""
        return "\n".join(self.contexts)


class _Published(BaseModel):
    """What is read of an entry; PQA-L has more, PQA-A less."""

    question: str = Field(alias="QUESTION", min_length=1)
    contexts: tuple[str, ...] = Field(alias="CONTEXTS")
    labels: tuple[str, ...] = Field((), alias="LABELS")
    meshes: tuple[str, ...] = Field((), alias="MESHES")
    year: str | None = Field(None, alias="YEAR")
    decision: Decision = Field(alias="final_decision")
    long_answer: str = Field("", alias="LONG_ANSWER")


def read(path: Path) -> Iterator[Item]:
    """The items of a PQA-L or PQA-A file, plain or gzip, in its order and one at a time.

    Raises `DataError`.
    """
    for pmid, value in _entries(path):
        try:
            entry = _Published.model_validate(value)
        except ValidationError as error:
            raise DataError(f"{path}: PMID {pmid}: {_first(error)}") from None
        yield Item(
            pmid=pmid,
            question=entry.question,
            contexts=entry.contexts,
            labels=entry.labels,
            meshes=entry.meshes,
            year=entry.year,
            decision=entry.decision,
            long_answer=entry.long_answer,
        )


def read_decisions(path: Path) -> dict[int, Decision]:
    """The decision of each PMID, as in test_ground_truth.json, in its order.

    Raises `DataError`.
    """
    decisions: dict[int, Decision] = {}
    for pmid, value in _entries(path):
        if value not in DECISIONS:
            raise DataError(f"{path}: PMID {pmid}: expected yes, no or maybe, not {value!r:.80}")
        decisions[pmid] = value
    return decisions


def read_test(
    data: Path, test: Path, limit: int | None = None
) -> tuple[list[Item], dict[int, Decision]]:
    """The items of `data` that `test` names, or a sample of `limit` of them, and their decisions.

    Both are in the order of `test`, which is by decision, so that its first ones are no sample: it
    is taken by a hash of the PMID. Raises `DataError`, also where `data` lacks one.
    """
    truth = read_decisions(test)
    sample = set(sorted(truth, key=_hash)[:limit])
    truth = {pmid: decision for pmid, decision in truth.items() if pmid in sample}
    found = {item.pmid: item for item in read(data) if item.pmid in truth}
    if missing := [pmid for pmid in truth if pmid not in found]:
        raise DataError(
            f"{data}: lacks {len(missing):,} of the {len(truth):,} questions of {test}: it lacks "
            f"PMID {missing[0]}, for one; expected ori_pqal.json, which has them all"
        )
    return [found[pmid] for pmid in truth], truth


def _hash(pmid: int) -> bytes:
    return hashlib.blake2b(b"sample\x00%d" % pmid, digest_size=8).digest()


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON object whose keys are PMIDs, none of them twice, and one at least."""
    seen: set[int] = set()
    with _opened(path) as file:
        try:
            for key, value in ijson.kvitems(file, ""):
                if not (key.isascii() and key.isdigit()):
                    raise DataError(f"{path}: expected PMIDs as keys, not {key!r:.80}")
                if int(key) in seen:
                    raise DataError(f"{path}: PMID {key}: expected once, found again")
                seen.add(int(key))
                yield int(key), value
        except (ijson.JSONError, UnicodeDecodeError, EOFError, zlib.error) as error:
            after = f" after {len(seen):,} PMIDs" if seen else ""
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: expected JSON, plain or gzip{after}: {reason}") from None
    if not seen:
        raise DataError(f"{path}: expected a JSON object by PMID with one entry or more")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP
            file.seek(0)
            if zipped:
                with gzip.open(file) as plain:
                    yield plain
            else:
                yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else fault["msg"]


def counted(answer: Decision | None, truth: Decision) -> Decision:
    """The decision that an answer counts as, so that one which cannot be parsed is wrong.

    It counts as maybe, or as no where maybe is right. A fourth label would be wrong as well, but
    PubMedQA's macro-F1 averages over the labels that it meets, and so would fall by a quarter for
    the first such answer.
    """
    if answer is not None:
        return answer
    return "maybe" if truth != "maybe" else "no"


def score(truth: Mapping[int, str], predicted: Mapping[int, str]) -> tuple[float, float]:
    """Accuracy and macro-F1 as of PubMedQA's evaluation.py.

    Raises ValueError unless all and only the items of `truth` are predicted.
    """
    if truth.keys() != predicted.keys():
        raise ValueError("expected a prediction for all and only the items of the ground truth")
    right = list(truth.values())
    ours = [predicted[pmid] for pmid in truth]
    accuracy = accuracy_score(right, ours)
    return float(accuracy), float(f1_score(right, ours, average="macro"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one model did. Intervals are (low, high) at the confidence that was asked for.

    `truth` and `predicted` count each decision; the `unparsable` stand in none of `predicted`.
    `majority` is the accuracy and macro-F1 of always giving the commonest decision.
    """

    items: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    unparsable: int
    truth: Mapping[Decision, int]
    predicted: Mapping[Decision, int]
    majority: tuple[float, float]


def judge(
    truth: Mapping[int, Decision],
    answers: Mapping[int, Decision | None],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Result:
    """Score the parsed answers, None for those that cannot be. Raises ValueError as `score`."""
    predicted = {
        pmid: counted(answers[pmid], truth[pmid]) for pmid in answers.keys() & truth.keys()
    }
    accuracy, macro_f1 = score(truth, predicted)
    counts = Counter(truth.values())
    commonest = counts.most_common(1)[0][0]
    return Result(
        items=len(truth),
        accuracy=accuracy,
        accuracy_interval=accuracy_interval(
            list(outcomes(truth, answers).values()),
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        ),
        macro_f1=macro_f1,
        macro_f1_interval=macro_f1_interval(
            list(truth.values()),
            [predicted[pmid] for pmid in truth],
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        ),
        unparsable=sum(answers[pmid] is None for pmid in truth),
        truth={decision: counts[decision] for decision in DECISIONS},
        predicted={
            decision: sum(answers[pmid] == decision for pmid in truth) for decision in DECISIONS
        },
        majority=score(truth, dict.fromkeys(truth, commonest)),
    )


def outcomes(
    truth: Mapping[int, Decision], answers: Mapping[int, Decision | None]
) -> dict[int, bool]:
    """Whether each item of the ground truth was answered right, in its order."""
    return {pmid: answers[pmid] == decision for pmid, decision in truth.items()}
