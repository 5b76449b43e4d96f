"""Which offsets may be committed while work finishes in another order than it was taken."""

from collections import deque


class Acks:
    """The offsets of one assignment's partitions: taken in order, finished in any, acked in order.

    A rebalance ends an assignment: begin a new `Acks` then, so that work of the old one, should it
    still finish, acks nothing.
    """

    def __init__(self) -> None:
        self._open: dict[int, deque[int]] = {}
        self._finished: dict[int, set[int]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}

    def take(self, partition: int, offset: int) -> None:
        """Work on a message begins. Offsets of a partition rise; compaction leaves gaps.

        Raises `ValueError` for an offset that does not rise.
        """
        taken = self._open.setdefault(partition, deque())
        last = taken[-1] if taken else self._next.get(partition, 0) - 1
        if offset <= last:
            raise ValueError(f"partition {partition}: offset {offset} comes after {last}")
        taken.append(offset)

    def finish(self, partition: int, offset: int) -> None:
        """Work on a message that was taken is done, and what it made is safe."""
        taken = self._open[partition]
        finished = self._finished.setdefault(partition, set())
        finished.add(offset)
        while taken and taken[0] in finished:
            first = taken.popleft()
            finished.discard(first)
            self._next[partition] = first + 1

    def ready(self) -> dict[int, int]:
        """Partition → offset to commit: the one after the last message acked; news only."""
        return {
            partition: offset
            for partition, offset in self._next.items()
            if offset != self._committed.get(partition)
        }

    def committed(self, offsets: dict[int, int]) -> None:
        """These offsets, got from `ready`, are committed."""
        self._committed.update(offsets)

    def next(self, partition: int) -> int | None:
        """The first offset of a partition that is not acked; None before anything was taken."""
        taken = self._open.get(partition)
        return taken[0] if taken else self._next.get(partition)

    def foremost(self) -> tuple[int, int] | None:
        """The partition that holds the most messages, and the offset that they wait for."""
        taken = max(self._open.items(), key=lambda held: len(held[1]), default=None)
        return (taken[0], taken[1][0]) if taken and taken[1] else None

    @property
    def held(self) -> int:
        """How many messages were taken and are not acked, finished or not."""
        return sum(len(taken) for taken in self._open.values())
