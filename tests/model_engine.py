"""A real vLLM server for tests and benchmarks, on a free port, gone when its context ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engines import Engine, free_port
from infra.component import ComponentError
from infra.settings import Server, Settings
from infra.vllm_server import vllm


@contextmanager
def running_vllm(data: Path, **env: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Its base URL and the names its model is served under; the log lies under `data`."""
    server = Server(port=free_port())
    settings = Settings(data=data, servers={"local": server})
    component = vllm("local", settings)
    engine = Engine(replace(component, env={**component.env, **env}))
    try:
        try:
            engine.start()
        except RuntimeError as error:
            raise ComponentError(str(error)) from error
        yield server.address, tuple(generator.model for generator in settings.generators)
    finally:
        engine.kill()
