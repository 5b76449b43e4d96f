"""`kailin pause` and `resume` on a real broker: what the stages hear, what an operator sees."""

import asyncio
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console
from typer.testing import CliRunner

from command_line import command, kailin
from engines import KafkaEngine, free_port
from fakes import records
from infra import pause
from infra.cli import app
from infra.kafka import Publisher, end_offset
from infra.settings import Settings
from infra.settings_file import load
from infra.status import render, samples, statuses
from infra.topic_admin import create_topics
from streams.metrics import Metrics
from streams.topics import ALIGNMENTS, CONTROL, PREFERENCES

pytestmark = pytest.mark.kafka


@pytest.fixture
def config(kafka_broker: KafkaEngine, tmp_path: Path) -> Path:
    path = tmp_path / "kailin.toml"
    path.write_text(
        f'data = "{tmp_path}/data"\n'
        f'[kafka]\nbootstrap = "{kafka_broker.bootstrap}"\nprefix = "t{uuid.uuid4().hex[:8]}."\n'
        f"[ports]\nprefer = {free_port()}\n"
    )
    asyncio.run(create_topics(load(path), [ALIGNMENTS, PREFERENCES, CONTROL]))
    return path


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def told(settings: Settings, *stages: str, paused: bool, why: str = "") -> None:
    await pause.tell(settings, stages, paused=paused, who="ana", why=why)


async def test_a_stage_hears_of_it_and_the_others_do_not(settings: Settings):
    metrics = Metrics(CollectorRegistry())
    async with (
        pause.going(settings, "score", metrics) as score,
        pause.going(settings, "prefer", metrics) as prefer,
    ):
        assert score.is_set()
        await told(settings, "score", paused=True, why="a look at it")
        await until(lambda: not score.is_set(), 5)
        assert prefer.is_set()
        gauge = metrics.registry.get_sample_value
        assert gauge("kailin_paused", {"stage": "score"}) == 1
        assert gauge("kailin_paused", {"stage": "prefer"}) == 0
        await told(settings, "score", paused=False)
        await asyncio.wait_for(score.wait(), 5)
        assert gauge("kailin_paused", {"stage": "score"}) == 0


async def test_it_holds_for_one_that_starts_later(settings: Settings):
    await told(settings, "score", paused=True)
    async with pause.going(settings, "score", Metrics(CollectorRegistry())) as score:
        assert not score.is_set()


async def test_who_said_it_first_is_kept(settings: Settings):
    first = await pause.tell(settings, ["score", "index"], paused=True, who="ana", why="a test")
    again = await pause.tell(settings, ["score", "prefer"], paused=True, who="bo", why="another")
    assert [control.stage for control in first] == ["score", "index"]
    assert [control.stage for control in again] == ["prefer"]
    shown = await asyncio.to_thread(pause.read_status, settings)
    assert shown
    assert [(each.stage, each.who) for each in shown] == [
        ("index", "ana"),
        ("score", "ana"),
        ("prefer", "bo"),
    ]


def test_the_commands_and_the_status_say_who_when_and_why(config: Path, settings: Settings):
    out = kailin(config, "pause", "score", "ingest", "--why", "a move", "--by", "ana")
    assert out.count("is paused by ana since 20") == 2
    assert out.count(": a move") == 2
    assert "score is paused already" in kailin(config, "pause", "score")
    status = next(statuses(settings, interval=0.1))
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(settings, status))
    text = console.export_text()
    assert "score is paused by ana since 20" in text
    assert [told["stage"] for told in status.as_json()["paused"]] == ["score", "ingest"]
    assert "score goes on, as told by" in kailin(config, "resume", "score")
    assert "score is not paused" in kailin(config, "resume", "score")


def test_a_stage_that_is_none_is_told_those_there_are():
    shown = CliRunner().invoke(app, ["pause", "scroe"])
    assert shown.exit_code == 2
    assert "scroe: expected one of index, generate" in shown.output


@pytest.fixture
def worker(config: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Starts the worker of prefer as `kailin up` does."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        with (config.parent / "prefer.log").open("ab") as log:
            started.append(
                subprocess.Popen(command(config, "run", "prefer"), stdout=log, stderr=log)
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_a_worker_that_is_killed_while_paused_stays_paused(
    settings: Settings, worker: Callable[[], "subprocess.Popen[bytes]"]
):
    def sample(name: str) -> float | None:
        found = samples(settings.ports.host, settings.ports.prefer) or []
        values = [sample.value for sample in found if sample.name == name]
        return sum(values) if values else None

    await told(settings, "prefer", paused=True)
    async with Publisher(settings) as publisher:
        for pmid in range(1, 11):
            await publisher.send(ALIGNMENTS, records.alignments(pmid))
    first = worker()
    await until(lambda: sample("kailin_paused") == 1)
    first.kill()
    first.wait()
    worker()
    await until(lambda: sample("kailin_paused") == 1)
    # It is at work: the lag is that of the partitions that it holds.
    await until(lambda: (sample("kailin_consumer_lag_records") or 0) > 0)
    assert await end_offset(settings, PREFERENCES) == 0
    await told(settings, "prefer", paused=False)
    await until(lambda: (sample("kailin_records_out_total") or 0) > 0)
    assert await end_offset(settings, PREFERENCES) > 0
