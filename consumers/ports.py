"""What the stages need of the world. Adapters are in `infra/`, scripted ones in `tests/fakes/`.

One contract suite a port, in `tests/contracts/`, runs on both. Every port raises
`streams.errors.Transient` when the component behind it is away or overloaded, and `Invalid` when
it refuses this request for good.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streams.citation import Article
from streams.records import Contexts, SearchMode

Vector = NDArray[np.float32]

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """One request to a generator. `max_tokens` bounds the completion, not the prompt."""

    model: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """`finished` is False when the text was cut at `max_tokens`."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


class Generate(Protocol):
    """A language model. Many calls may be in flight at once; the server batches them."""

    async def __call__(self, request: Prompted) -> Completion: ...


class Embed(Protocol):
    """One unit-length vector (float32, shape (dimensions,)) for a text of any length."""

    async def __call__(self, text: str) -> Vector: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A record that a search returned."""

    pmid: int
    title: str
    abstract: str
    mesh: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Best first, each list at most as long as asked for; a search not asked for is empty."""

    bm25: tuple[Hit, ...]
    dense: tuple[Hit, ...]


class Search(Protocol):
    """The `depth` best records for a question by BM25, by vector, or both, `exclude` left out.

    `vector` is the question's embedding, or None in mode `bm25`.
    """

    async def __call__(
        self, question: str, vector: Vector | None, *, mode: SearchMode, depth: int, exclude: int
    ) -> Hits: ...


class Index(Protocol):
    """The searchable view of `pubmed.articles`.

    `version` orders the states of one PMID: a call with a version that is not above the one held
    changes nothing and does not fail, so replays are safe. Returns whether it changed anything.
    """

    async def put(self, article: Article, vector: Vector, *, version: int) -> bool: ...

    async def delete(self, pmid: int, *, version: int) -> bool: ...


class Lookup(Protocol):
    """The MeSH descriptors (UIs) that records have at present; none for one that has no MeSH yet.

    Left out are PMIDs that are not in the index. What was written last is found at once.
    """

    async def __call__(self, pmids: Sequence[int]) -> dict[int, tuple[str, ...]]: ...


class Stored(Protocol):
    """All the contexts that the tables keep of one text of a record, the newest first.

    Their ids are those of their rows.
    """

    async def __call__(self, pmid: int, text_hash: str) -> tuple[Contexts, ...]: ...


class Versions(Protocol):
    """The version of the state that the index holds of a record, as given to `Index.put`.

    None where it holds none, or the record was deleted. What was written last is found at once.
    """

    async def __call__(self, pmid: int) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one request to a model; `money` is in the currency of the settings' prices."""

    prompt_tokens: int
    completion_tokens: int
    money: float


@dataclass(frozen=True, slots=True, eq=False)
class Reserved:
    """A part of one month's budget (YYYY-MM, UTC) that a request in flight may cost."""

    model: str
    month: str
    most: Cost


class Budget(Protocol):
    """What models may cost in a month, and have: counted durably, over all workers.

    `reserve` returns once it is on record that a request may cost `most`, and raises `Transient`
    ("budget spent") where that is more than is left. Each reservation is settled once: its most
    counts no more, `cost` does. A worker that dies before leaves the most counted.
    """

    async def reserve(self, model: str, most: Cost) -> Reserved: ...

    def settle(self, reserved: Reserved, cost: Cost) -> None: ...
