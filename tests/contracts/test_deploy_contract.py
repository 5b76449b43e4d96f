"""The Deploy port: in memory, servers of their own as processes, adapters in one server."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engines import free_port
from fakes.deploy import DirectoryRegistry, FakeDeploy, registered, scripted
from fakes.model_server import ModelServer
from infra.deploy import Deploy, DeployError
from infra.deploy_adapter import Adapter
from infra.deploy_replace import Replace
from infra.settings import Generator, Server, Settings


@dataclass
class Case:
    deploy: Deploy
    adapter: bool


@pytest.fixture(params=["fake", "replace", "adapter"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    """Versions 1 and 2 of a model can be had; 9 does not become healthy."""
    adapter = request.param == "adapter"
    registry = DirectoryRegistry(tmp_path / "registry", adapter=adapter)
    registry.add(1)
    registry.add(2)
    if request.param == "fake":
        fake = FakeDeploy()
        fake.ill.add("theta3-v9")
        yield Case(fake, adapter)
        return
    registry.add(9, flags="--no-such-option")
    async with ModelServer(models={"theta1": "theta1"}) as base:
        if adapter:
            (tmp_path / "registry" / "theta3-v9" / "says.txt").unlink()
        settings = Settings(
            data=tmp_path / "data",
            servers={"local": Server(url=base.url)},
            generators=(Generator(name="theta1", model="theta1"),),
            deploy={"ports": [free_port(), free_port()]},
        )
        deploy: Deploy = Adapter(settings, registry.download)
        if not adapter:
            deploy = Replace(settings, registry.download, scripted)
        yield Case(deploy, adapter)
        await deploy.close()


async def test_a_model_serves_under_its_own_name_until_it_is_stopped(case: Case):
    address = await case.deploy.start(registered(1, adapter=case.adapter))
    assert (address.model, address.server) == ("theta3-v1", "local")
    assert await case.deploy.serves(address)
    assert await case.deploy.busy(address) == 0
    assert await case.deploy.others(address) == ()
    await case.deploy.stop(address)
    assert not await case.deploy.serves(address)
    assert await case.deploy.busy(address) == 0
    await case.deploy.stop(address)


async def test_two_versions_serve_side_by_side(case: Case):
    first = await case.deploy.start(registered(1, adapter=case.adapter))
    second = await case.deploy.start(registered(2, adapter=case.adapter))
    assert await case.deploy.serves(first)
    assert await case.deploy.serves(second)
    assert await case.deploy.others(second) == (first,)
    await case.deploy.stop(first)
    assert await case.deploy.serves(second)
    assert await case.deploy.others(second) == ()


async def test_to_start_what_serves_changes_nothing(case: Case):
    first = await case.deploy.start(registered(1, adapter=case.adapter))
    assert await case.deploy.start(registered(1, adapter=case.adapter)) == first
    assert await case.deploy.serves(first)


async def test_one_that_does_not_become_healthy_leaves_nothing_behind(case: Case):
    first = await case.deploy.start(registered(1, adapter=case.adapter))
    with pytest.raises(DeployError) as caught:
        await case.deploy.start(registered(9, adapter=case.adapter))
    assert "theta3-v9" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await case.deploy.others(first) == ()
    assert await case.deploy.serves(first)
