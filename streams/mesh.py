"""The MeSH hierarchy: descriptors and the order ≺ over them (KAILIN, section 2).

A descriptor has several tree numbers, so it has several places in NLM's trees. The order is over
descriptors, not places: m ≺ a when a tree number of m lies under one of a's, or when a chain of
such steps leads from m to a. Where two descriptors lie under each other (Strabismus and Ocular
Motility Disorders do), they count as one class: both have the same ancestors and descendants, and
neither is an ancestor of the other.

One root, which is no descriptor, is above all. NLM's categories ("Diseases [C]") are not in the
order: they have neither a UI nor a tree number, and no record is indexed with them. So descriptors
of different top-level trees (C04 and C10) have the root alone in common.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]

_UI = re.compile(r"D\d{6,9}", re.ASCII)
_TREE_NUMBER = re.compile(r"[A-Z]\d\d(\.\d{3})*", re.ASCII)


class MeshError(ValueError):
    """MeSH data is malformed; the message is one line that names the descriptor, line or file."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A MeSH main heading: UI ("D013285"), preferred name, tree numbers ("C10.292.562.887").

    A few, such as Female, have no tree number. Raises `MeshError`.
    """

    ui: str
    name: str
    tree_numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _UI.fullmatch(self.ui):
            raise MeshError(f"descriptor UI {self.ui!r}: expected D and 6 to 9 digits")
        if not self.name:
            raise MeshError(f"descriptor {self.ui}: the name is empty")
        for number in self.tree_numbers:
            if not _TREE_NUMBER.fullmatch(number):
                raise MeshError(
                    f"descriptor {self.ui}: tree number {number!r}: expected one like C10.292.562"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """An edition of MeSH, made by `build`.

    A descriptor's row is its place in `descriptors`. `rows` finds it by UI, `names` by preferred
    name, `places` by tree number. `above[starts[i] : starts[i + 1]]` are the rows of descriptor i
    itself and of all that are above it or in its class, in rising order.
    """

    edition: str
    descriptors: tuple[Descriptor, ...]
    rows: Mapping[str, int] = field(repr=False)
    names: Mapping[str, int] = field(repr=False)
    places: Mapping[str, int] = field(repr=False)
    starts: Rows = field(repr=False)
    above: Rows = field(repr=False)

    def __len__(self) -> int:
        return len(self.descriptors)

    def find(self, ui: str) -> Descriptor | None:
        """The descriptor with this UI."""
        row = self.rows.get(ui)
        return None if row is None else self.descriptors[row]

    def named(self, name: str) -> Descriptor | None:
        """The descriptor with this preferred name, as printed."""
        row = self.names.get(name)
        return None if row is None else self.descriptors[row]

    def ancestors(self, ui: str) -> frozenset[str]:
        """The UIs of the descriptors that are strictly above this one. Raises `KeyError`."""
        row = self.rows[ui]
        return self._uis(set(self._above(row)) - set(self._below(row)))

    def descendants(self, ui: str) -> frozenset[str]:
        """The UIs of the descriptors that are strictly below this one. Raises `KeyError`."""
        row = self.rows[ui]
        return self._uis(set(self._below(row)) - set(self._above(row)))

    def class_of(self, ui: str) -> frozenset[str]:
        """The UIs of the descriptors in this one's class, itself included. Raises `KeyError`."""
        row = self.rows[ui]
        return self._uis(set(self._above(row)) & set(self._below(row)))

    def _above(self, row: int) -> list[int]:
        rows: list[int] = self.above[self.starts[row] : self.starts[row + 1]].tolist()
        return rows

    def _below(self, row: int) -> list[int]:
        at = np.flatnonzero(self.above == row)
        rows: list[int] = (np.searchsorted(self.starts, at, side="right") - 1).tolist()
        return rows

    def _uis(self, rows: Iterable[int]) -> frozenset[str]:
        return frozenset(self.descriptors[row].ui for row in rows)


def build(edition: str, descriptors: Iterable[Descriptor]) -> Mesh:
    """The hierarchy of these descriptors.

    Raises `MeshError` when there are none, or when two share a UI, a name or a tree number.
    """
    held = tuple(descriptors)
    if not held:
        raise MeshError("no descriptors")
    rows = _unique("UI", ((d.ui, row) for row, d in enumerate(held)), held)
    names = _unique("name", ((d.name, row) for row, d in enumerate(held)), held)
    numbers = ((number, row) for row, d in enumerate(held) for number in d.tree_numbers)
    places = _unique("tree number", numbers, held)
    starts, above = _closure(len(held), places)
    return Mesh(edition, held, rows, names, places, starts, above)


@dataclass(frozen=True, slots=True)
class Difference:
    """UIs of the descriptors that one edition has more than another, lacks, or has elsewhere.

    `lost` is the share of the other's descriptors that it lacks.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    lost: float


def difference(old: Mesh, new: Mesh) -> Difference:
    """How `new` differs from `old`: a descriptor has moved where its tree numbers are others."""
    places = {d.ui: frozenset(d.tree_numbers) for d in old.descriptors}
    removed = tuple(d.ui for d in old.descriptors if d.ui not in new.rows)
    return Difference(
        added=tuple(d.ui for d in new.descriptors if d.ui not in places),
        removed=removed,
        moved=tuple(
            d.ui
            for d in new.descriptors
            if d.ui in places and places[d.ui] != frozenset(d.tree_numbers)
        ),
        lost=len(removed) / len(old),
    )


def prefixes(tree_number: str) -> Iterator[str]:
    """The tree numbers that this one lies under, nearest first: C10.292.562 → C10.292, C10."""
    end = tree_number.rfind(".")
    while end > 0:
        yield tree_number[:end]
        end = tree_number.rfind(".", 0, end)


def _unique(
    what: str, keys: Iterable[tuple[str, int]], held: tuple[Descriptor, ...]
) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for key, row in keys:
        other = found.setdefault(key, row)
        if other != row:
            first, second = held[other], held[row]
            raise MeshError(
                f"descriptors {first.ui} ({first.name}) and {second.ui} ({second.name}) "
                f"have the same {what} {key}"
            )
    return MappingProxyType(found)


def _closure(size: int, places: Mapping[str, int]) -> tuple[Rows, Rows]:
    """The reflexive and transitive closure of "has a tree number under one of", as `Mesh` holds it.

    What is reached from a descriptor is searched afresh for each one, so a cycle needs no special
    care: its members reach each other, and therefore the same rows.
    """
    parents: list[set[int]] = [set() for _ in range(size)]
    for number, row in places.items():
        nearest = next((places[p] for p in prefixes(number) if p in places), None)
        if nearest is not None:
            parents[row].add(nearest)
    starts = np.zeros(size + 1, np.intp)
    above: list[int] = []
    for row in range(size):
        reached = {row}
        open_rows = [row]
        while open_rows:
            new = parents[open_rows.pop()] - reached
            reached |= new
            open_rows.extend(new)
        above.extend(sorted(reached))
        starts[row + 1] = len(above)
    flat = np.array(above, np.intp)
    starts.flags.writeable = flat.flags.writeable = False
    return starts, flat
