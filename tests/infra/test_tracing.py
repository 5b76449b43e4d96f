"""Traces: which spans work on a record leaves, and that a collector's trouble is its own."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from consumers import spans
from consumers.stage import Message
from engines import free_port
from fakes import records
from fakes.otlp_collector import Collector
from infra.settings import SettingsError
from infra.settings_file import load
from infra.settings_telemetry import Tracing
from infra.tracing import QUEUE, tracing
from streams.errors import Invalid, Transient
from streams.log_lines import JsonLine
from streams.topics import ARTICLES


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def message(pmid: int) -> Message:
    return Message(records.article(pmid), b"%d" % pmid, ARTICLES.name, 3, 42)


def test_what_is_not_traced_leaves_nothing():
    with tracing(Tracing(), "index"):
        assert not spans.on()
        with spans.working("index", message(1)), spans.step("search") as span:
            assert not span.is_recording()


def test_a_span_says_whose_work_it_was_and_what_came_of_it(collector: Collector):
    with (
        tracing(Tracing(endpoint=collector.url), "index"),
        spans.working("index", message(1)),
        spans.step("search", {"kailin.depth": 50}),
    ):
        spans.again("broker away")
    assert not spans.on()
    search, index = collector.spans
    assert index.service == "kailin-index"
    assert (index.name, search.name, search.parent) == ("index", "search", index.id)
    assert index.trace == search.trace == spans.ids(1, records.ARRIVED)[0]
    assert index.parent == spans.ids(1, records.ARRIVED)[1]
    assert index.attributes == {
        "kailin.pmid": 1,
        "kailin.outcome": "done",
        "messaging.system": "kafka",
        "messaging.destination.name": "pubmed.articles",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42,
    }
    assert search.attributes == {"kailin.depth": 50, "kailin.retries": 1}
    assert search.events == ["again: {'kailin.reason': 'broker away'}"]


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (Invalid("model refused", "too long"), "dead letter", "model refused"),
        (asyncio.CancelledError(), "left to another worker", None),
        (ValueError("title: Aspirin"), "fault", "ValueError"),
    ],
)
def test_a_span_says_why_work_failed_but_quotes_nothing(
    collector: Collector, error: BaseException, outcome: str, reason: str | None
):
    with tracing(Tracing(endpoint=collector.url), "index"), pytest.raises(type(error)):  # noqa: SIM117
        with spans.working("index", message(1)):
            raise error
    (span,) = collector.spans
    assert span.attributes["kailin.outcome"] == outcome
    assert span.attributes.get("kailin.reason") == reason
    assert span.failed == (reason is not None)
    assert "Aspirin" not in str(span)


def test_a_failed_request_is_told_by_its_reason(collector: Collector):
    with tracing(Tracing(endpoint=collector.url), "generate"), pytest.raises(Transient):  # noqa: SIM117
        with spans.working("generate", message(1)), spans.step("model request"):
            raise Transient("model server away", "of a host")
    request = collector.spans[0]
    assert (request.name, request.failed) == ("model request", True)
    assert request.attributes["kailin.reason"] == "model server away"


def test_the_root_is_the_arrival_and_its_ids_are_the_records_own(collector: Collector):
    with tracing(Tracing(endpoint=collector.url), "ingest"):
        spans.arrived(7, records.ARRIVED, "new")
    (root,) = collector.spans
    assert (root.trace, root.id) == spans.ids(7, records.ARRIVED)
    assert root.parent == 0
    assert root.began == records.ARRIVED.timestamp()
    assert root.attributes == {"kailin.pmid": 7, "kailin.outcome": "new"}


def test_an_instant_has_one_trace_however_it_is_written():
    there = records.ARRIVED.astimezone(timezone(timedelta(hours=5)))
    bare = records.ARRIVED.replace(tzinfo=None)
    assert spans.ids(7, records.ARRIVED) == spans.ids(7, there) == spans.ids(7, bare)
    assert spans.ids(7, datetime(2026, 3, 7)) != spans.ids(7, records.ARRIVED)
    assert spans.ids(8, records.ARRIVED) != spans.ids(7, records.ARRIVED)


def test_a_share_of_the_records_is_traced_each_by_all_processes_or_none(collector: Collector):
    for stage in ("ingest", "index", "score"):
        with tracing(Tracing(endpoint=collector.url, sample=0.3), stage):
            for pmid in range(1, 401):
                with spans.working(stage, message(pmid)), spans.step("search"):
                    pass
                spans.appended(
                    stage,
                    message(pmid),
                    pmid,
                    records.ARRIVED,
                    began=time.time(),
                    table="ideal",
                )
    traced = [
        {span.attributes["kailin.pmid"] for span in collector.spans if span.name == stage}
        for stage in ("ingest", "index", "score")
    ]
    assert traced[0] == traced[1] == traced[2]
    assert 80 < len(traced[0]) < 160
    # With its step, and twice in each stage.
    assert len(collector.spans) == 9 * len(traced[0])


def test_what_deletes_a_record_is_traced_by_itself(collector: Collector):
    deletion = Message(None, b"7", ARTICLES.name, 3, 43)
    with tracing(Tracing(endpoint=collector.url), "index"), spans.working("index", deletion):
        pass
    (span,) = collector.spans
    assert (span.parent, span.attributes["kailin.pmid"]) == (0, 7)


def test_log_lines_name_the_trace(collector: Collector):
    line = logging.LogRecord("x", logging.INFO, "x.py", 1, "told", (), None)
    with tracing(Tracing(endpoint=collector.url), "index"), spans.working("index", message(7)):
        told = json.loads(JsonLine("index").format(line))
    assert int(told["trace"], 16) == spans.ids(7, records.ARRIVED)[0]


def test_a_collector_gets_the_headers_it_wants(collector: Collector):
    settings = Tracing(
        endpoint=f"{collector.url}/", headers="x-team=ours, authorization=Bearer a=b"
    )
    with tracing(settings, "index"), spans.working("index", message(1)):
        pass
    assert collector.headers[0]["x-team"] == "ours"
    assert collector.headers[0]["authorization"] == "Bearer a=b"


@pytest.mark.parametrize("headers", ["bearer", "=x", "a=1,b"])
def test_headers_are_checked_and_not_shown(headers: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KAILIN_TRACING__HEADERS", headers)
    with pytest.raises(SettingsError) as refused:
        load(None)
    line = "tracing.headers: expected name=value, several with commas between them"
    assert str(refused.value) == line


@pytest.mark.parametrize("trouble", ["away", "hanging"])
def test_a_collector_in_trouble_neither_slows_work_nor_fills_memory(trouble: str):
    with Collector(hanging=True) as hanging:
        url = hanging.url if trouble == "hanging" else f"http://127.0.0.1:{free_port()}"
        longest = 0.0
        with tracing(Tracing(endpoint=url), "index"):
            held = _queue_of(spans.tracer())
            for number in range(QUEUE * 3):
                began = time.monotonic()
                with spans.working("index", message(number + 1)):
                    pass
                longest = max(longest, time.monotonic() - began)
                assert len(held) <= QUEUE
            told_to_stop = time.monotonic()
        ended = time.monotonic() - told_to_stop
    # A request is given five seconds.
    assert longest < 2
    assert ended < 4.5


def _queue_of(tracer):
    """Where spans wait to be sent, of the SDK's own."""
    (processor,) = tracer.span_processor._span_processors
    return processor._batch_processor._queue
