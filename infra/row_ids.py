"""The ids that tables hold: 16 bytes each, so that millions fit in memory and are found at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Ids are collected in a set and merged into the sorted array when there are this many: a lookup
# stays one binary search, and a merge, which copies the array, is seldom.
RECENT = 100_000


class RowIds:
    """A set of ids of 32 hex digits."""

    def __init__(self) -> None:
        self._sorted: NDArray[np.bytes_] = np.empty(0, dtype="S16")
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, ids: Sequence[str]) -> None:
        """Add ids, in any order; those already held change nothing."""
        # In order, as neighbours in a long array are found sooner one after the other.
        raw = np.unique(_raw(ids))
        unknown = raw[~self._in_sorted(raw)]
        if len(unknown) >= RECENT:
            self._merge(unknown)
        else:
            self._recent.update(_bytes(unknown))
        if len(self._recent) >= RECENT:
            recent, self._recent = self._recent, set()
            self._merge(np.sort(np.array(list(recent), dtype="S16")))

    def known(self, ids: Sequence[str]) -> list[bool]:
        """For each id, whether it is held."""
        raw = _raw(ids)
        found = self._in_sorted(raw)
        return [bool(hit) or id in self._recent for hit, id in zip(found, _bytes(raw), strict=True)]

    def _in_sorted(self, raw: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        if not len(self._sorted):
            return np.zeros(len(raw), dtype=bool)
        at = np.minimum(np.searchsorted(self._sorted, raw), len(self._sorted) - 1)
        return np.asarray(self._sorted[at] == raw)

    def _merge(self, unknown: NDArray[np.bytes_]) -> None:
        """Merge sorted ids that the array lacks."""
        at = np.searchsorted(self._sorted, unknown)
        self._sorted = np.insert(self._sorted, at, unknown)
        self._recent.difference_update(_bytes(unknown))


def _raw(ids: Sequence[str]) -> NDArray[np.bytes_]:
    return np.frombuffer(bytes.fromhex("".join(ids)), dtype="S16")


def _bytes(raw: NDArray[np.bytes_]) -> list[bytes]:
    # Not `tolist`, which drops the zero bytes at an id's end.
    data = raw.tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]
