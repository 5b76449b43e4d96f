"""The model that serves as θ3, as `serving.models` says: followed while the stream goes on."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from consumers.generate import Generator
from consumers.ports import Generate
from infra.openai_generate import OpenAIGenerate
from infra.settings import Settings
from infra.topic_view import followed
from streams.errors import Transient
from streams.learning import Serving
from streams.metrics import Metrics
from streams.topics import SERVING

THETA3 = "theta3"


@dataclass(slots=True)
class _Client:
    """A server's client, and how many records use it."""

    ask: OpenAIGenerate
    users: int = 0


class ServingModels:
    """Follows the topic while entered; entering waits for a topic that is not there yet.

    Raises `BrokerUnreachable` on entering.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        # By the server's name and address, as a `Serving` has them.
        self._clients: dict[tuple[str, str | None], _Client] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._following = followed(self._settings, SERVING, Serving)
        self._view = await self._following.__aenter__()
        self._metrics.serving_revision.labels(THETA3).set_function(self._revision)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._following.__aexit__(None, None, None)
        for key in list(self._clients):
            self._close(key)
        if self._closing:
            await asyncio.wait(self._closing)

    @property
    def serving(self) -> Serving | None:
        """What serves as θ3 at present."""
        return self._view.records.get(THETA3)

    async def wait(self, seconds: float) -> None:
        """Until something new is known, or so long."""
        await self._view.wait(seconds)

    @contextmanager
    def theta3(self) -> Iterator[Generator | None]:
        """The generator θ3 with the model that serves at present, for one record to keep.

        None where none serves. Raises `Transient` where it serves on a server that the settings do
        not have, and `SettingsError` where that server's CA file cannot be used.
        """
        serving = self.serving
        if serving is None:
            yield None
            return
        client = self._client(serving)
        client.users += 1
        try:
            yield as_theta3(
                self._settings, model=serving.model, revision=serving.revision, ask=client.ask
            )
        finally:
            client.users -= 1
            self._close_unused()

    def _client(self, serving: Serving) -> _Client:
        key = serving.server, serving.url
        if key not in self._clients:
            server = self._settings.servers.get(serving.server)
            if server is None:
                known = ", ".join(self._settings.servers)
                raise Transient(
                    "no such server",
                    f"{THETA3} serves on {serving.server!r}, which is none of servers ({known})",
                )
            self._clients[key] = _Client(OpenAIGenerate(server, self._metrics, serving.url))
        return self._clients[key]

    def _close_unused(self) -> None:
        """Close what no record uses any more, except for where the present model serves."""
        serving = self.serving
        kept = (serving.server, serving.url) if serving else None
        for key in [key for key, client in self._clients.items() if not client.users]:
            if key != kept:
                self._close(key)

    def _close(self, key: tuple[str, str | None]) -> None:
        closing = asyncio.create_task(self._clients.pop(key).ask.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _revision(self) -> float:
        """The registered version that serves, as a number; 0 where none does."""
        serving = self.serving
        return float(serving.revision) if serving and serving.revision.isdigit() else 0.0


def as_theta3(settings: Settings, *, model: str, revision: str, ask: Generate) -> Generator:
    """A model as the generator θ3."""
    sampling = settings.theta3.model_dump(exclude={"origin"})
    return Generator(name=THETA3, model=model, revision=revision, **sampling, ask=ask)
