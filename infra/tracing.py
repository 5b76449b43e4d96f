"""Sends a process's spans to an OpenTelemetry collector, where the settings name one.

A collector that is away costs nothing but the spans: they wait in a queue of a bounded length,
which a thread of its own empties, and which loses the oldest where it is full.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from consumers import spans
from infra.settings import SettingsError
from infra.settings_telemetry import Tracing

# Spans that wait to be sent, and that are sent at once.
QUEUE, BATCH = 4096, 256
# Seconds: between two batches; for one to be taken; for the last ones when the process ends.
EVERY, TIMEOUT, GOODBYE = 2.0, 5.0, 3.0


@contextmanager
def tracing(settings: Tracing, stage: str) -> Iterator[None]:
    """Records are traced in this block as the settings say. Raises `SettingsError`."""
    if not settings.endpoint:
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    class Ids(RandomIdGenerator):
        """Random ids, but for the root of a record's trace."""

        def generate_trace_id(self) -> int:
            own = spans.root.get()
            return own[0] if own else super().generate_trace_id()

        def generate_span_id(self) -> int:
            own = spans.root.get()
            return own[1] if own else super().generate_span_id()

    if settings.ca_file and not settings.ca_file.is_file():
        raise SettingsError(f"tracing.ca_file = '{settings.ca_file}': there is no such file")
    exporter = OTLPSpanExporter(
        f"{settings.endpoint.rstrip('/')}/v1/traces",
        certificate_file=str(settings.ca_file) if settings.ca_file else None,
        headers=settings.header_fields,
        timeout=TIMEOUT,
    )
    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.name": f"kailin-{stage}",
                "service.namespace": "kailin",
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        ),
        # By the trace's id, which is a hash: every process decides the same about a record.
        sampler=TraceIdRatioBased(settings.sample),
        id_generator=Ids(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE,
            max_export_batch_size=BATCH,
            schedule_delay_millis=EVERY * 1000,
        )
    )
    try:
        with spans.traced(provider.get_tracer("kailin")):
            yield
    finally:
        # A collector that does not answer must not hold up the end of the process.
        goodbye = threading.Thread(target=provider.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE)
