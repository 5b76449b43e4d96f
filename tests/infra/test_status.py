"""`kailin status`: what it makes of real /metrics endpoints and of a state file."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from engines import free_port
from infra import run_state
from infra.firing_alerts import Firing
from infra.run_state import ComponentState, RunState
from infra.settings import Ports, Settings
from infra.status import Scrape, StageStatus, compare, render, sample_all, show, statuses
from streams.metrics import Metrics

STAGES = tuple(Ports().stages)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = {name: free_port() for name in ("supervisor", *STAGES)}
    return Settings(data=tmp_path, ports=ports, prometheus={"port": free_port()})


@contextmanager
def serving(settings: Settings, stage: str) -> Iterator[Metrics]:
    metrics = Metrics(CollectorRegistry())
    server, thread = start_http_server(
        settings.ports.stages[stage], settings.ports.host, metrics.registry
    )
    yield metrics
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def claimed(settings: Settings, **components: ComponentState) -> Iterator[None]:
    with run_state.claim(settings.data, patience=0, waiting=lambda: None):
        pid = int((settings.data / "run" / "lock").read_text())
        run_state.save(settings.data, RunState(pid=pid, since=0, components=components))
        yield


def printed(settings: Settings, *, as_json: bool = False) -> tuple[bool, str]:
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    healthy = show(settings, console, watch=False, as_json=as_json)
    return healthy, console.export_text()


def test_with_nothing_running_it_says_so_and_every_stage_is_down(settings: Settings) -> None:
    healthy, text = printed(settings)
    assert not healthy
    assert f"no service runs on {settings.data}" in " ".join(text.split())
    assert text.count("down") == len(STAGES)


def test_rate_lag_and_errors_come_from_the_stages_themselves(settings: Settings) -> None:
    with serving(settings, "score") as metrics:
        metrics.records_in.labels("score").inc(7)
        updates = statuses(settings, interval=0.5)
        next(updates)
        metrics.records_in.labels("score").inc(50)
        metrics.records_out.labels("score").inc(40)
        metrics.consumer_lag.labels("score", "contexts", "0").set(3)
        metrics.consumer_lag.labels("score", "contexts", "1").set(4)
        metrics.records_failed.labels("score", "not JSON").inc(2)
        metrics.dead_letters.labels("score", "not JSON").inc(1)
        metrics.dead_letters.labels("score", "field").inc(1)
        metrics.retries.labels("score", "broker").inc(9)
        score = next(updates).stages["score"]
    assert 20 < score.per_second <= 100
    assert (score.taken, score.written, score.lag) == (57, 40, 7)
    assert (score.failed, score.dead_letters, score.retries) == (2, 2, 9)


def test_an_idle_stage_is_up_although_it_has_counted_nothing(settings: Settings) -> None:
    with serving(settings, "index"):
        status = next(statuses(settings, interval=0.01))
    assert status.stages["index"] == StageStatus(up=True)
    assert not status.stages["score"].up


def test_a_restarted_worker_does_not_make_the_rate_negative() -> None:
    before = Scrape(at=10.0, values={"taken": 1000.0})
    after = Scrape(at=11.0, values={"taken": 5.0})
    assert compare(before, after).per_second == 0


def test_the_samples_of_all_stages_are_there_for_others(settings: Settings) -> None:
    with ExitStack() as stack:
        for stage in ("index", "prefer"):
            metrics = stack.enter_context(serving(settings, stage))
            metrics.records_in.labels(stage).inc(2)
        found = sample_all(settings)
    assert set(found) == set(STAGES)
    assert found["score"] == []
    taken = [s.value for s in found["prefer"] if s.name == "kailin_records_in_total"]
    assert taken == [2]


def test_it_is_healthy_only_when_every_component_is_ready(settings: Settings) -> None:
    with claimed(settings, kafka=ComponentState(state="ready")):
        assert printed(settings)[0]
    stopped = ComponentState(state="stopped", note="stopped by its dead-letter limit")
    with claimed(settings, kafka=ComponentState(state="ready"), generate=stopped):
        healthy, text = printed(settings)
    assert not healthy
    assert "stopped by its dead-letter limit" in text


def test_the_state_that_a_killed_supervisor_left_is_not_shown(settings: Settings) -> None:
    with claimed(settings, kafka=ComponentState(state="ready")):
        pass
    assert run_state.state_path(settings.data).exists()
    assert "no service runs" in printed(settings)[1]


def test_json_is_for_scripts(settings: Settings) -> None:
    with claimed(settings, kafka=ComponentState(state="ready", pid=5)):
        status = json.loads(printed(settings, as_json=True)[1])
    assert status["healthy"] is True
    assert status["run"]["components"]["kafka"]["pid"] == 5
    assert status["stages"]["index"]["up"] is False
    assert set(status["rows"].values()) == {0}
    # No Prometheus answers, so it is not known whether any fires.
    assert status["alerts"] is None


def test_what_fires_comes_first(settings: Settings) -> None:
    status = next(statuses(settings, interval=0.01))
    full = Firing(
        alert="KailinDiskFull",
        severity="critical",
        since=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        summary="9% of the disk of /data is free.",
        runbook="docs/runbook.md#kailindiskfull",
    )
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(settings, replace(status, alerts=(full,))))
    assert console.export_text().startswith(
        "critical: 9% of the disk of /data is free. Since 2026-01-02 03:04 UTC; "
        "docs/runbook.md#kailindiskfull\n"
    )


def test_a_narrow_terminal_does_not_break_it(settings: Settings) -> None:
    with claimed(settings, kafka=ComponentState(state="ready")):
        status = next(statuses(settings, interval=0.01))
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(settings, status))
    assert "kafka" in console.export_text()
