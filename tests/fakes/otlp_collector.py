"""A collector of OpenTelemetry's spans: OTLP over real HTTP, decoded, kept in memory.

with Collector() as collector:
    ... collector.url, collector.spans
"""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Taken:
    """A span as it was received; ids are numbers, times in seconds since 1970."""

    service: str
    name: str
    trace: int
    id: int
    parent: int
    began: float
    ended: float
    failed: bool
    attributes: dict[str, Any]
    events: list[str] = field(default_factory=list)


class Collector:
    """`hanging` set: requests are taken and never answered, until the end."""

    def __init__(self, *, hanging: bool = False) -> None:
        self.spans: list[Taken] = []
        self.headers: list[dict[str, str]] = []
        self._ended = threading.Event()
        if not hanging:
            self._ended.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.headers.append(dict(self.headers))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._ended.wait()
                if self.path != "/v1/traces":
                    self.send_error(404)
                    return
                collector.spans += _taken(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def of(self, pmid: int) -> list[Taken]:
        """The spans of stages about a record, in the order of their beginning."""
        spans = [span for span in self.spans if span.attributes.get("kailin.pmid") == pmid]
        return sorted(spans, key=lambda span: span.began)


def _taken(request: ExportTraceServiceRequest) -> list[Taken]:
    return [
        Taken(
            service=_values(each.resource.attributes)["service.name"],
            name=span.name,
            trace=int.from_bytes(span.trace_id, "big"),
            id=int.from_bytes(span.span_id, "big"),
            parent=int.from_bytes(span.parent_span_id, "big"),
            began=span.start_time_unix_nano / 1e9,
            ended=span.end_time_unix_nano / 1e9,
            failed=span.status.code == 2,
            attributes=_values(span.attributes),
            events=[f"{event.name}: {_values(event.attributes)}" for event in span.events],
        )
        for each in request.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}
