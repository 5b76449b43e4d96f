"""What the two ways of deployment do beyond their contract, over scripted servers."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from engines import free_port, processes_using
from fakes.deploy import DirectoryRegistry, registered, scripted
from fakes.model_server import ModelServer
from infra import deploy_replace
from infra.deploy import DeployError
from infra.deploy_adapter import Adapter
from infra.deploy_replace import Replace
from infra.model_probe import NoAnswer, requests, trial
from infra.settings import Generator, Server, Settings

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 4.0
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="3",running_lora_adapters="theta3-v1,theta3-v10",\
waiting_lora_adapters="theta3-v1"} 10.0
vllm:lora_requests_info{max_lora="3",running_lora_adapters="theta3-v2",waiting_lora_adapters=""} 9.0
"""


@pytest.fixture
async def base() -> AsyncIterator[ModelServer]:
    async with ModelServer(models={"theta1": "theta1"}) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, base: ModelServer) -> Settings:
    return Settings(
        data=tmp_path / "data",
        servers={"local": Server(url=base.url, api_key="sk-own")},
        generators=(Generator(name="theta1", model="theta1"),),
        deploy={"ports": [free_port(), free_port()]},
    )


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    made = DirectoryRegistry(tmp_path / "registry")
    for version in (1, 2):
        made.add(version)
    return made


async def test_a_server_that_never_is_healthy_is_ended(
    settings: Settings, registry: DirectoryRegistry
):
    registry.add(3, flags="--ill")
    policy = settings.deploy.model_copy(update={"ready_within": 3.0})
    deploy = Replace(settings.model_copy(update={"deploy": policy}), registry.download, scripted)
    with pytest.raises(DeployError, match=r"theta3-v3: not healthy within 3 s; .*\.log ends"):
        await deploy.start(registered(3))
    assert processes_using(settings.data / "models") == []


async def test_one_that_serves_under_another_name_is_ended(
    settings: Settings, registry: DirectoryRegistry
):
    def misnamed(directory, model, port, settings):
        return scripted(directory, "theta3-v7", port, settings)

    deploy = Replace(settings, registry.download, misnamed)
    with pytest.raises(DeployError, match="model theta3-v1: status 404"):
        await deploy.start(registered(1))
    assert processes_using(settings.data / "models") == []


async def test_taken_ports_are_named(settings: Settings, registry: DirectoryRegistry):
    first, second = settings.deploy.ports
    async with ModelServer(port=first), ModelServer(port=second):
        deploy = Replace(settings, registry.download, scripted)
        with pytest.raises(DeployError, match=rf"deploy.ports = {first}, {second}: all are taken"):
            await deploy.start(registered(1))


async def test_an_adapter_is_merged_into_its_base(
    settings: Settings, registry: DirectoryRegistry, tmp_path: Path, monkeypatch
):
    merged = []

    def merge(base: Path, adapter: Path, output: Path, log: Path) -> Path:
        merged.append(base)
        return adapter.rename(output)

    monkeypatch.setattr(deploy_replace, "merge", merge)
    monkeypatch.setattr(deploy_replace, "model_directory", lambda source: Path(source))
    deploy = Replace(settings, registry.download, scripted)
    address = await deploy.start(registered(1, adapter=True))
    assert merged == [Path("file:///base")]
    await deploy.stop(address)
    await deploy.start(registered(1, adapter=True))
    assert len(merged) == 1
    await deploy.close()


def test_a_merge_that_fails_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "base").mkdir()
    with pytest.raises(DeployError, match=r"cannot be merged into .*base") as caught:
        deploy_replace.merge(
            tmp_path / "base", tmp_path / "theta3-v1", tmp_path / "out", tmp_path / "merge.log"
        )
    assert "\n" not in str(caught.value)


async def test_when_it_is_closed_its_servers_end(settings: Settings, registry: DirectoryRegistry):
    deploy = Replace(settings, registry.download, scripted)
    await deploy.start(registered(1))
    await deploy.start(registered(2))
    found = processes_using(settings.data / "models")
    assert found
    await deploy.close()
    assert not any(psutil.pid_exists(process.pid) for process in found)


async def test_an_adapter_that_is_on_trial_goes_without_the_one_that_serves(
    settings: Settings, registry: DirectoryRegistry, base: ModelServer
):
    deploy = Adapter(settings, registry.download)
    on_trial = await deploy.start(registered(1, adapter=True), port=1)
    serving = await deploy.start(registered(1, adapter=True))
    assert await deploy.others(serving) == ()
    await deploy.stop(on_trial)
    assert await deploy.serves(serving)
    assert list(base.adapters) == ["theta3-v1"]
    assert set(base.keys) == {"sk-own"}


async def test_a_server_that_lost_its_adapters_is_given_them_again(
    settings: Settings, registry: DirectoryRegistry, base: ModelServer
):
    deploy = Adapter(settings, registry.download)
    serving = await deploy.start(registered(1, adapter=True))
    base.adapters.clear()
    assert not await deploy.serves(serving)
    await deploy.start(registered(1, adapter=True))
    assert base.adapters == {"theta3-v1": "theta3-v1"}


async def test_a_model_of_another_registry_is_not_taken_for_it(
    settings: Settings, registry: DirectoryRegistry, base: ModelServer
):
    """The local copy of one is not served as the other, nor one that is loaded already."""
    other = replace(registered(1, adapter=True), run="of another MLflow")
    deploy = Replace(settings, registry.download, scripted)
    await deploy.stop(await deploy.start(replace(other, adapter=False)))
    (registry.directory / "theta3-v1" / "says.txt").write_text("another")
    address = await deploy.start(registered(1))
    kept = settings.data / "models"
    assert (kept / registered(1).place / "says.txt").read_text() == "another"
    assert (kept / other.place / "says.txt").read_text() == "theta3-v1"
    await deploy.stop(address)
    adapters = Adapter(settings, registry.download)
    serving = await adapters.start(other)
    with pytest.raises(DeployError, match=f"has another model under this name, .*{other.place}"):
        await Adapter(settings, registry.download).start(registered(1, adapter=True))
    assert await adapters.serves(serving)


@pytest.mark.parametrize("run", ["", "run"])
def test_a_directory_is_named_by_what_the_model_is(run):
    model = replace(registered(1), run=run)
    # Of a base model that is served as it is, there is nothing else to tell it by.
    assert (model.place != replace(model, base="file:///other").place) is (not run)
    assert model.place != replace(model, run="other").place
    assert model.place == replace(model, by="another", verdict="passed").place


async def test_an_adapter_of_another_base_is_refused(
    settings: Settings, registry: DirectoryRegistry
):
    embedded = settings.model_copy(update={"servers": {"local": Server(source="file:///new")}})
    why = 'theta3-v1: trained on file:///base, server local serves file:///new: set deploy.mode = "'
    with pytest.raises(DeployError, match=re.escape(why)):
        await Adapter(embedded, registry.download).start(registered(1, adapter=True))


async def test_what_a_killed_gate_left_on_trial_is_unloaded(
    settings: Settings, registry: DirectoryRegistry, base: ModelServer
):
    serving = await Adapter(settings, registry.download).start(registered(1, adapter=True))
    left = await Adapter(settings, registry.download).start(registered(1, adapter=True), port=1)
    deploy = Adapter(settings, registry.download)
    address = await deploy.start(registered(2, adapter=True), port=1)
    assert set(base.adapters) == {serving.model, address.model}
    assert left.model not in base.adapters


async def test_a_model_server_does_not_inherit_the_registrys_credentials(
    settings: Settings, registry: DirectoryRegistry, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    deploy = Replace(settings, registry.download, scripted)
    await deploy.start(registered(1))
    found = processes_using(settings.data / "models")
    assert found
    assert not any("MLFLOW_TRACKING_PASSWORD" in process.environ() for process in found)
    await deploy.close()


async def test_a_server_that_is_away_is_waited_for(settings: Settings, registry: DirectoryRegistry):
    deploy = Adapter(settings, registry.download)
    serving = await deploy.start(registered(1, adapter=True))
    away = settings.model_copy(
        update={"servers": {"local": Server(url=f"http://127.0.0.1:{free_port()}/v1")}}
    )
    deploy = Adapter(away, registry.download)
    assert await deploy.serves(serving)
    assert await deploy.busy(serving) == 1
    assert await deploy.others(serving) == ()
    with pytest.raises(DeployError, match=r"http://127\.0\.0\.1"):
        await deploy.start(registered(1, adapter=True))


async def test_a_server_that_takes_no_adapters_is_told(
    settings: Settings, registry: DirectoryRegistry
):
    app = web.Application()

    async def none(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    app.router.add_get("/v1/models", none)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    other = settings.model_copy(
        update={"servers": {"local": Server(url=f"http://127.0.0.1:{port}/v1")}}
    )
    deploy = Adapter(other, registry.download)
    with pytest.raises(DeployError, match="--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        await deploy.start(registered(1, adapter=True))
    await runner.cleanup()


async def test_a_whole_model_is_no_adapter(settings: Settings, registry: DirectoryRegistry):
    with pytest.raises(DeployError, match=r"set deploy\.mode to replace"):
        await Adapter(settings, registry.download).start(registered(1))


@pytest.mark.parametrize(
    ("model", "adapter", "expected"),
    [
        ("theta3-v1", False, 7),
        ("theta3-v1", True, 2),
        ("theta3-v10", True, 1),
        # It had work once, but not when vLLM looked last.
        ("theta3-v2", True, 0),
    ],
)
async def test_work_is_counted_from_what_vllm_says(model, adapter, expected):
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=METRICS)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    assert await requests(Server(), url, model, adapter=adapter) == expected
    await runner.cleanup()


async def test_a_trial_needs_the_very_model(base: ModelServer):
    await trial(Server(), base.url, "theta1")
    with pytest.raises(NoAnswer, match="status 404"):
        await trial(Server(), base.url, "theta3-v1")
