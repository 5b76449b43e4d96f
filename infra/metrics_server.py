"""Serves the metrics of a process."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from infra.settings import SettingsError


@contextmanager
def serving(name: str, host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serve /metrics on the port that `ports.<name>` says: the registry's, and the process's own.

    Raises `SettingsError` where it cannot be had.
    """
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"ports.{name} = {port}: cannot serve /metrics on {host}: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
