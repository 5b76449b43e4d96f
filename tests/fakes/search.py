"""An index in memory behind the ports of the library: BM25, exact dot products."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from consumers.ports import Hit, Hits, Vector
from streams.citation import Article
from streams.errors import Invalid
from streams.records import SearchMode

K1, B = 1.2, 0.75
# Those of Lucene's `english` analyzer.
STOP_WORDS = re.compile(
    "a|an|and|are|as|at|be|but|by|for|if|in|into|is|it|no|not|of|on|or|such|that|the|their|then|"
    "there|these|they|this|to|was|will|with"
)


class FakeLibrary:
    """The ports on one dict of PMID → (version, article, vector); a deleted one has no article."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._held: dict[int, tuple[int, Article | None, Vector | None]] = {}

    @property
    def articles(self) -> dict[int, Article]:
        return {pmid: article for pmid, (_, article, _) in self._held.items() if article}

    async def put(self, article: Article, vector: Vector, *, version: int) -> bool:
        if len(vector) != self.dimensions:
            raise Invalid("index refused", f"expected {self.dimensions} dimensions")
        if self._version(article.pmid) >= version:
            return False
        self._held[article.pmid] = (version, article, vector)
        return True

    async def delete(self, pmid: int, *, version: int) -> bool:
        if self._version(pmid) >= version:
            return False
        was_there = pmid in self.articles
        self._held[pmid] = (version, None, None)
        return was_there

    async def lookup(self, pmids: Sequence[int]) -> dict[int, tuple[str, ...]]:
        articles = self.articles
        return {pmid: articles[pmid].descriptors for pmid in pmids if pmid in articles}

    async def versions(self, pmid: int) -> int | None:
        return self._version(pmid) if pmid in self.articles else None

    async def __call__(
        self, question: str, vector: Vector | None, *, mode: SearchMode, depth: int, exclude: int
    ) -> Hits:
        lexical = self._bm25(question) if mode != "dense" else {}
        dense = self._dense(vector) if mode != "bm25" and vector is not None else {}
        return Hits(
            bm25=self._best(lexical, depth, exclude), dense=self._best(dense, depth, exclude)
        )

    def _version(self, pmid: int) -> int:
        return self._held[pmid][0] if pmid in self._held else -1

    def _best(self, scores: dict[int, float], depth: int, exclude: int) -> tuple[Hit, ...]:
        ranked = sorted((-score, pmid) for pmid, score in scores.items() if pmid != exclude)
        return tuple(_hit(self.articles[pmid]) for _, pmid in ranked[:depth])

    def _dense(self, vector: Vector) -> dict[int, float]:
        return {
            pmid: float(np.dot(vector, held))
            for pmid, (_, _, held) in self._held.items()
            if held is not None
        }

    def _bm25(self, question: str) -> dict[int, float]:
        """The better of the title's score, doubled, and the abstract's; only what matches."""
        articles = self.articles
        titles = _scores(question, {pmid: a.title for pmid, a in articles.items()})
        abstracts = _scores(question, {pmid: a.abstract for pmid, a in articles.items()})
        return {
            pmid: max(2 * titles.get(pmid, 0.0), abstracts.get(pmid, 0.0))
            for pmid in titles.keys() | abstracts.keys()
        }


def _scores(question: str, texts: dict[int, str]) -> dict[int, float]:
    bags = {pmid: Counter(_words(text)) for pmid, text in texts.items()}
    lengths = {pmid: bag.total() for pmid, bag in bags.items()}
    mean = sum(lengths.values()) / max(1, len(lengths)) or 1.0
    scores: dict[int, float] = {}
    for word in set(_words(question)):
        holders = [pmid for pmid, bag in bags.items() if word in bag]
        idf = math.log(1 + (len(bags) - len(holders) + 0.5) / (len(holders) + 0.5))
        for pmid in holders:
            count = bags[pmid][word]
            norm = K1 * (1 - B + B * lengths[pmid] / mean)
            scores[pmid] = scores.get(pmid, 0.0) + idf * count / (count + norm)
    return scores


def _words(text: str) -> list[str]:
    """Lower case, without stop words, a plural's s dropped: the `english` analyzer in outline."""
    words = (word for word in re.findall(r"\w+", text.lower()) if not STOP_WORDS.fullmatch(word))
    return [word.removesuffix("s") if len(word) > 3 else word for word in words]


def _hit(article: Article) -> Hit:
    return Hit(
        pmid=article.pmid,
        title=article.title,
        abstract=article.abstract,
        mesh=article.descriptors,
    )
