"""Decides what each citation is and publishes it, with the progress it makes, in one transaction.

Whatever is killed and whenever, `pubmed.articles`, `retractions` and `ingest.progress` agree: a
file's position never says more or less than what is published of it. What is known of the records
is a view of `pubmed.articles`, read from its beginning when a writer is opened.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from numpy.typing import NDArray

from consumers import spans
from consumers.delivery import BATCH_OVERHEAD, broker_away, key_and_value
from infra.arrivals import Arrival, Portion
from infra.kafka import LARGEST, client_arguments, end_producer, start, topic_name
from infra.settings import Settings
from infra.turn import Turn, TurnLost
from streams.citation import Article
from streams.codec import decode, with_change
from streams.errors import Invalid, Transient
from streams.known import Known
from streams.life import MESH_CHANGED, State, decide, pack, settle, state_of, unpack, withdrawn
from streams.records import Progress, Retraction, Unread
from streams.topics import ARTICLES, MIB, PROGRESS, RETRACTIONS, Topic

log = logging.getLogger(__name__)

STATE = "state"
# What changes nothing and is not published.
SILENT = ("unchanged", "older")
# Citations that fail are listed by PMID with a reason, as many as fit a message; all are counted.
MOST_REASON, MOST_LISTED = 200, 700_000
# Seconds for the broker to end a transaction whose process is gone.
TRANSACTION_TIMEOUT = 60.0


class Writer:
    """The one process of a deployment that writes `pubmed.articles`, from `open` to `close`.

    To be ended with `end`.

    `progress` holds what was committed for every file and window, by id.
    """

    def __init__(self, settings: Settings, turn: Turn) -> None:
        self._settings = settings
        self._turn = turn
        self._known = Known()
        self._producer: AIOKafkaProducer | None = None
        self._reader: AIOKafkaConsumer | None = None
        self.progress: dict[str, Progress] = {}

    @property
    def is_open(self) -> bool:
        return self._producer is not None

    async def open(self) -> None:
        """Shut out whoever wrote before, and learn all that was committed.

        Call it when it is this process's turn. Raises `BrokerUnreachable`, `Transient`.
        """
        producer = AIOKafkaProducer(
            **client_arguments(self._settings),
            transactional_id=f"{self._settings.kafka.prefix}kailin.ingest",
            transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
            linger_ms=5,
            request_timeout_ms=40_000,
            max_batch_size=256 * 1024,
            max_request_size=LARGEST + MIB,
        )
        # Starting it ends any transaction that was left open, one way or the other.
        await start(producer, self._settings)
        self._producer = producer
        try:
            await self._catch_up()
        except KafkaError as error:
            await self.close()
            raise _verdict(error) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write no more; what is known is kept, so that the next `open` is quick."""
        producer, self._producer = self._producer, None
        if producer:
            await end_producer(producer)

    async def end(self) -> None:
        """Write no more, and know nothing any more."""
        await self.close()
        if self._reader:
            await self._reader.stop()

    async def commit(self, portion: Portion, progress: Progress) -> Progress:
        """Publish what a portion changes, and the progress with it; returns that.

        The counts and the position of `progress` grow by the portion. Raises `TurnLost`, and
        `Transient` where Kafka fails: then call `close` and `open`, and look in `progress` whether
        it was committed in spite of that.
        """
        await self._turn.check()
        changed: dict[int, bytes] = {}
        messages: list[_Message] = []
        counts: Counter[str] = Counter(progress.counts)
        unread = list(portion.unread)
        held = self._known.get([arrival.pmid for arrival in portion.arrivals])
        for arrival, before in zip(portion.arrivals, held, strict=True):
            try:
                change = self._decide(arrival, changed.get(arrival.pmid, before), changed, messages)
            except Invalid as invalid:
                unread.append(Unread(pmid=arrival.pmid, reason=str(invalid)))
            else:
                counts[change] += 1
        if unread:
            counts["failed"] += len(unread)
        if portion.passed:
            counts["unchanged"] += portion.passed
        made = replace(
            progress,
            position=progress.position + portion.entries,
            counts=dict(counts),
            unread=_listed(progress.unread, unread),
            at=datetime.now(UTC),
        )
        await self._publish(messages, made)
        self._trace(messages)
        for pmid, state in changed.items():
            self._known.put(pmid, state)
        return made

    def _decide(
        self,
        arrival: Arrival,
        packed: bytes | None,
        changed: dict[int, bytes],
        messages: "list[_Message]",
    ) -> str:
        before = unpack(packed) if packed else None
        incoming = arrival.state
        change = decide(incoming, before)
        if change in SILENT:
            return change
        after = settle(incoming, before)
        state = pack(after)
        key = b"%d" % arrival.pmid
        value = None if arrival.message is None else with_change(arrival.message, change)
        size = len(key) + len(value or b"") + len(state) + BATCH_OVERHEAD
        if size > ARTICLES.max_message:
            raise Invalid(
                "too large",
                f"{size:,} bytes, and topic {self._name(ARTICLES)} takes "
                f"{ARTICLES.max_message:,} at most",
            )
        made: list[_Message] = [(ARTICLES, key, value, [(STATE, state)])]
        alters, reason = withdrawn(change, before, after)
        if alters:
            retraction = _retraction(arrival, reason)
            made.append(
                (RETRACTIONS, *key_and_value(RETRACTIONS, retraction, RETRACTIONS.name), [])
            )
        messages += made
        changed[arrival.pmid] = state
        return change

    def deletions(self, pmids: Sequence[int]) -> tuple[Arrival, ...]:
        """What deletes records that are known."""
        states = self._known.get(pmids)
        return tuple(
            Arrival(pmid, replace(unpack(state), deleted=True), None)
            for pmid, state in zip(pmids, states, strict=True)
            if state
        )

    def holding(self, prefix: str) -> list[Progress]:
        """The progress with such ids that keeps the PMIDs of a file."""
        return [p for id, p in self.progress.items() if id.startswith(prefix) and p.held]

    def held(self, pmids: Sequence[int]) -> set[int]:
        """Which of these records are known and not deleted."""
        states = self._known.get(pmids)
        return {
            pmid
            for pmid, state in zip(pmids, states, strict=True)
            if state and not unpack(state).deleted
        }

    def not_in(self, pmids: NDArray[np.int64], before_order: int) -> list[int]:
        """PMIDs of records that are none of these and came last from a file before this order."""
        known, states = self._known.all()
        others = np.flatnonzero(~np.isin(known, pmids))
        found = []
        for place in others.tolist():
            at = unpack(states[place].tobytes())
            if not at.deleted and 0 < at.order < before_order:
                found.append(int(known[place]))
        return found

    async def _publish(self, messages: "Sequence[_Message]", progress: Progress) -> None:
        """One transaction: messages, then progress."""
        producer = cast(AIOKafkaProducer, self._producer)
        key, value = key_and_value(PROGRESS, progress, PROGRESS.name)
        try:
            # One that fails is not aborted here: whoever opens a writer next does that.
            await producer.begin_transaction()
            sent = [
                await producer.send(self._name(topic), value, key=key, headers=headers)
                for topic, key, value, headers in (*messages, (PROGRESS, key, value, []))
            ]
            await asyncio.gather(*sent)
            await producer.commit_transaction()
        except ProducerFenced:
            raise TurnLost from None
        except KafkaError as error:
            raise _verdict(error) from error
        self.progress[progress.id] = progress

    def _trace(self, messages: "Sequence[_Message]") -> None:
        """Begin the trace of each record that is published."""
        for topic, key, value, _ in messages if spans.on() else ():
            if topic is ARTICLES and value is not None:
                # A quotation mark within a value is escaped, so this is the field and no text.
                at = value.partition(b'"arrived":"')[2].partition(b'"')[0].decode()
                change = value.rpartition(b'"change":"')[2].partition(b'"')[0].decode()
                spans.arrived(int(key), datetime.fromisoformat(at), change)

    def _name(self, topic: Topic) -> str:
        return topic_name(self._settings, topic)

    async def _catch_up(self) -> None:
        """Read what was committed since this writer last looked."""
        if self._reader is None:
            reader = AIOKafkaConsumer(
                **client_arguments(self._settings),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=4 * MIB,
            )
            await start(reader, self._settings)
            reader.assign(
                [
                    TopicPartition(self._name(topic), number)
                    for topic in (ARTICLES, PROGRESS)
                    for number in range(topic.partitions)
                ]
            )
            self._reader = reader
        began, read = time.monotonic(), 0
        partitions = list(self._reader.assignment())
        ends = await self._reader.end_offsets(partitions)
        while any([await self._reader.position(p) < end for p, end in ends.items()]):
            for partition, messages in (await self._reader.getmany(timeout_ms=200)).items():
                read += len(messages)
                learn = self._learn_progress
                if partition.topic == self._name(ARTICLES):
                    learn = self._learn_state
                for message in messages:
                    learn(message)
        seconds = time.monotonic() - began
        if seconds > 5:
            log.info("%d messages of what is known replayed in %.0f s", read, seconds)

    def _learn_state(self, message: ConsumerRecord) -> None:
        try:
            pmid = int(message.key or b"")
            packed = dict(message.headers).get(STATE)
            if packed is not None:
                unpack(packed)
            elif message.value is None:
                packed = pack(State(version=0, deleted=True))
            else:
                packed = pack(state_of(decode(Article, message.value)))
        except (Invalid, ValueError):
            # The stages set such a message aside; nothing is known by it.
            return
        self._known.put(pmid, packed)

    def _learn_progress(self, message: ConsumerRecord) -> None:
        id = (message.key or b"").decode(errors="replace")
        if message.value is None:
            self.progress.pop(id, None)
            return
        try:
            self.progress[id] = decode(Progress, message.value)
        except Invalid as invalid:
            log.warning("%s: progress %s is unreadable: %s", self._name(PROGRESS), id, invalid)


_Message = tuple[Topic, bytes, bytes | None, list[tuple[str, bytes]]]


def _listed(before: Sequence[Unread], more: Sequence[Unread]) -> tuple[Unread, ...]:
    """What is listed already and as much more as there is room for."""
    listed = [*before, *(replace(unread, reason=unread.reason[:MOST_REASON]) for unread in more)]
    while listed and len(orjson.dumps(listed)) > MOST_LISTED:
        del listed[len(listed) * 9 // 10 :]
    return tuple(listed)


def _retraction(arrival: Arrival, reason: str | None) -> Retraction:
    """Which rows stand; of a record that has MeSH, only those made under what it has now."""
    now = datetime.now(UTC)
    if reason in (None, MESH_CHANGED) and arrival.message:
        article = decode(Article, arrival.message)
        if article.mesh:
            mesh = article.descriptors
            return Retraction(pmid=arrival.pmid, reason=MESH_CHANGED, mesh=mesh, at=now)
    return Retraction(pmid=arrival.pmid, reason=reason, at=now)


def _verdict(error: KafkaError) -> Exception:
    """What a failure of Kafka amounts to; one that no waiting mends stays itself."""
    if isinstance(error, ProducerFenced):
        return TurnLost()
    return Transient("broker away", repr(error)) if broker_away(error) else error
