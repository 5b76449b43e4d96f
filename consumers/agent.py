"""Runs one stage over its topic so that no record is lost, whatever dies on the way.

The worker is a faust app with one agent. Four things that faust 0.15.3 does would lose records: an
exception out of an agent acks the event it came from, an event skipped in a rebalance is acked,
commits go past an offset that is not finished, and `await topic.send()` does not wait for the
broker. So faust's own acks are off, each message is a task that ends when the broker has what it
made, and `consumers.acks` counts what is committed. A message may be worked on twice, never not.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import faust
from aiokafka.errors import KafkaError

from consumers import spans
from consumers.acks import Acks
from consumers.dead_letters import DeadLetterLimit, dead_letter, replayed
from consumers.delivery import NOT_ALLOWED, Delivery, check_key, not_allowed
from consumers.faust_app import faust_app
from consumers.lag import Lag
from consumers.stage import (
    DONE,
    FAILED,
    MISCONFIGURED,
    TOO_MANY_DEAD_LETTERS,
    Kafka,
    Message,
    Policy,
    Stage,
    TooManyDeadLetters,
    arrival,
)
from consumers.together import together
from streams.at_hand import at_hand, place
from streams.codec import decode
from streams.errors import Invalid, Misconfigured, Transient
from streams.metrics import Metrics
from streams.records import Record
from streams.topics import DEAD_LETTERS, Topic

COMMIT_EVERY = 1.0
# How long a worker that is told to stop waits for what it has begun.
GRACE = 5.0
# Messages that are not acked, because they or one before them are not finished, are done again if
# the worker dies: at most this many times the window.
HELD = 8

log = logging.getLogger(__name__)
# Each dead letter has its line: unlike the other lines here, `DeadLetterLimit` bounds them.
set_aside = logging.getLogger("consumers.dead_letters")


async def run(
    stage: Stage[Any],
    *,
    kafka: Kafka,
    policy: Policy,
    metrics: Metrics,
    scratch: Path,
    stop: asyncio.Event,
    going: asyncio.Event | None = None,
) -> int:
    """Work until `stop` is set, and return the exit status of the process.

    While `going`, if given, is not set, it takes nothing more; it finishes and commits what it has
    in hand, and keeps its partitions.

    0: told to stop; 1: a fault; 2: a setting is wrong; 3: too many dead letters. The message that
    a worker stops for is not committed. faust makes its empty directories under `scratch`.
    """
    app = faust_app(kafka, scratch / stage.name)
    worker = _Worker(app, stage, kafka.topic_name, policy, metrics, going)
    source = app.topic(kafka.topic_name(stage.source), key_type=bytes, value_type=bytes, acks=False)
    app.agent(source, name=stage.name)(worker.take)
    app.on_partitions_revoked.connect(worker.revoked)
    stopped = asyncio.create_task(stop.wait())
    started = asyncio.create_task(app.start())
    crashed = asyncio.create_task(app._crashed.wait())
    background = asyncio.create_task(worker.commit_now_and_then())
    try:
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if started.done() and (error := started.exception()):
            log.error("%s: cannot start: %s", stage.name, error)
            return FAILED
        log.info("%s: working", stage.name)
        ends: set[asyncio.Future[Any]] = {stopped, crashed, background, worker.failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await worker.wind_down()
        return _status(stage, app, worker, background)
    finally:
        for task in (stopped, started, crashed, background):
            task.cancel()
        await _stop(app)


def _status(
    stage: Stage[Any], app: faust.App, worker: "_Worker", background: asyncio.Task[None]
) -> int:
    if worker.failure.done():
        error = worker.failure.exception()
    elif app.crash_reason or background.done():
        error = app.crash_reason or background.exception()
        if isinstance(error, KafkaError) and not isinstance(error, NOT_ALLOWED):
            log.error("%s: stopped: the connection to Kafka failed: %r", stage.name, error)
            return FAILED
    else:
        return DONE
    if isinstance(error, NOT_ALLOWED):
        log.error("%s: stopped: %s", stage.name, not_allowed(error))
        return FAILED
    if isinstance(error, TooManyDeadLetters):
        log.error("%s: stopped: %s", stage.name, error)
        return TOO_MANY_DEAD_LETTERS
    if isinstance(error, Misconfigured):
        log.error("%s: stopped: %s", stage.name, "; ".join([str(error), *error.__notes__]))
        return MISCONFIGURED
    log.error("%s: stopped by a fault of its own", stage.name, exc_info=error)
    return FAILED


async def _stop(app: faust.App) -> None:
    # With the broker away, aiokafka ends faust's consumer thread by cancelling it, and faust waits
    # for that thread for ever.
    report = threading.excepthook
    threading.excepthook = lambda of: None if of.exc_type is asyncio.CancelledError else report(of)
    try:
        await asyncio.wait_for(app.stop(), GRACE)
    except (TimeoutError, KafkaError) as error:
        log.warning("left the consumer group without a goodbye: %r", error)
    finally:
        threading.excepthook = report


class _Worker:
    """The messages of one stage that are in hand."""

    def __init__(
        self,
        app: faust.App,
        stage: Stage[Any],
        topic_name: Callable[[Topic], str],
        policy: Policy,
        metrics: Metrics,
        going: asyncio.Event | None,
    ) -> None:
        self.app = app
        self.stage = stage
        self.topic_name = topic_name
        self.policy = policy
        self.metrics = metrics
        self.going = going
        self.acks = Acks()
        # By task, when its message was written (Unix time).
        self.tasks: dict[asyncio.Task[None], float] = {}
        # Those whose handler is not done; the others wait for the broker, which takes no slot.
        self.handling: set[asyncio.Task[Any]] = set()
        self.moved = asyncio.Event()
        self.limit = DeadLetterLimit(policy.dead_letter_limit, policy.dead_letter_window)
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ending = False
        self.lag = Lag(stage.name, topic_name(stage.source), metrics)
        producer: Any = app.producer
        self.deliver = Delivery(producer._ensure_producer, topic_name, policy, self._again)
        metrics.behind.labels(stage.name).set_function(self._behind)

    async def take(self, stream: faust.StreamT[Any]) -> None:
        """The agent: begins a task for each message, at most `window` at once."""
        async for event in cast(faust.Stream[Any], stream).noack().events():
            if not await self._still_mine(event.message):
                continue
            # No await since it was checked that the message belongs to the present assignment.
            self._begin(event.message)
            while self.tasks and self._full():
                self.moved.clear()
                await self.moved.wait()

    async def _still_mine(self, message: Any) -> bool:
        """Wait while the stage is paused; whether the message may be begun then.

        faust has checked that it belongs to the present assignment. One that a rebalance has taken
        away meanwhile comes again, here or to another worker.
        """
        app: Any = self.app
        while self.going and not self.going.is_set():
            await self.going.wait()
            if message.generation_id != app.consumer_generation_id:
                return False
            if not app.flow_control.is_active():
                return False
        return not self.ending

    def _behind(self) -> float:
        """Seconds since the oldest message in hand was written. Asked for by another thread."""
        return max(0.0, time.time() - min(list(self.tasks.values()), default=math.inf))

    def _stands(self) -> bool:
        """Whether nothing more is taken at present."""
        return self._full() or (self.going is not None and not self.going.is_set())

    def _full(self) -> bool:
        return len(self.handling) >= self.policy.window or self._held_back()

    def _held_back(self) -> bool:
        return self.acks.held >= self.policy.window * HELD

    def _begin(self, message: Any) -> None:
        acks = self.acks
        try:
            acks.take(message.partition, message.offset)
        except ValueError as error:
            self._fail(error, message)
            return
        with at_hand(**place(message)):
            task = asyncio.create_task(self._work(message))
        self.tasks[task] = message.timestamp or time.time()
        self.handling.add(task)
        self.metrics.records_in.labels(self.stage.name).inc()
        self.metrics.in_flight.labels(self.stage.name).set(len(self.tasks))

        def ended(task: asyncio.Task[None]) -> None:
            abandoned = task not in self.tasks
            self.tasks.pop(task, None)
            self.handling.discard(task)
            self.metrics.in_flight.labels(self.stage.name).set(len(self.tasks))
            self.moved.set()
            if task.cancelled():
                # By whom, if not by `_abandon`? The message is neither done nor given up.
                if not abandoned:
                    self._fail(RuntimeError("the work on a message was cancelled"), message)
            elif error := task.exception():
                self._fail(error, message)
            else:
                acks.finish(message.partition, message.offset)

        task.add_done_callback(ended)

    def _fail(self, error: BaseException, message: Any) -> None:
        if not self.failure.done():
            where = f"{message.topic} partition {message.partition} offset {message.offset}"
            error.add_note(f"{where} is not committed")
            self.failure.set_exception(error)
        self.ending = True

    async def _work(self, message: Any) -> None:
        try:
            if self._passed_over(message):
                return
            await self._process(message)
        except Invalid as error:
            self.metrics.records_failed.labels(self.stage.name, error.reason).inc()
            await self._set_aside(message, error)

    def _passed_over(self, message: Any) -> bool:
        """Whether it is a tombstone, or put back for another stage, and this one takes none."""
        if message.value is None and not self.stage.tombstones:
            return True
        replay = None if self.stage.states else replayed(message.headers or ())
        return replay is not None and replay.first.stage != self.stage.name

    async def _process(self, message: Any) -> None:
        stage = self.stage
        record = None if message.value is None else decode(stage.source.record, message.value)
        check_key(stage.source, record, message.key)
        where = message.key, message.topic, message.partition, message.offset
        taken: Message[Any] = Message(record, *where)
        with spans.working(stage.name, taken):
            await self._see_through(taken)

    async def _see_through(self, taken: Message[Any]) -> None:
        stage, record = self.stage, taken.record
        with self.metrics.handler_seconds.labels(stage.name).time():
            outputs = await self._handle(taken)
        self.handling.discard(cast(asyncio.Task[Any], asyncio.current_task()))
        self.moved.set()
        if stage.sink and outputs:
            if len(outputs) == 1:
                await self.deliver(stage.sink, outputs[0])
            else:
                await together(self.deliver(stage.sink, output) for output in outputs)
            self.metrics.records_out.labels(stage.name).inc(len(outputs))
        if record is not None and (arrived := arrival(record)):
            age = (datetime.now(UTC) - arrived).total_seconds()
            self.metrics.end_to_end_seconds.labels(stage.name).observe(max(age, 0.0))
        if stage.observe:
            stage.observe(taken, outputs)

    async def _handle(self, taken: Message[Any]) -> Sequence[Record]:
        for pause in self.policy.pauses():
            try:
                return await self.stage.handle(taken)
            except Transient as error:
                await self._again(error.reason, pause, str(error))
        raise AssertionError("pauses never end")

    async def _again(self, reason: str, pause: float, detail: str) -> None:
        if cast(asyncio.Task[Any], asyncio.current_task()).cancelling():
            # What failed was cancelled, and said so as if its component were away.
            raise asyncio.CancelledError
        self.metrics.retries.labels(self.stage.name, reason).inc()
        spans.again(reason)
        log.warning("%s: again in %.1f s: %s", self.stage.name, pause, detail)
        await asyncio.sleep(pause)

    async def _set_aside(self, message: Any, error: Invalid) -> None:
        """Write the dead letter of a message; it may be acked when this returns."""
        if not self.limit.admit(time.monotonic()):
            raise TooManyDeadLetters(
                f"more than {self.policy.dead_letter_limit} dead letters in "
                f"{self.policy.dead_letter_window:g} s, the next for {error}; "
                f"{message.topic} partition {message.partition} offset {message.offset} "
                "is not committed. Mend the cause and start the stage again."
            )
        letter = dead_letter(
            error,
            stage=self.stage.name,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            key=message.key,
            value=message.value,
            headers=message.headers or (),
            at=datetime.now(UTC),
        )
        await self.deliver(DEAD_LETTERS, letter)
        self.metrics.dead_letters.labels(self.stage.name, error.reason).inc()
        set_aside.warning(
            "%s: dead letter for %s partition %d offset %d: %s",
            *(self.stage.name, message.topic, message.partition, message.offset, error),
        )

    async def commit_now_and_then(self) -> None:
        """Commit what is acked, and measure the lag, every second."""
        while True:
            await asyncio.sleep(COMMIT_EVERY)
            await self.commit()
            await self.lag.measure(self.app.consumer, self.acks, standing=self._stands())
            if self._held_back() and (waiting := self.acks.foremost()):
                log.warning(
                    "%s: takes nothing more until %s partition %d offset %d is done",
                    *(self.stage.name, self.topic_name(self.stage.source), *waiting),
                )

    async def commit(self) -> None:
        """Commit the offsets that are acked, if there are new ones."""
        acks, ready = self.acks, self.acks.ready()
        if not ready:
            return
        consumer: Any = self.app.consumer
        topic = self.topic_name(self.stage.source)
        offsets = {faust.types.TP(topic, partition): offset for partition, offset in ready.items()}
        # False: the group rebalances, and whoever holds the partitions next works on from the last
        # commit.
        if await consumer._commit(offsets):
            acks.committed(ready)

    async def revoked(self, *_: Any, **__: Any) -> None:
        """A rebalance takes the partitions: what is in hand is left to whoever gets them next."""
        await self._abandon()
        try:
            await asyncio.wait_for(self.commit(), GRACE)
        except TimeoutError:
            log.warning("%s: the last acks before a rebalance are not committed", self.stage.name)
        self.acks = Acks()

    async def wind_down(self) -> None:
        """Take nothing more, give what is in hand a few seconds, and commit."""
        self.ending = True
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=GRACE)
        await self._abandon()
        try:
            await asyncio.wait_for(self.commit(), GRACE)
        except (TimeoutError, KafkaError) as error:
            log.warning("%s: the last acks are not committed: %r", self.stage.name, error)

    async def _abandon(self) -> None:
        tasks, self.tasks = self.tasks, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
