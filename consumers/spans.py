"""The spans that work on a record leaves (OpenTelemetry), where there is a tracer.

The ids of a record's trace and of the span at its root are a function of the PMID and of when the
record arrived, which every message about it says. So the spans of all stages are in one trace,
though no message carries an id of it, and a sampler that goes by the trace's id takes a record
whole or not at all. No span holds text of a record.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes

from consumers.stage import Message, arrival
from streams.at_hand import InTopic, at_hand, keyed_pmid
from streams.errors import Invalid, Transient

UNTRACED = NoOpTracer()
_tracer: ContextVar[Tracer] = ContextVar("tracer", default=UNTRACED)
# Trace and span that a root is to be given.
root: ContextVar[tuple[int, int] | None] = ContextVar("root", default=None)


@contextmanager
def traced(with_this: Tracer) -> Iterator[None]:
    """What runs in this block, and the tasks begun in it, leave their spans with this tracer."""
    token = _tracer.set(with_this)
    try:
        yield
    finally:
        _tracer.reset(token)


def tracer() -> Tracer:
    """The tracer in use; one that does nothing where there is none."""
    return _tracer.get()


def on() -> bool:
    """Whether anything is traced."""
    return tracer() is not UNTRACED


def ids(pmid: int, arrived: datetime) -> tuple[int, int]:
    """The ids of a record's trace (128 bits) and of its root span (64 bits)."""
    at = arrived.replace(tzinfo=arrived.tzinfo or UTC).astimezone(UTC)
    digest = hashlib.blake2b(f"{pmid}\x00{at.isoformat()}".encode(), digest_size=24).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big")


def of_record(pmid: int, arrived: datetime) -> Context:
    """The context of a span that lies right under the root of a record's trace."""
    trace, span = ids(pmid, arrived)
    parent = SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


@contextmanager
def working(stage: str, message: Message[Any]) -> Iterator[None]:
    """A span of a stage's work on a message, with what became of it."""
    if not on():
        yield
        return
    pmid = keyed_pmid(message.key)
    arrived = arrival(message.record) if message.record is not None else None
    with tracer().start_as_current_span(
        stage,
        # What deletes a record says nothing of its arrival, and has a trace of its own.
        of_record(pmid, arrived) if pmid and arrived else Context(),
        SpanKind.CONSUMER,
        _place(message, pmid),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            with at_hand(trace=format_trace_id(span.get_span_context().trace_id)):
                yield
        except Invalid as error:
            _ended(span, "dead letter", error.reason)
            raise
        except asyncio.CancelledError:
            _ended(span, "left to another worker")
            raise
        except BaseException as error:
            _ended(span, "fault", _reason(error))
            raise
        _ended(span, "done")


@contextmanager
def step(name: str, attributes: Attributes = None) -> Iterator[Span]:
    """A span of one request that the work in hand makes."""
    with tracer().start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            _ended(span, "failed", _reason(error))
            raise


def again(reason: str) -> None:
    """Note in the span of the work in hand that it is tried again, and why."""
    span: Any = get_current_span()
    if span.is_recording():
        span.add_event("again", {"kailin.reason": reason})
        span.set_attribute("kailin.retries", span.attributes.get("kailin.retries", 0) + 1)


def appended(
    stage: str, message: InTopic, pmid: int, arrived: datetime, *, began: float, table: str
) -> None:
    """The span of rows that went to a table, many at once, since `began` (Unix time)."""
    if not on():
        return
    span = tracer().start_span(
        stage,
        of_record(pmid, arrived),
        SpanKind.CONSUMER,
        {**_place(message, pmid), "kailin.table": table},
        start_time=int(began * 1e9),
    )
    _ended(span, "done")
    span.end()


def arrived(pmid: int, at: datetime, outcome: str) -> None:
    """The root of a record's trace: from its arrival until it is published."""
    token = root.set(ids(pmid, at))
    try:
        span = tracer().start_span(
            "ingest",
            Context(),
            SpanKind.PRODUCER,
            {"kailin.pmid": pmid},
            start_time=min(int(at.timestamp() * 1e9), time.time_ns()),
        )
    finally:
        root.reset(token)
    _ended(span, outcome)
    span.end()


def _place(message: InTopic, pmid: int | None) -> dict[str, str | int]:
    """Where a message lies, by OpenTelemetry's names for it."""
    place: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.destination.name": message.topic,
        "messaging.destination.partition.id": str(message.partition),
        "messaging.kafka.offset": message.offset,
    }
    return place if pmid is None else {**place, "kailin.pmid": pmid}


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, Invalid | Transient) else type(error).__qualname__


def _ended(span: Span, outcome: str, reason: str | None = None) -> None:
    span.set_attribute("kailin.outcome", outcome)
    if reason is not None:
        span.set_attribute("kailin.reason", reason)
        span.set_status(StatusCode.ERROR)
