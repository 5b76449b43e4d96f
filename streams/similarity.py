"""How alike descriptors and sets of descriptors are: KAILIN, equations 1 to 3.

Equation 1, IC(m) = −log(freq(m and all below it) / n), has three options for what is counted:

`intrinsic`: descriptors; n is all of the edition. The natural logarithm.

`corpus`: annotations, that is, how many records carry a descriptor; n is their sum. An annotation
counts once for its descriptor and once for each ancestor. One is added to freq and n, as DiShIn
does, so that a descriptor that no record carries has a finite IC.

`kailin`: as in the scorer that the authors published, see `_published`.

Equation 2 is Lin's similarity through the most informative common ancestor of two descriptors,
each counting as an ancestor of itself. The root has IC 0, so descriptors that share it alone have
similarity 0. IC never falls on the way down, so a similarity lies in [0, 1].

Equation 3 is the mean over all pairs of a term of the document and one of the context.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streams.mesh import Descriptor, Mesh, Rows, prefixes

Frequency = Literal["intrinsic", "corpus", "kailin"]
Terms = Literal["each", "set"]

Floats = NDArray[np.float64]

# How many of a document's terms are compared at once: bounds the scratch memory.
_BLOCK = 16

# Stands for an IC of 0 in Lin's quotient: 0/0, two descriptors that are both as general as the
# root, becomes 1 when they share one of their kind, and every other quotient stays what it is.
_ZERO = 1e-300


class Similarity:
    """Scores of one MeSH edition under one option of equation 1.

    `terms` says what a context's terms are: `each` takes those of its records one after the other,
    so that a term two records carry counts twice; `set` takes each term once. Not to be shared by
    threads, for it keeps scratch memory.
    """

    def __init__(
        self,
        mesh: Mesh,
        frequency: Frequency = "intrinsic",
        *,
        terms: Terms = "each",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """`counts` are annotations by descriptor UI, which `corpus` needs.

        UIs that the edition does not have are passed over. Raises `ValueError` where `corpus` has
        no counts, a count is negative, or all are 0.
        """
        self.edition = mesh.edition
        self.frequency: Frequency = frequency
        self.terms: Terms = terms
        self._branches = {
            descriptor.ui: "".join(sorted({number[0] for number in descriptor.tree_numbers}))
            for descriptor in mesh.descriptors
        }
        measure = _published(mesh) if frequency == "kailin" else _lin(mesh, frequency, counts)
        # By UI, its row as the bytes of an index: see `_pack`.
        self._rows = {ui: np.intp(row).tobytes() for ui, row in measure.rows.items()}
        self._content = measure.content
        self._combine = measure.combine
        self._widths = np.array([len(held) for held in measure.nodes])
        self._nodes = _padded(measure.nodes, self._widths, blank=len(measure.ranks))
        self._ranks = np.append(measure.ranks, 0).astype(np.min_scalar_type(measure.ranks.max()))
        self._scratch = np.zeros((len(self._ranks), _BLOCK), self._ranks.dtype)
        self._lanes = np.arange(_BLOCK)[:, None]

    def information_content(self, ui: str) -> float:
        """IC of one descriptor (eq. 1), at least 0. Raises `KeyError` for an unknown one."""
        content = float(self._content[_unpack(self._rows[ui])[0]])
        return 0.0 if content == _ZERO else content

    def unknown(self, descriptors: Iterable[str]) -> int:
        """How many of these UIs cannot be scored, because the edition does not have them."""
        return sum(ui not in self._rows for ui in descriptors)

    def branches(self, descriptors: Iterable[str]) -> frozenset[str]:
        """The letters of the branches of MeSH (A to Z) that these UIs lie in; known ones count."""
        return frozenset("".join(self._branches.get(ui, "") for ui in descriptors))

    def pair(self, x: str, y: str) -> float:
        """Similarity of two descriptors (eq. 2), in [0, 1]. Raises `KeyError` for unknown ones."""
        left, right = _unpack(self._rows[x]), _unpack(self._rows[y])
        return float(self._pairs(left, right)[0, 0])

    def document_score(self, document: Sequence[str], context: Sequence[str]) -> float | None:
        """The score of one context, see `document_scores`."""
        (score,) = self.document_scores(document, [context])
        return score

    def document_scores(
        self, document: Sequence[str], contexts: Iterable[Sequence[str]]
    ) -> list[float | None]:
        """By context, the mean similarity of all its pairs of descriptor UIs (eq. 3), in [0, 1].

        UIs that the edition does not have are passed over; None where a side has none left. All
        contexts of a document are compared at once, which costs less than one after the other.
        """
        left = _unpack(self._pack(document))
        packed = [self._pack(context) for context in contexts]
        right = _unpack(b"".join(packed))
        if not left.size or not right.size:
            return [None] * len(packed)
        sums = np.zeros(right.size)
        for start in range(0, left.size, _BLOCK):
            sums += np.add.reduce(self._pairs(left[start : start + _BLOCK], right), axis=0)
        of_terms = iter(sums.tolist())
        sizes = [len(rows) // right.itemsize for rows in packed]
        return [
            sum(islice(of_terms, size)) / (left.size * size) if size else None for size in sizes
        ]

    def _pack(self, descriptors: Iterable[str]) -> bytes:
        """The rows of the known descriptors, one after the other, as `_unpack` reads them.

        Look-ups take much of a call's time, and joining bytes is the quickest way from UIs to an
        array. An unknown UI gives no bytes and so is left out.
        """
        if self.terms == "set":
            descriptors = dict.fromkeys(descriptors)
        return b"".join(map(self._rows.get, descriptors, repeat(b"")))

    def _pairs(self, left: Rows, right: Rows) -> Floats:
        """Similarities of at most `_BLOCK` rows with others, shape (left, right)."""
        x, y = self._content.take(left)[:, None], self._content.take(right)
        return self._combine(self._highest_common(left, right), x, y)

    def _highest_common(self, left: Rows, right: Rows) -> Rows:
        """The highest rank among the nodes that two rows share, 0 where they share none.

        Scratch memory has a line a node and in it a place for each row on the left. Those rows
        write the ranks of their nodes; each row on the right gathers the lines of its own nodes
        and keeps the maximum. Ranks are small integers, so a line is 32 bytes: one load a node for
        all of the left.
        """
        mine = self._nodes.take(left, axis=0)[:, : np.maximum.reduce(self._widths.take(left))]
        theirs = self._nodes.take(right, axis=0)[:, : np.maximum.reduce(self._widths.take(right))]
        written = mine * np.intp(_BLOCK) + self._lanes[: left.size]
        places = self._scratch.reshape(-1)
        places[written] = self._ranks.take(mine)
        # The indices are our own, so they need no check: `clip` is the fastest mode.
        lines = self._scratch.take(theirs.T, axis=0, mode="clip")
        common: Rows = np.maximum.reduce(lines, axis=0)
        places[written] = 0
        return common.T[: left.size]


def _unpack(rows: bytes) -> Rows:
    return np.frombuffer(rows, np.intp)


def annotation_counts(records: Iterable[Iterable[str]]) -> Counter[str]:
    """How many records carry each descriptor, from the descriptor UIs of each record."""
    return Counter(ui for descriptors in records for ui in set(descriptors))


@dataclass(frozen=True, slots=True)
class _Measure:
    """What makes a similarity.

    `rows` are the descriptors that can be compared, and of each of them, in that order, `content`
    is the IC and `nodes` are what it may share with another. `ranks` order the nodes, from 1, by
    how much sharing them says. `combine` makes similarities of the highest rank that is shared
    (0 for none) and of the two descriptors' IC.
    """

    rows: Mapping[str, int]
    content: Floats
    nodes: Sequence[Rows]
    ranks: Rows
    combine: Callable[[Rows, Floats, Floats], Floats]


def _lin(mesh: Mesh, frequency: Frequency, counts: Mapping[str, int] | None) -> _Measure:
    """Equation 2: nodes are the descriptors above, ranked by IC."""
    content = np.maximum(_content(mesh, frequency, counts), _ZERO)
    nodes = np.split(mesh.above, mesh.starts[1:-1])
    levels, ranks = np.unique(content, return_inverse=True)
    doubled = 2 * np.append(0.0, levels)

    def quotient(shared: Rows, x: Floats, y: Floats) -> Floats:
        similarity: Floats = doubled.take(shared) / (x + y)
        return similarity

    return _Measure(mesh.rows, content, nodes, ranks + 1, quotient)


def _content(mesh: Mesh, frequency: Frequency, counts: Mapping[str, int] | None) -> Floats:
    """Equation 1 by row, for the options that count over the order ≺."""
    own = np.ones(len(mesh))
    smoothing = 0
    if frequency == "corpus":
        if counts is None:
            raise ValueError("frequency corpus needs annotation counts")
        own = np.array([counts.get(d.ui, 0) for d in mesh.descriptors], np.float64)
        if own.min() < 0:
            wrong = mesh.descriptors[int(own.argmin())].ui
            raise ValueError(f"the annotation count of {wrong} is below 0")
        if not own.any():
            raise ValueError(f"no annotation count is of a descriptor of MeSH {mesh.edition}")
        smoothing = 1
    below = np.bincount(mesh.above, np.repeat(own, np.diff(mesh.starts)), len(mesh))
    content: Floats = -np.log((below + smoothing) / (own.sum() + smoothing))
    return np.maximum(content, 0.0)


def _published(mesh: Mesh) -> _Measure:
    """What the authors' published scorer counts and compares.

    Reproduced: IC is −log10 of the descriptors below, the descriptor itself excluded, over all;
    a leaf gets 0. Two descriptors meet at the longest tree number that a tree number of each
    begins with. That one's IC is normalised, the two descriptors' own IC is not, and the result is
    the mean of the similarities of Lin, of Jiang and Conrath, and of Schlicker ("Rel").

    Where the description leaves a choice: "below" means with a tree number under one of the
    descriptor's, each descriptor counted once; IC is normalised by the greatest of the edition; of
    two meeting places of the same length, the more informative is taken; a descriptor without a
    tree number has no place to meet at and is unknown; each of the three similarities is held to
    [0, 1], with a distance below 0 counted as 0 and a quotient over 0 as 0. An empty list, which
    gives NaN there, gives no score here.

    Nodes are tree numbers, ranked by length and then IC.
    """
    held = [d for d in mesh.descriptors if d.tree_numbers]
    if not held:
        raise ValueError(f"MeSH {mesh.edition} has no tree numbers, which frequency kailin needs")
    rows = {d.ui: row for row, d in enumerate(held)}
    holders = {number: row for row, d in enumerate(held) for number in d.tree_numbers}
    share = _count_below(held, holders) / len(mesh)
    content = -np.log10(np.where(share > 0, share, 1.0))

    node = {number: place for place, number in enumerate(holders)}
    nodes = []
    for d in held:
        within = {p for number in d.tree_numbers for p in (number, *prefixes(number))}
        nodes.append(np.array([node[p] for p in within if p in node], np.intp))

    keys = [(len(number), content[row], share[row]) for number, row in holders.items()]
    levels = sorted(set(keys))
    rank = {key: place for place, key in enumerate(levels, 1)}
    ranks = np.array([rank[key] for key in keys], np.intp)
    # Rank 0, no meeting place, is the root: it has no information and everything lies below it.
    normalised = np.array([0.0, *(ic for _, ic, _ in levels)]) / (content.max() or 1.0)
    met = np.array([1.0, *(part for _, _, part in levels)])

    def lin_jiang_rel(shared: Rows, x: Floats, y: Floats) -> Floats:
        double, own = 2 * normalised.take(shared), x + y
        lin = np.minimum(np.divide(double, own, out=np.zeros_like(double), where=own > 0), 1.0)
        jiang = 1 / (1 + np.maximum(own - double, 0.0))
        rel = lin * (1 - met.take(shared))
        mean: Floats = (lin + jiang + rel) / 3
        return mean

    return _Measure(rows, content, nodes, ranks, lin_jiang_rel)


def _count_below(held: Sequence[Descriptor], holders: Mapping[str, int]) -> Floats:
    """By row, how many other descriptors have a tree number under one of this one's."""
    pairs = {
        (holders[prefix], row)
        for number, row in holders.items()
        for prefix in prefixes(number)
        if prefix in holders and holders[prefix] != row
    }
    return np.bincount([upper for upper, _ in pairs], minlength=len(held)).astype(np.float64)


def _padded(nodes: Sequence[Rows], widths: Rows, blank: int) -> Rows:
    """The nodes of each row, then `blank` up to the length of the longest."""
    table = np.full((len(nodes), int(widths.max())), blank, np.min_scalar_type(blank))
    table[np.arange(table.shape[1]) < widths[:, None]] = np.concatenate(nodes)
    return table
