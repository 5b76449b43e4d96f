"""MLflow's server is killed at random moments while models are registered, promoted and undone."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mlflow import MlflowClient

from infra.model_manifest import of
from infra.model_registry import ModelRegistry, Registered
from infra.settings import Settings
from mlflow_engine import MlflowServer, finished_job
from streams.errors import Transient
from trainers.result import Result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

T = TypeVar("T")

KILLS = 2


def patiently(work: Callable[[], T]) -> T:
    """As the trainer and the deployer do: what is transient is tried again."""
    while True:
        try:
            return work()
        except Transient:
            time.sleep(0.2)


def test_an_alias_never_points_at_what_is_not_whole(tmp_path: Path):
    server = MlflowServer(tmp_path)
    server.start()
    try:
        settings = Settings(data=tmp_path / "data", mlflow={"uri": server.url})
        # So large that a kill can meet the upload.
        jobs = [
            finished_job(
                settings,
                f"job{number}",
                {"a.safetensors": bytes([number]) * 3_000_000, "more/b.json": b"{}"},
                logged=False,
            )
            for number in range(1, 7)
        ]
        draw = random.Random(5)
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(work, ModelRegistry(settings), jobs)
            killed = 0
            while killed < KILLS and not working.done():
                time.sleep(draw.uniform(0.3, 2.5))
                server.kill()
                killed += 1
                server.start()
                whole(settings, jobs, tmp_path / f"after {killed}")
            champions = working.result()
        assert killed == KILLS
        registry = ModelRegistry(settings)
        versions = [one for one in registry.versions("theta3") if one.verdict]
        assert sorted(one.job for one in versions) == sorted(job.job for job in jobs)
        assert {one.verdict for one in versions} == {"passed"}
        assert registry.candidate("theta3") is None
        assert registry.champion("theta3").version == champions[-1]
        whole(settings, jobs, tmp_path / "at the end")
    finally:
        server.kill()


@pytest.mark.parametrize("back", [False, True], ids=["and stays away", "and comes back"])
def test_a_server_that_goes_in_the_midst_of_a_download_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
):
    server = MlflowServer(tmp_path)
    server.start()
    download = MlflowClient.download_artifacts

    def cut(*arguments: Any) -> Any:
        server.kill()
        try:
            return download(*arguments)
        finally:
            if back:
                server.start()

    try:
        settings = Settings(data=tmp_path / "data", mlflow={"uri": server.url})
        registry, job = ModelRegistry(settings), finished_job(settings, "job1")
        monkeypatch.setattr(MlflowClient, "download_artifacts", cut)
        with pytest.raises(Transient):
            _judged(registry, job)
        monkeypatch.undo()
        if not back:
            server.start()
        made = _judged(registry, job)
        assert registry.champion("theta3") == registry.version("theta3", made.version)
    finally:
        server.kill()


def work(registry: ModelRegistry, jobs: list[Result]) -> list[str]:
    """Every job's model becomes champion, every third is undone; the champions there were."""
    champions: list[str] = []
    for job in jobs:
        made = patiently(partial(_judged, registry, job))
        champions.append(made.version)
        if len(champions) % 3 == 0:
            _, now = patiently(partial(_undone, registry, made))
            champions.append(now.version)
    return champions


def _judged(registry: ModelRegistry, job: Result) -> Registered:
    made = registry.register(
        "theta3", job=job.job, run=job.run, directory=job.model, base="b", adapter=True
    )
    registry.promote(made, by="gate", reason="better")
    registry.decide(made, "passed", "better")
    return made


def _undone(registry: ModelRegistry, made: Registered) -> tuple[Registered, Registered]:
    champion = registry.champion("theta3")
    assert champion is not None
    if champion.version != made.version:
        # It was done, and only the answer was lost.
        return made, champion
    return registry.rollback("theta3", by="ada", reason="to see it done")


def whole(settings: Settings, jobs: list[Result], into: Path) -> None:
    """Whatever an alias names is there, as its job left it."""
    registry = ModelRegistry(settings)
    left = {job.job: of(job.model) for job in jobs}
    for look in (registry.champion, registry.candidate):
        named = patiently(partial(look, "theta3"))
        if named is not None:
            fetched = patiently(partial(registry.download, named, into / named.name))
            assert of(fetched) == left[named.job]
