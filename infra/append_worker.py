"""The append stage: the topics `preferences` and `ideal` into the Delta tables, exactly once.

It goes by the offsets that the tables hold, not by Kafka's, which are committed for lag monitoring
only. `kailin run append` starts it.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from consumers.dead_letters import DeadLetterLimit
from consumers.delivery import broker_away
from consumers.stage import (
    DONE,
    FAILED,
    METADATA_MS,
    MISCONFIGURED,
    TOO_MANY_DEAD_LETTERS,
    Policy,
)
from infra.acls import check_allowed
from infra.append_batch import Read, dead, read, trace
from infra.append_offsets import OffsetsLost, lost, report_gap
from infra.delta_sink import DeltaSink
from infra.kafka import (
    BrokerUnreachable,
    Publisher,
    client_arguments,
    group_name,
    start,
    topic_name,
)
from infra.pause import going
from infra.retractions import RetractionFeed, Retractions
from infra.settings import Settings
from infra.sink_table import LEADS_TO, Fenced, Position
from infra.table_maintenance import tidying
from infra.tables import TableError
from streams.errors import Invalid, Transient
from streams.learning import TrainingData
from streams.metrics import Metrics
from streams.topics import DEAD_LETTERS, TRAINING_DATA

log = logging.getLogger(__name__)

T = TypeVar("T")

STAGE = "append"
POLL_MS = 500
# How long Kafka is waited for where nothing depends on its answer, in seconds.
GRACE = 5.0
# Marking rewrites whole files, so it is given a part of the time, one in so many seconds, and so
# many PMIDs at a time, the lowest first: neighbours are in the same files.
MARKING_SHARE = 10
MARKED_AT_ONCE = 5000
# How often what other writers have done to the tables is looked at, in seconds.
LOOK_EVERY = 30.0


class Stopped(Exception):
    """The worker was asked to stop while it waited for a component."""


async def run(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> int:
    """Append until `stop` is set. Returns the exit status of the stage.

    0 when stopped, 1 when Kafka refuses, 2 when the tables are not usable or were filled from
    another topic, 3 when there were too many dead letters; the reason is logged as one line. A
    broker or a store of the tables that is away is waited for. Raises `SettingsError`.
    """
    try:
        async with AsyncExitStack() as stack:
            worker = _Worker(settings, metrics, stop)
            await worker.connect(stack)
            return await worker.work()
    except Stopped:
        return DONE
    except (OffsetsLost, TableError) as error:
        log.error("append: %s", error)
        return MISCONFIGURED
    except Invalid as error:
        log.error("append: %s", error)
    except KafkaError as error:
        log.error("append: Kafka refuses: %s", error)
    return FAILED


class _Worker(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
        self._settings = settings
        self._metrics = metrics
        self._stop = stop
        # By what the broker calls them.
        self._topics = {topic_name(settings, topic): topic for topic in LEADS_TO}
        retractions = Retractions()
        self._feed = RetractionFeed(settings, retractions)
        self._sink = DeltaSink(settings, metrics, retractions)
        # PMIDs about whose rows something new has come, and when they are next looked for.
        self._changed: set[int] = set()
        self._mark_at = 0.0
        self._look_at = 0.0
        self._limit = DeadLetterLimit(
            settings.workers.dead_letter_limit, settings.workers.dead_letter_window
        )
        # Grows whenever the partitions, or where to read on in them, have to be looked at anew;
        # what was read before that is dropped.
        self._generation = 0
        # For each partition: the offset that comes next, where the tables were when it was placed,
        # and the last offset that both of them hold.
        self._next: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, list[Position | None]] = {}
        self._done: dict[TopicPartition, int] = {}
        self._telling: set[asyncio.Task[None]] = set()
        # When the oldest message in hand was written (Unix time).
        self._oldest = math.inf
        metrics.behind.labels(STAGE).set_function(lambda: max(0.0, time.time() - self._oldest))

    async def connect(self, stack: AsyncExitStack) -> None:
        """Read the retractions, open the tables and join the consumer group.

        What is away is waited for.
        """
        await self._patiently(lambda: check_allowed(self._settings, STAGE))
        await self._patiently(lambda: stack.enter_async_context(self._feed))
        while not await self._patiently(self._feed.caught_up):
            if self._stop.is_set():
                raise Stopped
        await self._patiently(lambda: asyncio.to_thread(self._sink.open))
        await stack.enter_async_context(tidying(self._settings))
        self._publisher = await self._patiently(
            lambda: stack.enter_async_context(Publisher(self._settings))
        )
        self._going = await self._patiently(
            lambda: stack.enter_async_context(going(self._settings, STAGE, self._metrics))
        )
        stack.push_async_callback(self._told)
        self._consumer = await self._patiently(self._join)
        stack.push_async_callback(self._leave)

    async def _join(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            group_id=group_name(self._settings, STAGE),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            # A worker that is started again takes its own place at once: the broker need not first
            # find out that the one before it has died.
            group_instance_id=f"{socket.gethostname()}-{self._settings.ports.append}",
            metadata_max_age_ms=METADATA_MS,
            max_partition_fetch_bytes=2 * max(topic.max_message for topic in LEADS_TO),
            **client_arguments(self._settings),
        )
        consumer.subscribe(list(self._topics), listener=self)
        await start(consumer, self._settings)
        return consumer

    async def _leave(self) -> None:
        try:
            await asyncio.wait_for(self._consumer.stop(), GRACE)
        except (TimeoutError, KafkaError, asyncio.CancelledError) as error:
            # aiokafka lets the cancellation of a fetch that waits for a broker out of `stop`.
            log.warning("append: left the consumer group without a goodbye: %r", error)

    # Called by aiokafka in a rebalance. The seeking is left to the main loop, which can wait for
    # the tables without holding up the group.
    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._generation += 1

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._generation += 1

    async def work(self) -> int:
        """Read and append until told to stop; the exit status."""
        log.info("append: working, tables at %s", self._settings.tables_uri)
        most, longest = self._settings.append.rows, self._settings.append.seconds
        placed = -1
        batch: list[ConsumerRecord] = []
        due = 0.0
        while not self._stop.is_set():
            if placed != self._generation:
                batch = []
                placed = self._generation
                await self._patiently(self._seek)
                continue
            paused = self._hold()
            read = await self._patiently(lambda: self._read(most - len(batch)))  # noqa: B023
            if placed != self._generation:
                continue
            if read and not batch:
                due = time.monotonic() + longest
            batch += read
            self._in_hand(batch)
            if batch and (paused or len(batch) >= most or time.monotonic() >= due):
                status, batch = await self._append(batch), []
                if status != DONE:
                    return status
            if not paused:
                await self._mark()
            await self._show_lag(ask=paused)
        return await self._append(batch) if batch and placed == self._generation else DONE

    def _hold(self) -> bool:
        """Whether the stage is paused; then nothing is fetched, and the group keeps its member."""
        paused = not self._going.is_set()
        fetch = self._consumer.pause if paused else self._consumer.resume
        fetch(*self._consumer.assignment())
        return paused

    async def _seek(self) -> None:
        """Put every partition of this worker where the tables are. Raises `OffsetsLost`."""
        generation, assigned = self._generation, self._consumer.assignment()
        await asyncio.to_thread(self._sink.refresh)
        held = await asyncio.to_thread(
            lambda: {partition: self._sink.positions(partition) for partition in assigned}
        )
        first = await self._consumer.beginning_offsets(assigned) if assigned else {}
        end = await self._consumer.end_offsets(assigned) if assigned else {}
        if generation != self._generation or assigned != self._consumer.assignment():
            self._generation += 1
            return
        self._next, self._held, self._done = {}, held, {}
        for partition in assigned:
            offsets = [at.offset if at else -1 for at in held[partition]]
            if max(offsets) >= end[partition]:
                raise lost(
                    self._settings,
                    partition,
                    self._held[partition],
                    f"ends at offset {end[partition] - 1}",
                )
            done = min(offsets)
            if done >= 0 and first[partition] > done + 1:
                report_gap(partition, done + 1, first[partition])
            # The last message that the tables hold is read again, to see that it is the same one.
            self._next[partition] = max(done, first[partition])
            self._done[partition] = done
            self._consumer.seek(partition, self._next[partition])
        self._metrics.consumer_lag.clear()

    async def _read(self, most: int) -> list[ConsumerRecord]:
        """Up to `most` messages, in order for each partition. Raises `OffsetsLost`."""
        generation = self._generation
        found = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=most)
        if generation != self._generation:
            return []
        messages = [(at, message) for at, some in found.items() for message in some]
        try:
            return [message for at, message in messages if await self._follows(at, message)]
        except KafkaError:
            # They would not come again.
            self._generation += 1
            raise

    async def _follows(self, partition: TopicPartition, message: ConsumerRecord) -> bool:
        """Whether a message is one to go on with; else the partitions are placed anew."""
        expected = self._next.get(partition)
        if expected is None or message.offset < expected:
            self._generation += 1
            return False
        if message.offset > expected:
            # The marker that ends a transaction has an offset too; else it was removed.
            first = (await self._consumer.beginning_offsets([partition]))[partition]
            if first > expected:
                report_gap(partition, expected, min(first, message.offset))
        self._next[partition] = message.offset + 1
        for at in self._held[partition]:
            if at and at.offset == message.offset and at.timestamp != message.timestamp:
                raise lost(
                    self._settings,
                    partition,
                    self._held[partition],
                    f"holds another message at offset {message.offset}",
                )
        return True

    async def _append(self, batch: Sequence[ConsumerRecord]) -> int:
        """Commit a batch, after its unusable messages went to the dead letters; the exit status.

        The batch is dropped when another worker has taken over one of its partitions.
        """
        generation, began = self._generation, time.monotonic()
        reads = await self._patiently(lambda: asyncio.to_thread(self._decode, batch))
        reads, status = self._within_limit(reads)
        await self._set_aside(reads)

        async def commit() -> None:
            if generation != self._generation:
                raise Fenced("the group was rebalanced")
            await asyncio.to_thread(self._sink.append, [each.entry for each in reads])

        try:
            await self._patiently(commit)
        except Fenced as fenced:
            log.warning("append: %s; this batch is dropped, the tables say where to go on", fenced)
            self._generation += 1
            return status
        self._tell(self._sink.news())
        fresh = sum(each.is_new for each in reads)
        self._in_hand(())
        trace(reads, STAGE, seconds=time.monotonic() - began)
        self._metrics.records_in.labels(STAGE).inc(fresh)
        for _ in range(fresh):
            self._metrics.handler_seconds.labels(STAGE).observe(time.monotonic() - began)
        await self._commit_offsets(reads)
        return status

    def _in_hand(self, batch: Sequence[ConsumerRecord]) -> None:
        self._metrics.in_flight.labels(STAGE).set(len(batch))
        self._oldest = min((message.timestamp / 1000 for message in batch), default=math.inf)

    async def _mark(self) -> None:
        """Mark the rows that do not stand any more, as far as it is time for that."""
        self._changed.update(await self._patiently(self._feed.poll))
        began = time.monotonic()
        if began < (self._mark_at if self._changed else self._look_at):
            return
        changed = sorted(self._changed)[:MARKED_AT_ONCE]
        self._changed.difference_update(changed)
        await self._patiently(lambda: asyncio.to_thread(self._sink.mark, changed))
        ended = time.monotonic()
        self._mark_at = ended + MARKING_SHARE * (ended - began)
        self._look_at = max(self._mark_at, ended + LOOK_EVERY)

    def _tell(self, news: Iterable[TrainingData]) -> None:
        """Publish what is new to train on; the next batch does not wait for the broker."""
        for each in news:
            telling = asyncio.create_task(self._publish(each))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _publish(self, news: TrainingData) -> None:
        try:
            await self._publisher.send(TRAINING_DATA, news)
        except (Invalid, Transient, KafkaError) as error:
            # The trainer looks at the tables by itself too, only later.
            log.warning("append: new rows of %s not told: %s", news.table, error)

    async def _told(self) -> None:
        """Wait a little for what is being published."""
        if self._telling:
            _, left = await asyncio.wait(self._telling, timeout=GRACE)
            for telling in left:
                telling.cancel()

    def _decode(self, batch: Sequence[ConsumerRecord]) -> list[Read]:
        partitions = {TopicPartition(m.topic, m.partition) for m in batch}
        lead = {partition: self._sink.lead(partition) for partition in partitions}
        return [
            read(self._topics[m.topic], m, is_new=m.offset > lead[m.topic, m.partition])
            for m in batch
        ]

    def _within_limit(self, reads: list[Read]) -> tuple[list[Read], int]:
        """What comes before the one dead letter too many, and the exit status that follows."""
        for position, each in enumerate(reads):
            if each.is_new_failure and not self._limit.admit(time.monotonic()):
                log.error(
                    "append: stopped: more than %d dead letters within %g s, the last for %s: is "
                    "the stage before broken? What was set aside is in topic %s",
                    self._limit.limit,
                    self._limit.window,
                    each.error,
                    topic_name(self._settings, DEAD_LETTERS),
                )
                return reads[:position], TOO_MANY_DEAD_LETTERS
        return reads, DONE

    async def _set_aside(self, reads: list[Read]) -> None:
        for letter in [dead(each, STAGE) for each in reads if each.is_new_failure]:
            await self._patiently(partial(self._publisher.send, DEAD_LETTERS, letter))
            self._metrics.records_failed.labels(STAGE, letter.reason).inc()
            self._metrics.dead_letters.labels(STAGE, letter.reason).inc()

    async def _commit_offsets(self, reads: list[Read]) -> None:
        """Tell Kafka how far the tables are, for those who watch the lag there."""
        last = {each.entry.partition: each.entry.offset for each in reads}
        self._done.update(last)
        try:
            offsets = {partition: offset + 1 for partition, offset in last.items()}
            await asyncio.wait_for(self._consumer.commit(offsets), GRACE)
        except (KafkaError, TimeoutError) as error:
            log.info("append: offsets not committed to Kafka, the tables have them: %r", error)

    async def _show_lag(self, *, ask: bool) -> None:
        """Show it; the ends of the partitions come with their messages, else they are asked for."""
        held = self._consumer.assignment() & self._done.keys()
        ends: dict[TopicPartition, int | None] = {at: self._consumer.highwater(at) for at in held}
        if ask:
            with suppress(KafkaError, TimeoutError):
                ends |= await asyncio.wait_for(self._consumer.end_offsets(held), GRACE)
        for partition, end in ends.items():
            done = self._done[partition] + 1
            if self._next[partition] == done:
                # Nothing is in hand. The marker that ends a transaction has an offset too, and is
                # passed over without a message.
                with suppress(IllegalStateError):  # the partition has just been taken away
                    done = max(done, await self._consumer.position(partition))
            labels = (STAGE, partition.topic, str(partition.partition))
            if end is not None:
                self._metrics.consumer_lag.labels(*labels).set(max(0, end - done))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, tried again while a component is away. Raises `Stopped`."""
        for pause in Policy(**self._settings.workers.model_dump()).pauses():
            try:
                return await attempt()
            except Transient as error:
                trouble: Exception = error
                reason = error.reason
            except BrokerUnreachable as error:
                trouble, reason = error, "broker away"
            except KafkaError as error:
                if not broker_away(error):
                    raise
                trouble, reason = error, "broker away"
            log.warning("append: %s; trying again in %.1f s", trouble, pause)
            self._metrics.retries.labels(STAGE, reason).inc()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            if self._stop.is_set():
                break
        raise Stopped
