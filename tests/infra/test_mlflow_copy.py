"""MLflow's files, copied and put back in another place, hold the same runs, models and files."""

from pathlib import Path

from infra import mlflow_copy
from infra.settings import Settings
from mlflow_engine import WEIGHTS, finished_job


def test_a_copy_in_another_place_has_the_models_and_their_files(tmp_path: Path):
    from infra.model_registry import ModelRegistry

    settings = Settings(data=tmp_path / "data of then")
    (settings.data / "mlflow").mkdir(parents=True)
    job = finished_job(settings, "job1")
    registry = ModelRegistry(settings)
    made = registry.register(
        "theta3", job="job1", run=job.run, directory=job.model, base="base", adapter=True
    )
    registry.promote(made, by="a test", reason="to be kept")
    assert mlflow_copy.copy(settings, tmp_path / "copy")

    other = Settings(data=tmp_path / "data of now")
    (settings.data).rename(tmp_path / "gone")
    mlflow_copy.restore(other, tmp_path / "copy", mlflow_copy.directory(settings))

    found = ModelRegistry(other)
    champion = found.champion("theta3")
    assert champion is not None
    assert (champion.version, champion.reason) == ("1", "to be kept")
    directory = found.download(champion, tmp_path / "fetched")
    for name, content in WEIGHTS.items():
        assert (directory / name).read_bytes() == content


def test_without_a_store_of_its_own_there_is_nothing_to_copy(tmp_path: Path):
    server = Settings(data=tmp_path, mlflow={"uri": "http://mlflow:5000"})
    assert mlflow_copy.directory(server) is None
    assert not mlflow_copy.copy(server, tmp_path / "copy")
    assert not mlflow_copy.copy(Settings(data=tmp_path / "data"), tmp_path / "copy")
