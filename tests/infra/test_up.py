"""What `kailin up` starts, and the service on a real broker from the command line."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from consumers.stage import MISCONFIGURED, TOO_MANY_DEAD_LETTERS
from engines import free_port, processes_using, write_config
from infra import run_state
from infra.run_state import wait_until_free
from infra.settings import Settings
from infra.settings_file import load
from infra.supervisor import StartFailed
from infra.up import component_names, plan, up, worker

STAGES = (
    *("index", "generate", "retrieve", "score", "prefer", "append", "rescore"),
    *("answer", "backlog"),
)
LOOP = ("trainer", "deployer")
WATCHERS = ("prometheus", "alertmanager")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings on free ports, with all engines embedded."""
    return write_config(tmp_path)


def kailin(config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )


def test_everything_is_embedded_by_default() -> None:
    engines = ("kafka", "elasticsearch", "vllm-local")
    assert component_names(Settings()) == (*engines, *STAGES, *LOOP, *WATCHERS)


def test_what_is_elsewhere_is_not_started() -> None:
    settings = Settings(
        kafka={"bootstrap": "broker:9092"},
        elasticsearch={"url": "https://search:9200"},
        servers={"local": {"url": "http://model/v1"}},
    )
    assert component_names(settings) == (*STAGES, *LOOP, *WATCHERS)


def test_a_server_that_nothing_asks_is_not_started() -> None:
    servers = {"local": {}, "spare": {"port": 28001}, "teacher": {"port": 28002}}
    answerer = {"name": "static", "server": "teacher", "model": "static"}
    names = component_names(Settings(servers=servers, answerers=[answerer]))
    assert "vllm-spare" not in names
    assert "vllm-teacher" in names


def test_nothing_is_trained_where_training_is_not_enabled() -> None:
    names = component_names(Settings(training={"enabled": False}))
    assert "trainer" not in names
    # What serves already goes on.
    assert "deployer" in names


def test_the_learning_loop_runs_beside_the_stages(tmp_path: Path) -> None:
    _, _, followers, _ = plan(Settings(data=tmp_path), None, LOOP, Console(quiet=True))
    assert [part.command[-1] for part in followers.components] == list(LOOP)
    assert MISCONFIGURED in followers.final


def test_only_the_chosen_stages_are_planned(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    engines, workers, followers, watchers = plan(
        settings, None, ("score", "prefer"), Console(quiet=True)
    )
    assert engines.components == followers.components == watchers.components == ()
    assert engines.then is not None
    assert [part.name for part in workers.components] == ["score", "prefer"]
    assert workers.final.keys() == {MISCONFIGURED, TOO_MANY_DEAD_LETTERS}


def test_sources_that_the_settings_name_are_followed(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, follow={"nlm": ["updates"]})
    assert component_names(settings)[-5:] == ("ingest", *LOOP, *WATCHERS)
    _, _, followers, _ = plan(settings, None, ("ingest",), Console(quiet=True))
    (follower,) = followers.components
    assert follower.command[-2:] == ("ingest", "follow")
    assert MISCONFIGURED in followers.final


def test_a_worker_runs_with_the_same_settings_file(tmp_path: Path) -> None:
    component = worker("score", Settings(data=tmp_path), Path("some.toml"))
    assert component.command[-4:] == ("--config", str(Path("some.toml").resolve()), "run", "score")


def test_a_taken_port_is_named_with_its_setting_before_anything_starts(config: Path) -> None:
    settings = load(config)
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.ports.score))
        other.listen()
        with pytest.raises(StartFailed, match=rf"ports\.score = {settings.ports.score}: taken"):
            up(settings, config, ("score",), Console(file=io.StringIO()))
    assert not (settings.data / "logs").exists()


def test_nothing_works_on_what_is_half_restored(config: Path) -> None:
    marker = run_state.restoring(config.parent / "data")
    marker.parent.mkdir(parents=True)
    marker.write_text("there")
    done = kailin(config, "up", "--only", "generate")
    assert (done.returncode, "not finished" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    # What a restore itself needs may run.
    plan(load(config), config, ("prometheus",), Console(quiet=True))


def test_a_broker_that_is_not_there_fails_the_start_with_one_line(config: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    done = kailin(config, "up", "--only", "prefer", KAILIN_KAFKA__BOOTSTRAP=nowhere)
    assert done.returncode == 1
    assert nowhere in done.stderr
    assert "Traceback" not in done.stderr
    assert wait_until_free(load(config).data, 0)


def test_an_unknown_component_is_wrong_usage(config: Path) -> None:
    done = kailin(config, "up", "--only", "kafak")
    assert done.returncode == 2
    assert done.stderr.startswith("--only kafak: expected one of kafka, elasticsearch, vllm-local")


def test_down_with_nothing_running_is_done(config: Path) -> None:
    done = kailin(config, "down")
    assert (done.returncode, "nothing runs" in done.stdout) == (0, True)


@pytest.mark.kafka
def test_up_status_and_down_on_a_real_broker(config: Path) -> None:
    started = kailin(config, "up", "--detach", "--only", "kafka")
    assert started.returncode == 0, started.stderr
    try:
        assert "kafka          ready" in started.stdout
        status = kailin(config, "status", "--json")
        assert status.returncode == 0
        kafka = json.loads(status.stdout)["run"]["components"]["kafka"]
        assert "kafka.Kafka" in psutil.Process(kafka["pid"]).cmdline()
        second = kailin(config, "up")
        assert second.returncode == 1
        assert len(second.stderr.strip().splitlines()) == 1
        assert "already runs" in second.stderr
    finally:
        down = kailin(config, "down")
    assert down.returncode == 0
    assert processes_using(load(config).data) == []
    assert kailin(config, "status").returncode == 1


HELD = """
import sys, time
from pathlib import Path
from rich.console import Console
from infra.settings_file import load
from infra.up import service
path = Path(sys.argv[1])
with service(load(path), path, Console(), only=("kafka",)):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_service_for_a_while_ends_with_its_program(config: Path, number: signal.Signals) -> None:
    data = load(config).data
    program = subprocess.Popen(
        [sys.executable, "-c", HELD, str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout
    assert any(line == "held\n" for line in program.stdout)
    state = run_state.load(data)
    assert state
    assert state.components["kafka"].state == "ready"
    program.send_signal(number)
    program.wait(90)
    deadline = time.monotonic() + 60
    while processes_using(data) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_using(data) == []
