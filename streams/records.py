"""Every record that flows, as frozen dataclasses.

Messages grow by what each stage adds and carry what the next needs, so that no stage looks back:
`Article` → `Questions` → `Contexts` → `Alignments` → `Preference`. Names are those of the KAILIN
paper: θ1, θ2 and θ3 are `theta1`, `theta2` and `theta3`, d is the `Source`, q the question of a
`Candidate`, c the `passages` of a `Retrieval`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

PMID = Annotated[int, Field(ge=1, lt=10**10)]
# JSON sets integers no bound, but whoever reads what is written on, and the tables, do.
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
# A record has some 15 headings; scoring takes as long as the product of two records' counts.
MAX_MESH = 1000
Descriptors = Annotated[tuple[str, ...], Field(max_length=MAX_MESH)]

Role = Literal["preference", "ideal"]
SearchMode = Literal["bm25", "dense", "hybrid"]
Outcome = Literal["preference", "tie", "unscorable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstractSection:
    """A part of an abstract: `label` as printed ("METHODS"), `category` as NLM classed it."""

    text: str
    label: str | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualifier:
    """A MeSH subheading, by UI ("Q000188")."""

    ui: str
    name: str
    major: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshHeading:
    """A MeSH descriptor of a record, by UI ("D010206"), with its qualifiers."""

    ui: str
    name: str
    major: bool = False
    qualifiers: tuple[Qualifier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationType:
    ui: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    title: str
    abbreviation: str | None = None
    issn: str | None = None
    nlm_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """A PubMed citation. Dates are ISO 8601, as precise as the record is: 2000, 2000-03.

    `corpus` records are searched but not asked about. `source` names the file or query that the
    record came from, `arrived` when.
    """

    pmid: PMID
    version: Int64
    title: str
    sections: tuple[AbstractSection, ...]
    languages: tuple[str, ...]
    journal: Journal
    published: str | None
    completed: str | None
    revised: str | None
    publication_types: tuple[PublicationType, ...]
    mesh: Annotated[tuple[MeshHeading, ...], Field(max_length=MAX_MESH)]
    indexing: str | None
    keywords: tuple[str, ...]
    doi: str | None
    pmcid: str | None
    corpus: bool
    source: str
    arrived: datetime

    @property
    def abstract(self) -> str:
        """The abstract as one text, each labelled section led by its label."""
        return "\n".join(f"{s.label}: {s.text}" if s.label else s.text for s in self.sections)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """The UIs of the record's MeSH descriptors, each once, in the record's order."""
        return tuple(dict.fromkeys(heading.ui for heading in self.mesh))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the later stages need of the article that a question is asked about."""

    pmid: PMID
    version: Int64
    text_hash: str
    title: str
    abstract: str
    mesh: Descriptors
    indexing: str | None
    arrived: datetime


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
class Contexts:
    id: str
    role: Role
    source: Source
    retrievals: tuple[Retrieval, ...]


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
    """`edition` names the MeSH edition and `frequency` the option of eq. 1 that scores are of."""

    id: str
    role: Role
    source: Source
    edition: str
    frequency: str
    alignments: tuple[Alignment, ...]


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
class DeadLetter:
    """A message that could not be used, byte for byte (base64), and why.

    `reason` is the short label that is counted; `detail` and `stack` are for the reader.
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
    at: datetime


type_names = {
    Article: "article",
    Questions: "questions",
    Contexts: "contexts",
    Alignments: "alignments",
    Preference: "preference",
    DeadLetter: "dead_letter",
}

Record = Article | Questions | Contexts | Alignments | Preference | DeadLetter


def text_hash(title: str, abstract: str) -> str:
    """32 hex digits that change when the text a question is asked about changes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(title.encode())
    digest.update(b"\x00")
    digest.update(abstract.encode())
    return digest.hexdigest()


def record_id(pmid: int, text: str, role: Role, generators: Sequence[str], *, indexed: bool) -> str:
    """32 hex digits that name what is made of one text, in one role, by one set of generators.

    `text` is a `text_hash`; `generators` are "name@revision", in any order. The same inputs give
    the same id in every process, so a reprocessed record is recognised and kept once. `indexed`
    tells whether the record had MeSH: one that comes back with its MeSH is not the one that could
    not be scored for want of it.
    """
    parts = (str(pmid), text, role, "indexed" if indexed else "", *sorted(generators))
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=16).hexdigest()


def seed(id: str, generator: str, attempt: int) -> int:
    """The sampling seed (31 bits) of one attempt, so that reprocessing repeats it."""
    digest = hashlib.blake2b(f"{id}\x00{generator}\x00{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
