"""The way `adapter`: LoRA adapters that are loaded into the running server of θ3's origin.

It takes seconds and no second copy of the base model. vLLM hands an adapter that was loaded under a
name to whoever asks for that name, and what it has computed of a prompt too, so each version has a
name and a path of its own.
"""

import asyncio
import re
from pathlib import Path

from infra.deploy import Address, DeployError, Fetch
from infra.model_probe import NoAnswer, models, post, requests, trial
from infra.model_registry import Registered
from infra.model_store import Held, held, tidy
from infra.settings import Settings
from infra.vllm_server import origin

TRIAL = "-trial"


class Adapter:
    """Deploy over the one vLLM server that serves the base model; `fetch` brings the adapters.

    vLLM reads an adapter's files again when it has put others in its place, so they stay until it
    is stopped.
    """

    def __init__(self, settings: Settings, fetch: Fetch) -> None:
        self._name = origin(settings)
        self._server = settings.servers[self._name]
        self._root = settings.data.resolve() / "adapters"
        self._fetch = fetch
        self._held: dict[str, Held] = {}

    async def start(self, model: Registered, *, port: int | None = None) -> Address:
        if not model.adapter:
            raise DeployError(
                f"{model.name}: is a whole model and no adapter, expected an adapter; set "
                "deploy.mode to replace"
            )
        if self._server.embedded and model.base != self._server.source:
            raise DeployError(
                f"{model.name}: trained on {model.base}, server {self._name} serves "
                f'{self._server.source}: set deploy.mode = "replace" or train again'
            )
        path = self._root / model.place
        # The one that serves is not to end with the trial of the same version.
        name = model.place + TRIAL if port else model.name
        address = Address(model=name, server=self._name, url=None)
        await self._check(name, path)
        if name not in self._held:
            self._held[name] = await held(
                path, lambda scratch: self._fetch(model, scratch / "model")
            )
        try:
            if port:
                await self._end_trials()
            await self._load(name)
            await trial(self._server, self._server.address, name)
        except NoAnswer as error:
            await self.stop(address)
            raise DeployError(str(error)) from None
        except BaseException:
            await self.stop(address)
            raise
        return address

    async def _check(self, name: str, path: Path) -> None:
        """Raises `DeployError` where the server has another model under this name."""
        try:
            loaded = (await models(self._server, self._server.address)).get(name)
        except NoAnswer as error:
            raise DeployError(str(error)) from None
        if loaded not in (None, str(path)):
            raise DeployError(
                f"{name}: server {self._name} has another model under this name, from {loaded}: "
                "restart that server"
            )

    async def _end_trials(self) -> None:
        """Unload what a gate that was killed left there: only one judges at a time."""
        for name in await models(self._server, self._server.address):
            if name.endswith(TRIAL):
                await self._unload(name)

    async def _load(self, name: str) -> None:
        if name in await models(self._server, self._server.address):
            return
        body = {"lora_name": name, "lora_path": str(self._held[name].path)}
        try:
            await post(self._server, self._server.address, "/load_lora_adapter", body)
        except NoAnswer as error:
            if "status 404" in str(error):
                raise NoAnswer(
                    f"{error}; expected a vLLM server that was started with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
                ) from None
            raise

    async def serves(self, address: Address) -> bool:
        try:
            return address.model in await models(self._server, self._server.address)
        except NoAnswer:
            # A server that is away comes back, and is looked at then.
            return True

    async def busy(self, address: Address) -> int:
        try:
            return await requests(self._server, self._server.address, address.model, adapter=True)
        except NoAnswer:
            return 1

    async def others(self, address: Address) -> tuple[Address, ...]:
        target, _, _ = address.model.rpartition("-v")
        name = re.compile(rf"{re.escape(target)}-v\d+")
        try:
            served = await models(self._server, self._server.address)
        except NoAnswer:
            return ()
        return tuple(
            Address(model=other, server=self._name, url=None)
            for other in served
            if name.fullmatch(other) and other != address.model
        )

    async def stop(self, address: Address) -> None:
        try:
            await self._unload(address.model)
        except NoAnswer as error:
            if "status 404" not in str(error) and "status 400" not in str(error):
                # Nobody asks for it any more; `others` names it until it is gone.
                return
        if files := self._held.pop(address.model, None):
            files.release()
        target, _, _ = address.model.rpartition("-v")
        await asyncio.to_thread(tidy, self._root, target)

    async def _unload(self, name: str) -> None:
        await post(self._server, self._server.address, "/unload_lora_adapter", {"lora_name": name})

    async def close(self) -> None:
        for files in self._held.values():
            files.release()
