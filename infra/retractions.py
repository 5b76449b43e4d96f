"""The topic `retractions` as a view in memory: whether the rows made from a record still stand.

The topic has one partition and is compacted by PMID: the newest `Retraction` of a PMID says it all.
So a row's mark is a function of that and of the row's own MeSH, whichever came first.
"""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Self

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from infra.kafka import absent, client_arguments, start, topic_name
from infra.settings import Settings
from streams.codec import decode
from streams.errors import Invalid, Transient
from streams.records import Retraction
from streams.topics import RETRACTIONS

log = logging.getLogger(__name__)

# How long a broker is waited for in the end, in seconds.
GRACE = 5.0
# Gathered in a dict, then merged into the sorted arrays, which is seldom, for it copies them.
RECENT = 100_000
# A verdict is a number: that of the reason, and above it a hash of the MeSH that still stands.
REASON_BITS = 8


class Retractions:
    """The newest retraction of each PMID, 16 bytes each."""

    def __init__(self, recent: int = RECENT) -> None:
        self._most = recent
        self._reasons: list[str | None] = [None]
        self._pmids: NDArray[np.int64] = np.empty(0, np.int64)
        self._verdicts: NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        self._merge()
        return len(self._pmids)

    def put(self, retraction: Retraction) -> None:
        """From now on, this is how the rows of its PMID stand. Raises `Invalid`."""
        self._recent[retraction.pmid] = self._verdict(retraction)
        if len(self._recent) >= self._most:
            self._merge()

    def mark(self, pmid: int, mesh: Iterable[str]) -> str | None:
        """Why a row of this PMID, made under this MeSH, does not stand; None where it does."""
        verdict = self._recent.get(pmid)
        if verdict is None:
            found = self._find(np.array([pmid], np.int64))
            verdict = int(found[0]) if found[0] >= 0 else 0
        return self._mark(verdict, mesh)

    def unlike(self, rows: pa.RecordBatch) -> list[int]:
        """The places of rows (`pmid`, `mesh`, `retracted`) whose mark is another than the view's.

        A row of a PMID that the view knows nothing of keeps its mark.
        """
        self._merge()
        verdicts = self._find(rows.column("pmid").to_numpy(zero_copy_only=False))
        meshes, marks = rows.column("mesh"), rows.column("retracted")
        return [
            place
            for place in np.flatnonzero(verdicts >= 0).tolist()
            if self._mark(int(verdicts[place]), meshes[place].as_py() or ()) != marks[place].as_py()
        ]

    def _verdict(self, retraction: Retraction) -> int:
        if retraction.reason not in self._reasons:
            if len(self._reasons) == 1 << REASON_BITS:
                raise Invalid("field", f"reason: {retraction.reason!r} is one too many")
            self._reasons.append(retraction.reason)
        number = self._reasons.index(retraction.reason)
        return number if retraction.mesh is None else number | _hash(retraction.mesh)

    def _mark(self, verdict: int, mesh: Iterable[str]) -> str | None:
        standing = verdict >> REASON_BITS
        if standing and standing == _hash(mesh) >> REASON_BITS:
            return None
        return self._reasons[verdict % (1 << REASON_BITS)]

    def _find(self, pmids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The verdicts in the arrays, −1 where there is none."""
        if not len(self._pmids):
            return np.full(len(pmids), -1, np.int64)
        at = np.minimum(np.searchsorted(self._pmids, pmids), len(self._pmids) - 1)
        return np.where(self._pmids[at] == pmids, self._verdicts[at], np.int64(-1))

    def _merge(self) -> None:
        if not self._recent:
            return
        new = np.fromiter(self._recent, np.int64, len(self._recent))
        verdicts = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        kept = ~np.isin(self._pmids, new)
        pmids = np.concatenate([self._pmids[kept], new])
        order = np.argsort(pmids)
        self._pmids = pmids[order]
        self._verdicts = np.concatenate([self._verdicts[kept], verdicts])[order]
        self._recent.clear()


def _hash(mesh: Iterable[str]) -> int:
    """55 bits over a set of descriptors, shifted past the reason; never 0. The sign stays free."""
    digest = hashlib.blake2b(" ".join(sorted(set(mesh))).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (REASON_BITS + 1) or 1) << REASON_BITS


class RetractionFeed:
    """Follows the topic into a view, without a consumer group: every worker reads all of it.

    Use as an async context manager; entering raises `BrokerUnreachable`.
    """

    def __init__(self, settings: Settings, view: Retractions) -> None:
        self._settings = settings
        self._view = view
        self._at = TopicPartition(topic_name(settings, RETRACTIONS), 0)
        self._end: int | None = None

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            **client_arguments(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # What an ingest that died has left of a transaction was never said.
            isolation_level="read_committed",
        )
        await start(self._consumer, self._settings)
        return self

    async def __aexit__(self, *exception: object) -> None:
        # aiokafka lets the cancellation of a fetch that waits for a broker out of `stop`.
        with suppress(asyncio.CancelledError, TimeoutError, KafkaError):
            await asyncio.wait_for(self._consumer.stop(), GRACE)

    async def caught_up(self) -> bool:
        """Read on; whether all that was there at the first call has been read.

        Raises `Transient` where there is no such topic, and `KafkaError` while the broker is away.
        """
        if self._end is None:
            if self._at.topic not in await self._consumer.topics():
                raise Transient("broker away", f"no topic {absent(self._settings, self._at.topic)}")
            self._consumer.assign([self._at])
            await self._consumer.seek_to_beginning(self._at)
            self._end = (await self._consumer.end_offsets([self._at]))[self._at]
        if await self._consumer.position(self._at) < self._end:
            await self._read(timeout_ms=500)
        return bool(await self._consumer.position(self._at) >= self._end)

    async def poll(self) -> Collection[int]:
        """The PMIDs about which something new has come, without waiting for any."""
        return await self._read(timeout_ms=0)

    async def _read(self, timeout_ms: int) -> set[int]:
        changed = set()
        for messages in (await self._consumer.getmany(timeout_ms=timeout_ms)).values():
            for message in messages:
                try:
                    retraction = decode(Retraction, message.value or b"")
                    self._view.put(retraction)
                    changed.add(retraction.pmid)
                except Invalid as error:
                    where = f"topic {message.topic} [0], offset {message.offset}"
                    log.error("append: %s: passed over: %s", where, error)
        return changed
