import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from infra.model_registry import ModelRegistry, Registered, RegistryError
from infra.settings import Settings
from mlflow_engine import finished_job
from streams.errors import Transient


@pytest.fixture
def settings(tmp_path: Path, mlflow_uri: str, request: pytest.FixtureRequest) -> Settings:
    """Of a deployment of its own in one MLflow."""
    return Settings(data=tmp_path, mlflow={"uri": mlflow_uri, "experiment": request.node.name})


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    return ModelRegistry(settings)


@pytest.fixture
def trained(settings: Settings) -> Callable[..., dict[str, Any]]:
    """Has a job end: the arguments of `register`."""
    jobs = count(1)

    def make(*, logged: bool = True) -> dict[str, Any]:
        job = f"job{next(jobs)}"
        files = {
            "adapter_model.safetensors": job.encode() * 1000,
            "more/README.md": f"About {job}.".encode(),
        }
        done = finished_job(settings, job, files, logged=logged)
        return {
            "job": job,
            "run": done.run,
            "directory": done.model,
            "base": "pypi://b",
            "adapter": True,
        }

    return make


def artifacts(settings: Settings, run: str) -> Path:
    return Path(settings.data / "mlflow" / "artifacts" / run / "artifacts")


def test_a_model_is_registered_once_and_is_candidate(registry, trained):
    job = trained()
    first = registry.register("theta3", **job)
    assert (first.name, first.job, first.base, first.adapter) == (
        "theta3-v1",
        "job1",
        "pypi://b",
        True,
    )
    assert registry.register("theta3", **job) == first
    assert registry.versions("theta3") == [first]
    assert registry.candidate("theta3") == first
    assert registry.champion("theta3") is None


def test_the_targets_and_deployments_of_one_mlflow_do_not_mix(registry, trained, settings):
    registry.register("theta3", **trained())
    assert registry.versions("answers") == []
    other = settings.model_copy(
        update={"mlflow": settings.mlflow.model_copy(update={"experiment": "another"})}
    )
    assert ModelRegistry(other).versions("theta3") == []


def test_the_one_that_passes_is_champion_and_no_longer_candidate(registry, trained):
    made = registry.register("theta3", **trained())
    registry.promote(made, by="gate", reason="win rate 0.6")
    registry.decide(made, "passed", "win rate 0.6")
    champion = registry.champion("theta3")
    assert (champion.by, champion.reason, champion.verdict) == ("gate", "win rate 0.6", "passed")
    assert champion.at is not None
    assert registry.candidate("theta3") is None


def test_a_blocked_candidate_keeps_its_reason(registry, trained):
    registry.decide(registry.register("theta3", **trained()), "blocked", "win rate 0.4")
    candidate = registry.candidate("theta3")
    assert (candidate.verdict, candidate.verdict_reason) == ("blocked", "win rate 0.4")
    # The next one is candidate in its place.
    assert registry.register("theta3", **trained()) == registry.candidate("theta3")
    assert registry.version("theta3", "1").verdict_reason == "win rate 0.4"


def promoted(registry: ModelRegistry, trained: Callable[..., dict[str, Any]]) -> Registered:
    made = registry.register("theta3", **trained())
    registry.promote(made, by="gate", reason="better")
    return made


def test_a_version_that_was_made_champion_in_mlflow_alone_is_told(registry, trained):
    made = promoted(registry, trained)
    client = registry._client
    name = registry._model("theta3")
    client.create_model_version(name, source="file:///other", run_id=made.run)
    client.set_registered_model_alias(name, "champion", "2")
    with pytest.raises(RegistryError, match="version 2 is champion in MLflow but no job's model"):
        registry.champion("theta3")
    client.delete_registered_model_alias(name, "champion")
    registry.promote(made, by="ada", reason="by hand")
    assert registry.champion("theta3").version == made.version


def test_where_no_model_was_trained_yet_mlflow_is_not_loaded(tmp_path):
    code = (
        "import sys; from infra.model_registry import ModelRegistry; "
        "from infra.settings import Settings; "
        "assert ModelRegistry(Settings()).champion('theta3') is None; "
        "assert 'mlflow' not in sys.modules"
    )
    environment = {**os.environ, "KAILIN_DATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_going_back_follows_the_champions_there_were(registry, trained):
    first, second, third = (promoted(registry, trained) for _ in range(3))
    left, now = registry.rollback("theta3", by="ada", reason="odd questions")
    assert (left.version, now.version) == (third.version, second.version)
    assert (now.by, now.reason) == ("ada", "odd questions")
    assert registry.version("theta3", third.version).left == "ada: odd questions"
    registry.rollback("theta3", by="ada", reason="still odd")
    assert registry.champion("theta3").version == first.version
    with pytest.raises(RegistryError, match="theta3-v1 took no other's place"):
        registry.rollback("theta3", by="ada", reason="still odd")


def test_there_is_nothing_to_go_back_from(registry, trained):
    with pytest.raises(RegistryError, match="theta3 has no champion yet"):
        registry.rollback("theta3", by="ada", reason="odd")


def test_a_version_that_is_not_there_is_named_with_those_that_are(registry, trained):
    promoted(registry, trained)
    with pytest.raises(RegistryError, match="theta3 has no version 7: expected one of 1"):
        registry.version("theta3", "7")


def test_what_the_job_could_not_log_is_logged(registry, trained, settings):
    job = trained(logged=False)
    registry.promote(registry.register("theta3", **job), by="gate", reason="better")
    assert (artifacts(settings, job["run"]) / "model" / "more" / "README.md").exists()


def test_what_was_logged_by_half_is_logged_anew(registry, trained, settings):
    job = trained()
    weights = artifacts(settings, job["run"]) / "model" / "adapter_model.safetensors"
    weights.write_bytes(b"half")
    registry.register("theta3", **job)
    assert weights.read_bytes() == b"job1" * 1000


@pytest.mark.parametrize("file", ["model/adapter_model.safetensors", "manifest.json"])
def test_what_is_not_whole_is_never_champion(registry, trained, settings, file):
    before = promoted(registry, trained)
    job = trained()
    made = registry.register("theta3", **job)
    (artifacts(settings, job["run"]) / file).unlink()
    with pytest.raises(RegistryError, match=f"MLflow run {job['run']} is not whole"):
        registry.promote(made, by="ada", reason="hope")
    assert registry.champion("theta3").version == before.version


def test_a_manifest_cut_short_is_made_again(registry, trained, settings):
    job = trained()
    registry.register("theta3", **job)
    manifest = artifacts(settings, job["run"]) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:30])
    registry.promote(registry.register("theta3", **job), by="gate", reason="better")


def test_a_model_is_downloaded_whole_or_not_at_all(registry, trained, settings, tmp_path):
    job = trained()
    made = registry.register("theta3", **job)
    into = tmp_path / "models" / made.name
    assert registry.download(made, into) == into
    assert (into / "more" / "README.md").read_text() == "About job1."
    assert [path.name for path in into.parent.iterdir()] == [made.name]

    # Of the right size, but of other content.
    weights = artifacts(settings, job["run"]) / "model" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"job1", b"jobX"))
    with pytest.raises(RegistryError, match="other files than were logged"):
        registry.download(made, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_where_nothing_was_trained_yet_no_database_is_made(tmp_path):
    registry = ModelRegistry(Settings(data=tmp_path))
    assert registry.champion("theta3") is None
    assert registry.versions("theta3") == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_a_line_without_the_password(monkeypatch):
    monkeypatch.setattr(
        "infra.mlflow_environment.PATIENCE", {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    )
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = ModelRegistry(Settings(mlflow={"uri": "http://ada:hunter2@127.0.0.1:1"}))
    with pytest.raises(Transient) as raised:
        registry.champion("theta3")
    line = str(raised.value)
    assert line.startswith("MLflow away: http://127.0.0.1:1: ")
    assert "hunter2" not in line
    assert "\n" not in line


class Crash(BaseException):
    """Ends the work as kill -9 would: no handler of `Exception` sees it."""


WRITES = (
    *("create_registered_model", "create_model_version", "set_registered_model_alias"),
    *("delete_registered_model_alias", "set_model_version_tag", "log_artifact", "log_artifacts"),
)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
def test_ended_at_any_write_and_done_again_it_comes_out_the_same(
    registry, trained, monkeypatch, after, tmp_path
):
    old = promoted(registry, trained)
    written = 0

    def crashing(write: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal written
            written += 1
            if written == at and not after:
                raise Crash
            done = write(*arguments, **named)
            if written == at:
                raise Crash
            return done

        return call

    def work(job: dict[str, Any]) -> None:
        made = registry.register("theta3", **job)
        registry.promote(made, by="gate", reason="better")
        registry.decide(made, "passed", "better")

    at = 0
    while at == 0 or written >= at:
        at, written = at + 1, 0
        job = trained(logged=False)
        with monkeypatch.context() as patched:
            for name in WRITES:
                patched.setattr(MlflowClient, name, crashing(getattr(MlflowClient, name), at))
            try:
                work(job)
            except Crash:
                champion = registry.champion("theta3")
                assert champion.job in (old.job, job["job"])
                registry.download(champion, tmp_path / f"at {at}")
        written_then = written
        work(job)
        champion = registry.champion("theta3")
        assert (champion.job, champion.verdict, champion.by) == (job["job"], "passed", "gate")
        assert champion.before == old.version
        assert registry.candidate("theta3") is None
        assert len([one for one in registry.versions("theta3") if one.job == job["job"]]) == 1
        old, written = champion, written_then
    assert at > 8
