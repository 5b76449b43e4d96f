"""Models that are scripted by name, behind one scripted server, for the gate to compare."""

from collections.abc import Callable
from typing import Any

from fakes.model_server import Reply, prompt_of
from infra.deploy import Address
from infra.model_registry import Registered

# What a model says to a prompt and a seed.
Say = Callable[[str, int], str]


class Models:
    """What each model says, by the name that it is asked under; one that is not there is a 404."""

    def __init__(self) -> None:
        self.say: dict[str, Say] = {}

    def __call__(self, request: dict[str, Any]) -> Reply:
        if "input" in request:
            return Reply()
        if request["model"] not in self.say:
            return Reply(status=404, text="no such model")
        return Reply(text=self.say[request["model"]](prompt_of(request), request["seed"]))


class ScriptedDeploy:
    """Has a model answer at the scripted server, as long as it is started."""

    def __init__(self, url: str, models: Models, will_say: Say) -> None:
        self.models = models
        self.will_say = will_say
        self.started: list[str] = []
        self._next: list[Say] = []
        self._url = url

    async def start(self, model: Registered, *, port: int | None = None) -> Address:
        assert port is not None
        self.started.append(model.name)
        self.models.say[model.name] = self._next.pop(0) if self._next else self.will_say
        return Address(model=model.name, server="local", url=self._url)

    def will_say_next(self, *says: Say) -> None:
        """Of the models that are started next, the first says the first of these, and so on."""
        self._next = list(says)

    async def serves(self, address: Address) -> bool:
        return address.model in self.models.say

    async def busy(self, address: Address) -> int:
        return 0

    async def others(self, address: Address) -> tuple[Address, ...]:
        return ()

    async def stop(self, address: Address) -> None:
        del self.models.say[address.model]

    async def close(self) -> None:
        pass
