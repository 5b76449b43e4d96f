"""Deployment with the real vLLM and SmolLM2-135M: a server of its own, and an adapter."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Prompted
from engines import Engine, free_port, processes_using
from fakes.deploy import registered
from infra.deploy import Address, DeployError
from infra.deploy_adapter import Adapter
from infra.deploy_replace import Replace
from infra.model_probe import models, requests
from infra.model_registry import Registered
from infra.models import model_directory
from infra.openai_generate import OpenAIGenerate
from infra.settings import Settings
from infra.vllm_server import vllm
from streams.metrics import Metrics

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# In a process of its own, so that its memory is gone before vLLM starts.
RANDOM_ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(int(sys.argv[3]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
model = get_peft_model(model, lora)
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.normal_(std=0.05)
model.save_pretrained(sys.argv[2])
"""

BASE = Settings().servers["local"].source


def random_adapter(model: Registered, into: Path) -> Path:
    base = str(model_directory(model.base))
    command = [sys.executable, "-c", RANDOM_ADAPTER, base, str(into), model.version]
    subprocess.run(command, check=True, capture_output=True)
    return into


async def say(settings: Settings, address: Address, prompt: str = "Ask about aspirin.") -> str:
    ask = OpenAIGenerate(settings.servers["local"], Metrics(CollectorRegistry()), address.url)
    try:
        request = Prompted(
            model=address.model, prompt=prompt, temperature=0.0, top_p=1.0, max_tokens=16, seed=1
        )
        return (await ask(request)).text
    finally:
        await ask.close()


async def test_an_adapter_is_merged_and_served_by_a_server_of_its_own(tmp_path: Path):
    settings = Settings(
        data=tmp_path,
        deploy={"mode": "replace", "ports": [free_port(), free_port()]},
        servers={"local": {"api_key": "sk-own"}},
    )
    model = replace(registered(1, adapter=True), base=BASE)
    deploy = Replace(settings, random_adapter)
    began = time.monotonic()
    try:
        address = await deploy.start(model)
        took = time.monotonic() - began
        memory = sum(p.memory_info().rss for p in psutil.Process().children(recursive=True))
        print(f"replace: {took:.0f} s, {memory / 1e9:.1f} GB")
        assert address.model == "theta3-v1"
        assert await say(settings, address)
        assert await deploy.busy(address) == 0
        asking = asyncio.create_task(say(settings, address, "Write 300 words on aspirin."))
        await asking
        assert await deploy.serves(address)
        await deploy.stop(address)
        assert not [p for p in processes_using(tmp_path / "models") if p.status() != "zombie"]
        assert (tmp_path / "models" / model.place / "config.json").exists()
    finally:
        await deploy.close()


@pytest.fixture
async def base(tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings whose server runs and takes adapters."""
    settings = Settings(
        data=tmp_path,
        deploy={"mode": "adapter"},
        servers={"local": {"port": free_port(), "api_key": "sk-own"}},
    )
    engine = Engine(vllm("local", settings))
    await asyncio.to_thread(engine.start)
    try:
        yield settings
    finally:
        engine.kill()


async def test_adapters_are_loaded_into_the_running_server_and_go_again(base: Settings):
    server = base.servers["local"]
    deploy = Adapter(base, random_adapter)
    first = replace(registered(1, adapter=True), base=BASE)
    second = replace(registered(2, adapter=True), base=BASE)
    began = time.monotonic()
    old = await deploy.start(first)
    print(f"adapter: {time.monotonic() - began:.0f} s")
    assert set(await models(server, server.address)) == {"theta1", "theta2", "theta3-v1"}
    assert await deploy.start(first) == old
    new = await deploy.start(second)
    on_trial = await deploy.start(second, port=1)
    assert on_trial.model == f"{second.place}-trial"
    assert await deploy.others(new) == (old,)
    # Adapter and base requests are not mixed here: on a CPU that computes the base ones wrongly.
    assert await say(base, old) == await say(base, old)
    assert await say(base, old) != await say(base, new)
    assert await say(base, new) == await say(base, on_trial)
    asking = [asyncio.create_task(say(base, old, f"Write 300 words on {n}.")) for n in range(8)]
    busy = []
    while not all(task.done() for task in asking):
        busy.append((await deploy.busy(old), await deploy.busy(new)))
        await asyncio.sleep(0.05)
    assert any(of_old for of_old, _ in busy)
    assert not any(of_new for _, of_new in busy)
    assert await deploy.busy(old) == 0
    assert await requests(server, server.address, old.model) == 0
    await deploy.stop(old)
    await deploy.stop(on_trial)
    assert await deploy.serves(new)
    assert not await deploy.serves(old)
    with pytest.raises(DeployError, match="theta3-v3: is a whole model"):
        await deploy.start(registered(3))
    # Adapters outlive the deployer, since the server is not its own.
    await deploy.close()
    assert await say(base, new)
