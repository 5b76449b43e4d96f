"""Every record that flows, as frozen dataclasses.

Messages grow by what each stage adds and carry what the next needs, so that no stage looks back:
`Article` → `Questions` → `Contexts` → `Alignments` → `Preference` or `Ideal`. Names are those of
the KAILIN paper: θ1, θ2 and θ3 are `theta1`, `theta2` and `theta3`, d is the `Source`, q the
question of a `Candidate`, c the `passages` of a `Retrieval`, a the `Answer`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from streams.citation import PMID, Article, Descriptors, Int64
from streams.learning import Job, Serving, Spending, TrainingData, Verdict
from streams.operations import Control, Settled, letter_id

Unit = Annotated[float, Field(ge=0.0, le=1.0)]

Role = Literal["preference", "ideal"]
SearchMode = Literal["bm25", "dense", "hybrid"]
Outcome = Literal["preference", "tie", "unscorable"]
IdealOutcome = Literal["ideal", "below the gate", "unscorable"]
Decision = Literal["yes", "no", "maybe"]
ProgressState = Literal["running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the later stages need of the article that a question is asked about.

    `withheld` is the reason why none is asked about it although its text is new, else None.
    """

    pmid: PMID
    version: Int64
    text_hash: str
    title: str
    abstract: str
    mesh: Descriptors
    indexing: str | None
    arrived: datetime
    withheld: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A question that one generator wrote, or the reason why none of its attempts was kept.

    Exactly one of `question` and `rejected` is set. `seed` is that of the last attempt; the token
    counts are sums over all of them.
    """

    generator: str
    model: str
    revision: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: Int64
    seed: Int64
    attempts: Int64
    prompt_tokens: Int64
    completion_tokens: Int64
    question: str | None = None
    rejected: str | None = None

    @property
    def version(self) -> str:
        """What a record's id knows the generator by."""
        return generator_version(self.generator, self.model, self.revision, self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    id: str
    role: Role
    source: Source
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A retrieved record; ranks count from 1, and None means that this search did not return it."""

    pmid: PMID
    title: str
    abstract: str
    mesh: Descriptors
    bm25_rank: Int64 | None
    dense_rank: Int64 | None
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """The context c of one candidate, best passage first; empty for a rejected candidate."""

    candidate: Candidate
    mode: SearchMode
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a static model θS answered to a question with its context (KAILIN, Figure 3).

    Exactly one of `decision` and `rejected`, why no attempt could be read, is set; `long` is the
    explanation, where the prompt asks for one. `seed` is that of the last attempt; the token counts
    are sums over all of them.
    """

    answerer: str
    model: str
    revision: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: Int64
    seed: Int64
    attempts: Int64
    prompt_tokens: Int64
    completion_tokens: Int64
    decision: Decision | None = None
    long: str | None = None
    rejected: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """`answer` is what was answered before to contexts that are scored again: it is not paid twice.

    MeSH has no part in it, so it stays true whatever the record's or a passage's is now.
    """

    id: str
    role: Role
    source: Source
    retrievals: tuple[Retrieval, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How well a candidate's context agrees with the source in MeSH (KAILIN, eq. 3).

    Exactly one of `score` and `unscored`, the reason why there is no score, is set.
    """

    retrieval: Retrieval
    score: Unit | None = None
    unscored: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignments:
    """`edition` names the MeSH edition and `frequency` the option of eq. 1 that scores are of.

    `answer` is that of the contexts, where they have one.
    """

    id: str
    role: Role
    source: Source
    edition: str
    frequency: str
    alignments: tuple[Alignment, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What became of a record: for a `preference`, the first alignment is q+ and the second q−.

    For a `tie` and an `unscorable` one, `reason` says why, and `alignments` are all there were.
    """

    id: str
    source: Source
    edition: str
    frequency: str
    margin: float
    outcome: Outcome
    reason: str | None
    alignments: tuple[Alignment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """What became of a record that θ3 asked about: for an `ideal` one {q, c}, with a where asked.

    `floor` is the least alignment that passes. `alignments` holds the one there is, or none for a
    record that was not asked about; `reason` says why it is not ideal. `answer` is None where no
    static model was asked; what is not ideal keeps one that it had, see `Contexts`.
    """

    id: str
    source: Source
    edition: str
    frequency: str
    floor: float
    outcome: IdealOutcome
    reason: str | None
    alignments: tuple[Alignment, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Which stage set a message aside, where it then was, and the label of why."""

    stage: str
    reason: str
    topic: str
    partition: Int64
    offset: Int64
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be used, byte for byte (base64), and why.

    `reason` is the short label that is counted; `detail` and `stack` are for the reader. `cut`
    names what is not here in full: such a message cannot be put back. One that was put back
    `replays` times already says in `first` what was the matter before that.
    """

    stage: str
    reason: str
    detail: str
    stack: str
    topic: str
    partition: Int64
    offset: Int64
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str], ...]
    cut: tuple[str, ...] = ()
    first: Cause | None = None
    replays: Int64 = 0
    at: datetime

    @property
    def id(self) -> str:
        """What the letters of one message and stage have in common."""
        return letter_id(self.stage, self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraction:
    """Whether the rows made from a record still stand, as of its newest state.

    `reason` says why they do not (a fixed phrase: "deleted", "retracted", "erratum", "MeSH
    changed"), None that they do. Where `mesh` is given, only rows made under other descriptors are
    meant.
    """

    pmid: PMID
    reason: str | None
    mesh: Descriptors | None = None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A citation that could not be had or used; `pmid` is None where even that is unknown."""

    pmid: PMID | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one file or window of a source has been published, in one transaction with its part.

    `id` is the same whenever the same file or window is read. `position` counts the entries of a
    file, or the PMIDs of a window, that are dealt with; `announced` is how many the source said
    there are, where it says. `counts` has a number for each `Change` that occurred, and "failed".
    `unread` lists the citations that failed, `reason` says why the whole of it did. `held` are the
    PMIDs of a baseline file, see `streams.life.pack_pmids`.
    """

    id: str
    source: str
    what: str
    state: ProgressState
    position: Int64
    announced: Int64 | None
    counts: dict[str, Int64]
    unread: tuple[Unread, ...] = ()
    reason: str | None = None
    held: str | None = None
    at: datetime


type_names = {
    Article: "article",
    Questions: "questions",
    Contexts: "contexts",
    Alignments: "alignments",
    Preference: "preference",
    Ideal: "ideal",
    DeadLetter: "dead_letter",
    Retraction: "retraction",
    Progress: "progress",
    TrainingData: "training_data",
    Job: "job",
    Verdict: "verdict",
    Serving: "serving",
    Spending: "spending",
    Settled: "settled",
    Control: "control",
}

Record = (
    Article
    | Questions
    | Contexts
    | Alignments
    | Preference
    | Ideal
    | DeadLetter
    | Retraction
    | Progress
    | TrainingData
    | Job
    | Verdict
    | Serving
    | Spending
    | Settled
    | Control
)


def text_hash(title: str, abstract: str) -> str:
    """32 hex digits that change when the text a question is asked about changes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(title.encode())
    digest.update(b"\x00")
    digest.update(abstract.encode())
    return digest.hexdigest()


def generator_version(name: str, model: str, revision: str, prompt: str) -> str:
    """What a record's id knows a generator by."""
    return f"{name}={model}@{revision}+{prompt}"


def record_id(
    pmid: int, text: str, role: Role, generators: Sequence[str], *, mesh: Sequence[str]
) -> str:
    """32 hex digits that name what is made of one text, in one role, by one set of generators.

    `text` is a `text_hash`; `generators` are `generator_version`s and `mesh` the UIs of the
    record's descriptors, both in any order. The same inputs give the same id in every process, so
    a reprocessed record is recognised and kept once; one that comes back with other MeSH is not
    the one that was scored without it.
    """
    parts = (str(pmid), text, role, " ".join(sorted(set(mesh))), *sorted(generators))
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=16).hexdigest()


def seed(id: str, generator: str, attempt: int) -> int:
    """The sampling seed (31 bits) of one attempt, so that reprocessing repeats it."""
    digest = hashlib.blake2b(f"{id}\x00{generator}\x00{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
