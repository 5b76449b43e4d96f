"""The deployer's loop: what serves is the champion, without a gap, whatever happens."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from fakes.deploy import DirectoryRegistry, FakeDeploy
from infra.deployer import Deployer
from infra.settings_learning import Deploy as Policy
from streams.errors import Transient
from streams.learning import Serving
from streams.metrics import Metrics

NOW = datetime(2026, 3, 7, tzinfo=UTC)


@dataclass
class Case:
    """A deployer over fakes; `topic` is all that it told, the last being what is known."""

    registry: DirectoryRegistry
    deploy: FakeDeploy = field(default_factory=FakeDeploy)
    topic: list[Serving] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    broker_away: bool = False

    def deployer(self) -> Deployer:
        async def tell(serving: Serving) -> None:
            if self.broker_away:
                raise Transient("broker away")
            self.topic.append(serving)

        return Deployer(
            Policy(drain=0.05, drain_longest=0.5, look_every=0.01),
            deploy=self.deploy,
            registry=self.registry,
            told=lambda: self.topic[-1] if self.topic else None,
            tell=tell,
            metrics=self.metrics,
            now=lambda: NOW,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"generator": "theta3", **labels})

    @property
    def failing(self) -> float | None:
        return self.metric("kailin_deployment_failing")

    @property
    def models(self) -> list[str]:
        return [serving.model for serving in self.topic]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(DirectoryRegistry(tmp_path / "registry"))


async def looks(deployer: Deployer, times: int = 4) -> None:
    for _ in range(times):
        await deployer.look()
        await asyncio.sleep(0)


async def test_without_a_champion_nothing_is_done(case: Case):
    await looks(case.deployer())
    assert case.deploy.started == case.topic == []
    assert case.failing == 0


async def test_a_champion_is_started_and_then_told(case: Case):
    case.registry.promote(1)
    await looks(case.deployer())
    (serving,) = case.topic
    assert serving == Serving(
        generator="theta3",
        model="theta3-v1",
        revision="1",
        server="local",
        url="http://127.0.0.1:28011/v1",
        first=NOW,
        by="gate",
        reason="won 60 % of 500",
        at=NOW,
    )
    assert case.metric("kailin_serving_revision") == 1
    assert case.metric("kailin_deployments_total", outcome="done") == 1


async def test_the_old_one_goes_once_it_has_had_no_work_for_a_while(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.work["theta3-v1"] = 2
    case.registry.promote(2)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2"]
    await asyncio.sleep(0.15)
    assert case.deploy.stopped == []
    case.deploy.work["theta3-v1"] = 0
    await asyncio.sleep(0.15)
    assert case.deploy.stopped == ["theta3-v1"]
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2"]


async def test_one_that_is_never_without_work_goes_in_the_end(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.work["theta3-v1"] = 1
    case.registry.promote(2)
    await looks(deployer)
    await asyncio.sleep(0.8)
    assert case.deploy.stopped == ["theta3-v1"]


async def test_one_that_is_not_healthy_leaves_the_old_one_serving(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.ill.add("theta3-v2")
    case.registry.promote(2)
    await looks(deployer)
    assert case.models == ["theta3-v1"]
    assert case.deploy.stopped == []
    assert case.failing == 1
    assert case.metric("kailin_deployments_total", outcome="failed") == 1
    # It is tried again after a while, not at every look.
    assert case.deploy.started.count("theta3-v2") == 1
    await asyncio.sleep(0.05)
    await looks(deployer)
    assert case.deploy.started.count("theta3-v2") == 2

    case.deploy.ill.clear()
    await asyncio.sleep(0.1)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2"]
    assert case.failing == 0


async def test_the_alert_ends_when_the_champion_is_changed_back(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.ill.add("theta3-v2")
    case.registry.promote(2)
    await looks(deployer)
    assert case.failing == 1
    case.registry.promote(1)
    await looks(deployer)
    assert case.failing == 0
    assert case.models == ["theta3-v1"]


async def test_a_server_that_dies_is_started_again_and_told_once(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.running.clear()
    await looks(deployer)
    assert case.deploy.started == ["theta3-v1", "theta3-v1"]
    assert case.models == ["theta3-v1"]


async def test_a_new_deployer_puts_back_what_served_before_it_goes_on(case: Case):
    case.registry.promote(1)
    await looks(case.deployer())
    case.deploy.running.clear()
    case.registry.promote(2)
    await looks(case.deployer(), 8)
    assert case.deploy.started == ["theta3-v1", "theta3-v1", "theta3-v2"]
    assert case.models == ["theta3-v1", "theta3-v2"]
    assert case.topic[-1].first == NOW


async def test_the_new_address_of_what_served_is_told(case: Case):
    case.registry.promote(1)
    await looks(case.deployer())
    case.topic[-1] = replace(case.topic[-1], url="http://127.0.0.1:1/v1", by="ada", reason="why")
    case.deploy.running.clear()
    await looks(case.deployer())
    assert case.topic[-1].url == "http://127.0.0.1:28011/v1"
    assert (case.topic[-1].by, case.topic[-1].reason) == ("ada", "why")


async def test_what_served_and_cannot_be_started_gives_way_to_the_champion(case: Case):
    case.registry.promote(1)
    await looks(case.deployer())
    case.deploy.running.clear()
    case.deploy.ill.add("theta3-v1")
    case.registry.promote(2)
    await looks(case.deployer(), 8)
    assert case.models == ["theta3-v1", "theta3-v2"]


async def test_while_the_registry_is_away_what_serves_goes_on(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    (case.registry.directory / "away").touch()
    await looks(deployer)
    assert case.deploy.stopped == []
    case.deploy.running.clear()
    await looks(deployer)
    assert case.deploy.started == ["theta3-v1", "theta3-v1"]


async def test_what_served_comes_back_when_the_registry_does(case: Case):
    case.registry.promote(1)
    await looks(case.deployer())
    case.deploy.running.clear()
    (case.registry.directory / "away").touch()
    deployer = case.deployer()
    await looks(deployer)
    assert case.deploy.started == ["theta3-v1"]
    assert case.failing == 1
    (case.registry.directory / "away").unlink()
    await looks(deployer)
    assert case.deploy.started == ["theta3-v1", "theta3-v1"]
    assert case.failing == 0


async def test_what_cannot_be_told_yet_is_told_later_and_nothing_goes_before(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.broker_away = True
    case.registry.promote(2)
    for _ in range(4):
        with suppress(Transient):
            await deployer.look()
        await asyncio.sleep(0.05)
    assert case.models == ["theta3-v1"]
    assert case.deploy.stopped == []
    case.broker_away = False
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2"]


async def test_a_return_to_the_version_that_is_draining_keeps_its_server(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.work["theta3-v1"] = 1
    case.registry.promote(2)
    await looks(deployer)
    case.registry.promote(1)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2", "theta3-v1"]
    await asyncio.sleep(0.2)
    assert case.deploy.stopped == ["theta3-v2"]


async def test_a_third_waits_for_the_first_to_go(case: Case):
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.deploy.work["theta3-v1"] = 1
    case.registry.promote(2)
    await looks(deployer)
    case.registry.promote(3)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2"]
    case.deploy.work["theta3-v1"] = 0
    await asyncio.sleep(0.15)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v2", "theta3-v3"]


async def test_a_champion_that_is_changed_during_its_start_is_given_up(case: Case):
    held = asyncio.Event()
    start = case.deploy.start

    async def slow(model, *, port=None):
        if model.name == "theta3-v2":
            await held.wait()
        return await start(model, port=port)

    case.deploy.start = slow  # type: ignore[method-assign]
    case.registry.promote(1)
    deployer = case.deployer()
    await looks(deployer)
    case.registry.promote(2)
    await looks(deployer)
    case.registry.promote(3)
    await looks(deployer)
    assert case.models == ["theta3-v1", "theta3-v3"]
    assert "theta3-v2" not in case.deploy.started


async def test_told_to_stop_it_lets_go_of_everything(case: Case):
    case.registry.promote(1)
    stop = asyncio.Event()
    running = asyncio.create_task(case.deployer().run(stop))
    await asyncio.sleep(0.3)
    assert case.deploy.running
    stop.set()
    await asyncio.wait_for(running, 5)
    assert case.deploy.running == {}
