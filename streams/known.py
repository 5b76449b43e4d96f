"""What is known of every record: its packed state by PMID, for tens of millions of them.

A dict would take some 200 bytes a record; sorted arrays take 40, so the whole of PubMed fits in
1.5 GB, and in twice that for the moment of a merge.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streams.life import SIZE

# New states gather in a dict and are merged into the arrays when there are this many: a merge
# copies the arrays, so it must be seldom, and the dict is the larger the later.
RECENT = 200_000


class Known:
    """Packed states (see `streams.life`) by PMID."""

    def __init__(self, recent: int = RECENT) -> None:
        self._most = recent
        self._pmids: NDArray[np.int64] = np.empty(0, np.int64)
        self._states: NDArray[np.void] = np.empty(0, f"V{SIZE}")
        self._recent: dict[int, bytes] = {}

    def get(self, pmids: Sequence[int]) -> list[bytes | None]:
        """The state of each, None for one that is not known. Many at once are found sooner."""
        found: list[bytes | None] = [self._recent.get(pmid) for pmid in pmids]
        if not len(self._pmids):
            return found
        wanted = np.array(pmids, np.int64)
        at = np.minimum(np.searchsorted(self._pmids, wanted), len(self._pmids) - 1)
        held = self._pmids[at] == wanted
        for place in np.flatnonzero(held).tolist():
            if found[place] is None:
                found[place] = self._states[at[place]].tobytes()
        return found

    def put(self, pmid: int, state: bytes) -> None:
        """The state of a record from now on."""
        self._recent[pmid] = state
        if len(self._recent) >= self._most:
            self._merge()

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """PMIDs in rising order, and their states."""
        self._merge()
        return self._pmids, self._states

    def __len__(self) -> int:
        self._merge()
        return len(self._pmids)

    def _merge(self) -> None:
        if not self._recent:
            return
        pmids = np.fromiter(self._recent, np.int64, len(self._recent))
        states = np.frombuffer(b"".join(self._recent.values()), f"V{SIZE}")
        order = np.argsort(pmids)
        pmids, states = pmids[order], states[order]
        self._recent.clear()
        at = np.searchsorted(self._pmids, pmids)
        inside = np.minimum(at, max(len(self._pmids) - 1, 0))
        known = self._pmids[inside] == pmids if len(self._pmids) else np.zeros(len(pmids), bool)
        self._states[inside[known]] = states[known]
        self._pmids = np.insert(self._pmids, at[~known], pmids[~known])
        self._states = np.insert(self._states, at[~known], states[~known])
