"""The supervisor on small real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry

from infra import run_state
from infra.component import Component
from infra.run_state import AlreadyRunning, RunState
from infra.supervisor import Backoff, StartFailed, Supervisor, Wave
from streams.metrics import Metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")

SLEEP = "import time; time.sleep(600)"
# Leaves a grandchild in another session and says which.
PARENT = (
    "import os, subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    "start_new_session=True); "
    "print('pids', os.getpid(), child.pid, flush=True); time.sleep(600)"
)
QUICK = Backoff(first=0.05, longest=0.4, healthy=60.0)


async def at_once() -> bool:
    return True


async def never() -> bool:
    return False


def component(
    tmp_path: Path,
    name: str,
    code: str,
    ready: Callable[[], Awaitable[bool]] = at_once,
    ready_within: float = 10.0,
) -> Component:
    return Component(
        name=name,
        command=(sys.executable, "-c", code),
        env={},
        log=tmp_path / "logs" / f"{name}.log",
        ready=ready,
        ready_within=ready_within,
        stop_within=2.0,
    )


def supervisor(tmp_path: Path, *waves: Wave, backoff: Backoff = QUICK) -> Supervisor:
    lock = run_state.claim(tmp_path, patience=0, waiting=lambda: None)
    metrics = Metrics(CollectorRegistry())
    return Supervisor(waves, data=tmp_path, lock=lock, metrics=metrics, backoff=backoff)


@asynccontextmanager
async def running(supervisor: Supervisor):
    task = asyncio.create_task(supervisor.run(lambda state: None))
    try:
        yield task
    finally:
        supervisor.stop.set()
        await asyncio.wait_for(task, 30)


async def until(condition: Callable[[], Any], within: float = 15.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 (processes set no event)
            await asyncio.sleep(0.02)


def states(state: RunState) -> dict[str, str]:
    return {name: component.state for name, component in state.components.items()}


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pids_in(log: Path) -> list[int]:
    """The pids that the newest PARENT wrote to its log."""
    text = log.read_text() if log.exists() else ""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("pids")]
    return [int(pid) for pid in lines[-1]] if lines else []


async def test_waves_start_one_after_the_other_with_the_step_between(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def between() -> None:
        seen.append(states(service.state))

    service = supervisor(
        tmp_path,
        Wave(components=(component(tmp_path, "kafka", SLEEP),), then=between),
        Wave(components=(component(tmp_path, "index", SLEEP),)),
    )
    async with running(service):
        await until(lambda: service.state.started)
        assert seen == [{"kafka": "ready", "index": "waiting"}]
        assert states(service.state) == {"kafka": "ready", "index": "ready"}


async def test_what_dies_is_started_again_later_each_time(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"import time; open({str(starts)!r}, 'a').write(f'{{time.time()}}\\n'); time.sleep(0.4)"
    service = supervisor(tmp_path, Wave(components=(component(tmp_path, "score", code),)))
    async with running(service):
        await until(lambda: starts.exists() and len(starts.read_text().split()) >= 5)
        at = [float(line) for line in starts.read_text().split()]
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert gaps[3] > gaps[0] + 0.2  # 0.4 s of delay against 0.05
        assert service.state.components["score"].last_exit == 0


async def test_after_healthy_times_the_delay_begins_anew(tmp_path: Path) -> None:
    backoff = Backoff(first=0.05, longest=60.0, healthy=0.1)
    code = "import time; time.sleep(0.3)"
    service = supervisor(
        tmp_path, Wave(components=(component(tmp_path, "score", code),)), backoff=backoff
    )
    async with running(service):
        # Doubling from 0.05 s, eight restarts would take more than 12 seconds of delay alone.
        await until(lambda: service.state.components["score"].restarts >= 8, within=10)


async def test_the_dead_letter_limit_is_final(tmp_path: Path) -> None:
    stage = component(tmp_path, "generate", "import time; time.sleep(0.5); raise SystemExit(3)")
    wave = Wave(components=(stage,), final={3: "stopped by its dead-letter limit"})
    service = supervisor(tmp_path, wave)
    async with running(service):
        generate = service.state.components["generate"]
        await until(lambda: generate.state == "stopped")
        await asyncio.sleep(0.5)
        assert generate.state == "stopped"
        assert generate.restarts == 0
        assert generate.last_exit == 3
        assert generate.note == "stopped by its dead-letter limit"


async def test_a_final_status_before_it_was_ready_fails_the_start(tmp_path: Path) -> None:
    code = "print('ports.score = 1: cannot serve'); raise SystemExit(2)"
    stage = component(tmp_path, "score", code, never)
    service = supervisor(tmp_path, Wave(components=(stage,), final={2: "to be put right first"}))
    with pytest.raises(StartFailed, match=r"(?s)score: to be put right first.*cannot serve"):
        await service.run(lambda state: None)
    assert service.state.components["score"].restarts == 0


async def test_status_3_of_anything_else_is_a_crash(tmp_path: Path) -> None:
    # The JVM exits with 3 when it is out of memory.
    engine = component(tmp_path, "kafka", "import time; time.sleep(0.5); raise SystemExit(3)")
    service = supervisor(tmp_path, Wave(components=(engine,)))
    async with running(service):
        await until(lambda: service.state.components["kafka"].restarts >= 1)


async def test_what_never_becomes_ready_fails_the_start_with_its_log(tmp_path: Path) -> None:
    code = "print('port 9092 is taken'); raise SystemExit(1)"
    service = supervisor(tmp_path, Wave(components=(component(tmp_path, "kafka", code, never),)))
    with pytest.raises(
        StartFailed, match=r"(?s)kafka: exit status 1, given up.*port 9092 is taken"
    ):
        await asyncio.wait_for(service.run(lambda state: None), 20)


async def test_what_is_not_ready_in_time_is_ended_and_tried_again(tmp_path: Path) -> None:
    slow = component(tmp_path, "kafka", PARENT, never, ready_within=0.5)
    service = supervisor(tmp_path, Wave(components=(slow,)))
    with pytest.raises(StartFailed, match="not ready within"):
        await asyncio.wait_for(service.run(lambda state: None), 30)
    assert all(gone(pid) for pid in pids_in(slow.log))


async def test_stops_in_reverse_order(tmp_path: Path) -> None:
    def noting(name: str) -> str:
        stops = str(tmp_path / "stops")
        return (
            "import signal, sys, time\n"
            "def stop(*_):\n"
            f"    time.sleep(0.2); open({stops!r}, 'a').write({name!r} + ' '); sys.exit(143)\n"
            "signal.signal(signal.SIGTERM, stop); print('set', flush=True); time.sleep(600)"
        )

    async def set_up(name: str) -> bool:
        log = tmp_path / "logs" / f"{name}.log"
        return log.exists() and "set" in log.read_text()

    names = ("kafka", "index", "prometheus")
    parts = [
        component(tmp_path, name, noting(name), lambda name=name: set_up(name)) for name in names
    ]
    service = supervisor(tmp_path, *(Wave(components=(part,)) for part in parts))
    async with running(service):
        await until(lambda: service.state.started)
    assert (tmp_path / "stops").read_text().split() == ["prometheus", "index", "kafka"]
    assert set(states(service.state).values()) == {"stopped"}
    assert not run_state.state_path(tmp_path).exists()


async def test_killing_a_leash_leaves_no_orphan_and_restarts(tmp_path: Path) -> None:
    vllm = component(tmp_path, "vllm", PARENT)
    service = supervisor(tmp_path, Wave(components=(vllm,)))
    async with running(service):
        await until(lambda: pids_in(vllm.log))
        first = pids_in(vllm.log)
        os.kill(psutil.Process(first[0]).ppid(), signal.SIGKILL)
        await until(lambda: len(pids_in(vllm.log)) == 2 and pids_in(vllm.log) != first)
        assert all(gone(pid) for pid in first)
        assert service.state.components["vllm"].last_exit == 128 + signal.SIGKILL
    assert all(gone(pid) for pid in pids_in(vllm.log))


async def test_the_state_file_names_each_components_own_process(tmp_path: Path) -> None:
    vllm = component(tmp_path, "vllm", PARENT)
    service = supervisor(tmp_path, Wave(components=(vllm,)))
    async with running(service):
        await until(lambda: run_state.load(tmp_path) and pids_in(vllm.log))
        await until(lambda: run_state.load(tmp_path).components["vllm"].pid)
        state = json.loads(run_state.state_path(tmp_path).read_text())
        assert state["pid"] == os.getpid()
        assert state["components"]["vllm"]["pid"] == pids_in(vllm.log)[0]
        assert state["components"]["vllm"]["state"] == "ready"


async def test_metrics_tell_what_is_up_and_how_often_it_died(tmp_path: Path) -> None:
    lock = run_state.claim(tmp_path, patience=0, waiting=lambda: None)
    registry = CollectorRegistry()
    code = "import time; time.sleep(0.3)"
    waves = (
        Wave(components=(component(tmp_path, "kafka", SLEEP), component(tmp_path, "prefer", code))),
    )
    service = Supervisor(waves, data=tmp_path, lock=lock, metrics=Metrics(registry), backoff=QUICK)

    def value(name: str, component: str) -> float | None:
        return registry.get_sample_value(name, {"component": component})

    async with running(service):
        await until(lambda: value("kailin_component_up", "kafka") == 1)
        await until(lambda: (value("kailin_component_restarts_total", "prefer") or 0) >= 2)
        assert value("kailin_component_restarts_total", "kafka") == 0
        assert value("kailin_component_stopped", "prefer") == 0


async def test_a_metric_tells_what_is_not_started_again(tmp_path: Path) -> None:
    lock = run_state.claim(tmp_path, patience=0, waiting=lambda: None)
    registry = CollectorRegistry()
    code = "import time; time.sleep(0.5); raise SystemExit(3)"
    stages = (component(tmp_path, "score", code), component(tmp_path, "prefer", SLEEP))
    wave = Wave(components=stages, final={3: "stopped by its dead-letter limit"})
    metrics = Metrics(registry)
    service = Supervisor((wave,), data=tmp_path, lock=lock, metrics=metrics, backoff=QUICK)

    def stopped(name: str) -> float | None:
        return registry.get_sample_value("kailin_component_stopped", {"component": name})

    async with running(service):
        await until(lambda: stopped("prefer") == 0)
        await until(lambda: stopped("score") == 1)
        # What is told to stop has not stopped by itself.
        service.stop.set()
        await until(lambda: service.state.components["prefer"].state == "stopped")
        assert stopped("prefer") == 0


async def test_a_fault_of_the_step_between_stops_everything_and_is_raised(tmp_path: Path) -> None:
    async def refuse() -> None:
        raise StartFailed("topic questions: cannot be created")

    kafka = component(tmp_path, "kafka", PARENT)
    service = supervisor(tmp_path, Wave(components=(kafka,), then=refuse))
    with pytest.raises(StartFailed, match="topic questions"):
        await asyncio.wait_for(service.run(lambda state: None), 20)
    assert all(gone(pid) for pid in pids_in(kafka.log))


# A service of two components in a process of its own, to be stopped and killed from outside.
SERVICE = """
import asyncio, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from infra import run_state
from infra.component import Component
from infra.supervisor import Supervisor, Wave
from streams.metrics import Metrics

data, parent = Path(sys.argv[1]), sys.argv[2]

async def ready(): return True

def component(name):
    return Component(name=name, command=(sys.executable, "-c", parent), env={},
                     log=data / "logs" / f"{name}.log", ready=ready, stop_within=1.0)

lock = run_state.claim(data, patience=0, waiting=lambda: None)
waves = (Wave(components=(component("kafka"),)), Wave(components=(component("index"),)))
service = Supervisor(waves, data=data, lock=lock, metrics=Metrics(CollectorRegistry()))
asyncio.run(service.run(lambda state: None))
"""


@pytest.fixture
def service(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path), PARENT])
    deadline = time.monotonic() + 20
    while len(all_pids(tmp_path)) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def all_pids(data: Path) -> list[int]:
    return [pid for name in ("kafka", "index") for pid in pids_in(data / "logs" / f"{name}.log")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_cleanly(
    service: "subprocess.Popen[bytes]", tmp_path: Path, number: signal.Signals
) -> None:
    service.send_signal(number)
    assert service.wait(20) == 0
    assert all(gone(pid) for pid in all_pids(tmp_path))
    assert run_state.wait_until_free(tmp_path, 0)


def test_kill_9_leaves_no_orphan_and_the_next_start_waits_for_the_end(
    service: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    pids = all_pids(tmp_path)
    service.kill()
    service.wait()
    assert run_state.load(tmp_path) is None
    with run_state.claim(tmp_path, patience=20, waiting=lambda: None):
        assert all(gone(pid) for pid in pids)


def test_a_second_one_on_the_same_data_is_refused_in_one_line(
    service: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    with pytest.raises(AlreadyRunning) as refused:
        run_state.claim(tmp_path, patience=5, waiting=lambda: None)
    assert f"pid {service.pid}" in str(refused.value)
    assert "\n" not in str(refused.value)
