"""What the learning loop tells: new data, jobs, verdicts, the models that serve, and money spent.

A job is one decision to train: `dpo` on the table `preferences` for the target `theta3`, or `cpt`
and then `sft-answers`, which gives it its kind, on `ideal` for the target `answers`.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from streams.citation import PMID, Int64

Target = Literal["theta3", "answers"]
JobKind = Literal["dpo", "cpt", "sft-answers"]
# training → trained → passed or blocked; failed, from any of the first two.
JobState = Literal["training", "trained", "passed", "blocked", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A commit that added rows to a table: its version, all its rows then, and those it added."""

    table: str
    version: Int64
    rows: Int64
    added: Int64
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How far a decision to train has come.

    `data_version` is the version of the table that the job reads, `rows` how many rows it had
    then, `newest` when the last of them was appended. `attempt` counts from 1, and is 0 where a
    job that failed is to be tried again at once. `run` is MLflow's; `model` is the name that the
    model is served under, once it was judged. `reason` says why it was due, and once it has ended,
    why so. `by` is who decided.
    """

    id: str
    target: Target
    kind: JobKind
    table: str
    data_version: Int64
    rows: Int64
    newest: datetime
    state: JobState
    attempt: Int64
    reason: str
    by: str
    run: str | None = None
    model: str | None = None
    began: datetime
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What both models made of one held-out record; None where it is rejected or has no score.

    Scores are alignments for a generator, and 1.0 for a right answer, 0.0 for a wrong one.
    """

    pmid: PMID
    champion: float | None
    candidate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gate's decision about one candidate: names, figures by name, and every comparison."""

    job: str
    target: Target
    champion: str
    candidate: str
    passed: bool
    reason: str
    figures: dict[str, float]
    compared: tuple[Compared, ...]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The model that serves as a generator from now on.

    `model` is the name it is served under, which no other version ever has; `revision` is the
    registered version. `server` is one of [servers.NAME], whose key, CA and time-out hold; `url`
    is its address where that is another than the server's own. `first` is when a model first
    served as this generator at all. `by` and `reason` say who put it there and why.
    """

    generator: str
    model: str
    revision: str
    server: str
    url: str | None
    first: datetime
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What one worker has spent on one model in a month (YYYY-MM, UTC), all in all.

    `money` is in the currency of the settings' prices.
    """

    worker: str
    model: str
    month: str
    requests: Int64
    prompt_tokens: Int64
    completion_tokens: Int64
    money: float
    at: datetime


def job_id(target: Target, kind: JobKind, table: str, data_version: int) -> str:
    """16 hex digits that name a decision: to train again on the same data is the same decision."""
    text = "\x00".join((target, kind, table, str(data_version)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
