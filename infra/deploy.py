"""Serving a registered model under a name of its own: the port, and the two ways of doing it.

`replace` starts a server for each model, `adapter` loads each into the server of θ3's origin. Both
serve to one machine: an adapter is loaded into the one process that answers at the address, so
behind a load balancer the replicas would disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.model_registry import Registered
from infra.settings import Settings

# Brings a model's files into a directory that is not there yet, and returns it. Blocks.
# `ModelRegistry.download` is one.
Fetch = Callable[[Registered, Path], Path]


class DeployError(Exception):
    """A model cannot be served; the message is one line that says why and where to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a model is asked for: as in `streams.learning.Serving`."""

    model: str
    server: str
    url: str | None


class Deploy(Protocol):
    """Models of one target, each under its `name`, which no other version ever has."""

    async def start(self, model: Registered, *, port: int | None = None) -> Address:
        """Serve a model; done when it has answered a trial request under its own name.

        With a `port` it is on trial: beside the one that serves, and under another name where
        both share a server. Raises `DeployError`, and what `Fetch` raises; then nothing is left of
        it.
        """

    async def serves(self, address: Address) -> bool:
        """Whether the model is still there to be asked."""

    async def busy(self, address: Address) -> int:
        """Requests that it is working on, or that wait for it; 0 where it is gone.

        At least 1 where it does not say.
        """

    async def others(self, address: Address) -> tuple[Address, ...]:
        """What else is served for the same target, but for models on trial."""

    async def stop(self, address: Address) -> None:
        """Serve it no longer. Nothing where it is gone already."""

    async def close(self) -> None:
        """Let go of everything: what runs as a child of this process ends."""


def deployment(settings: Settings, fetch: Fetch) -> Deploy:
    """The way of these settings. Raises `ComponentError` where no vLLM is installed."""
    from infra.deploy_adapter import Adapter
    from infra.deploy_replace import Replace
    from infra.vllm_server import deploy_mode

    if deploy_mode(settings) == "adapter":
        return Adapter(settings, fetch)
    return Replace(settings, fetch)
