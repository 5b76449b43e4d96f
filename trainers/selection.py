"""Which preference rows a job trains on, by policy.

The table is read twice. The first reading takes a few columns and keeps 20 bytes a row; from them
follow bounds on a row's hashes, so that in the second reading each row tells by itself whether it
is chosen. The choice is a function of the row ids, the policy and the seed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from trainers.config import Selection
from trainers.errors import DataError
from trainers.rows import Pinned
from trainers.split import held_out

Row = Mapping[str, Any]
Side = Literal["train", "held out"]

COLUMNS = (
    "id",
    "pmid",
    "mesh",
    "score_chosen",
    "score_rejected",
    "generator_chosen",
    "generator_rejected",
    "revision_chosen",
    "revision_rejected",
    "appended",
)
STANDING = "retracted IS NULL"

# The letters of MeSH's branches; a row none of whose descriptors is known counts under the last.
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ?"
_UNKNOWN: Final = "?"
_ALL: Final = (1 << 64) - 1

_Hashes = npt.NDArray[np.uint64]
_Masks = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The policy and all else that a choice follows from.

    `branches` has the letters of each descriptor's branches by UI.
    """

    policy: Selection
    held_out: float
    excluded: frozenset[int]
    branches: Mapping[str, str]
    seed: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Tells of each row whether it is chosen.

    `since` is the earliest time of appending. `rarest` has the letters from the rarest branch to
    the most frequent; `within` bounds the first hash of a training row by its branch, and `train`
    and `kept` the second one of a training and a held-out row.
    """

    wanted: Wanted
    since: datetime | None
    rarest: str
    within: Mapping[str, int]
    train: int
    kept: int

    def branch(self, row: Row) -> str:
        """The rarest of a row's branches."""
        letters = _letters(row, self.wanted.branches)
        return next(letter for letter in self.rarest if letter in letters)

    def place(self, row: Row) -> tuple[Side | None, str]:
        """The side that a row is on, or None and the reason why it is on none.

        `row` has all of `COLUMNS`.
        """
        reason = _unfit(row, self.wanted, self.since)
        if reason is not None:
            return None, reason
        first, second = _hashes(row["id"], self.wanted.seed)
        if held_out(row["pmid"], self.wanted.held_out):
            return ("held out", "") if second <= self.kept else (None, "held out, over the most")
        if first > self.within[self.branch(row)]:
            return None, "over the share of its branch"
        return ("train", "") if second <= self.train else (None, "over the most")


def choose(table: Pinned, wanted: Wanted) -> Choice:
    """The choice among the standing rows of a table.

    Margin, age and revisions hold for both sides; the share of branches and the number are of the
    training rows, and of those held out there are at most so many as keeps the split's proportion.
    A row of several branches counts in the rarest of them, the one that a bound on the frequent
    ones is there to favour: so every row counts once, and the shares add up to one. Age is counted
    from the newest row, so that a version of the table always gives the same rows.
    Raises `DataError`, also where so few branches occur that the share cannot be kept.
    """
    policy = wanted.policy
    since = None
    if policy.days is not None:
        newest = _newest(table)
        since = newest - timedelta(days=policy.days) if newest else None
    masks, first, second = bytearray(), bytearray(), bytearray()
    kept = bytearray()
    for row in _light_rows(table):
        if _unfit(row, wanted, since) is not None:
            continue
        one, other = _hashes(row["id"], wanted.seed)
        if held_out(row["pmid"], wanted.held_out):
            kept += other.to_bytes(8, "little")
            continue
        masks += _mask(_letters(row, wanted.branches)).to_bytes(4, "little")
        first += one.to_bytes(8, "little")
        second += other.to_bytes(8, "little")
    rarest, within, train = _bounds(
        np.frombuffer(masks, "<u4"),
        np.frombuffer(first, "<u8"),
        np.frombuffer(second, "<u8"),
        policy,
    )
    share = wanted.held_out
    most_kept = None if policy.most is None else int(np.ceil(policy.most * share / (1 - share)))
    return Choice(
        wanted, since, rarest, within, train, _lowest(np.frombuffer(kept, "<u8"), most_kept)
    )


def read_branches(path: Path) -> dict[str, str]:
    """The letters of each descriptor's branches: UI, a tab and the letters on each line.

    Raises `DataError` naming the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise DataError(f"{path}: cannot be read: {reason}") from None
    branches = {}
    for number, line in enumerate(lines, 1):
        ui, tab, letters = line.strip().partition("\t")
        if not (tab and ui and letters and set(letters) < set(_LETTERS)):
            raise DataError(
                f"{path}: line {number}: expected a descriptor's UI, a tab and the letters of its "
                f"branches, got {line[:40]!r}"
            )
        branches[ui] = letters
    return branches


def _light_rows(table: Pinned) -> Iterator[Row]:
    for batch in table.batches(COLUMNS, STANDING):
        yield from batch.to_pylist()


def _newest(table: Pinned) -> datetime | None:
    times = (max(batch.column(0).to_pylist()) for batch in table.batches(["appended"], STANDING))
    return max(times, default=None)


def _unfit(row: Row, wanted: Wanted, since: datetime | None) -> str | None:
    """Why a row is on neither side, whatever the others are."""
    if row["pmid"] in wanted.excluded:
        return "excluded PMID"
    if row["score_chosen"] - row["score_rejected"] < wanted.policy.margin:
        return "under the margin"
    if since is not None and row["appended"] < since:
        return "too old"
    for side in ("chosen", "rejected"):
        revisions = wanted.policy.revisions.get(row[f"generator_{side}"])
        if revisions is not None and row[f"revision_{side}"] not in revisions:
            return "another revision of its generator"
    return None


def _hashes(id: str, seed: int) -> tuple[int, int]:
    """Two numbers of 64 bits: one decides within a branch, the other over all."""
    digest = hashlib.blake2b(b"%d\x00%s" % (seed, id.encode()), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def _letters(row: Row, branches: Mapping[str, str]) -> str:
    return "".join(branches.get(ui, "") for ui in row["mesh"] or ()) or _UNKNOWN


def _mask(letters: str) -> int:
    mask = 0
    for letter in letters:
        mask |= 1 << _LETTERS.index(letter)
    return mask


def _bounds(
    masks: _Masks, first: _Hashes, second: _Hashes, policy: Selection
) -> tuple[str, dict[str, int], int]:
    """What `rarest`, `within` and `train` of a `Choice` are."""
    counts = {letter: int((masks >> bit & 1).sum()) for bit, letter in enumerate(_LETTERS)}
    rarest = "".join(sorted(_LETTERS, key=lambda letter: (counts[letter], letter)))
    within: dict[str, int] = {}
    left = np.ones(len(masks), bool)
    of_branch = {}
    for letter in rarest:
        mine = left & (masks >> _LETTERS.index(letter) & 1).astype(bool)
        of_branch[letter] = np.flatnonzero(mine)
        left &= ~mine
    largest = _largest_branch(
        [len(rows) for rows in of_branch.values()], policy.branch_share, policy.most
    )
    chosen = np.zeros(len(masks), bool)
    for letter, rows in of_branch.items():
        within[letter] = _lowest(first[rows], largest)
        chosen[rows[first[rows] <= within[letter]]] = True
    return rarest, within, _lowest(second[chosen], policy.most)


def _largest_branch(sizes: list[int], share: float, most: int | None) -> int:
    """The most rows that a branch may give, so that it is no more than `share` of all chosen."""
    total = sum(sizes)
    if share == 1 or not total:
        return max(sizes, default=0)
    occurring = sum(size > 0 for size in sizes)
    if occurring * share < 1:
        raise DataError(
            f"selection.branch_share: expected {1 / occurring:.2f} or more, since the rows are of "
            f"{occurring} MeSH branch{'es' if occurring > 1 else ''}, got {share}"
        )
    if most is not None:
        total = min(total, most)
    # A smaller bound leaves the larger branches a smaller share: the largest that is kept to.
    low, high = 1, max(1, int(share * total))
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(size, middle) for size in sizes):
            low = middle
        else:
            high = middle - 1
    return low


def _lowest(hashes: _Hashes, most: int | None) -> int:
    """The bound under or at which `most` of the hashes lie."""
    if most is None or len(hashes) <= most:
        return _ALL
    return int(np.partition(hashes, most - 1)[most - 1])
