from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from trainers import tracking
from trainers.config import Tracking, shown
from trainers.errors import JobError
from trainers.tracking import Run, open_run


@pytest.fixture
def place(tmp_path: Path) -> Tracking:
    return Tracking(uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", experiment="tests")


class Away:
    """MLflow's client, of which a named call fails so many times."""

    def __init__(self, client: MlflowClient, call: str, times: int) -> None:
        self.client, self.call, self.times = client, call, times

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if name == self.call and self.times > 0:
                self.times -= 1
                raise ConnectionError("refused")
            return getattr(self.client, name)(*given, **named)

        return call


def test_a_job_finds_its_run_again(place: Tracking, tmp_path: Path) -> None:
    first = open_run(place, "job", "dpo")
    first.describe({"beta": 0.1}, {"code": "1"})
    first.fail()
    again = open_run(place, "job", "dpo")
    again.describe({"beta": 0.2, "rows": 5}, {"code": "2"})
    assert again.id == first.id
    assert open_run(place, "other", "dpo").id != first.id
    run = MlflowClient(place.uri).get_run(first.id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"beta": "0.1", "rows": "5"}
    assert run.data.tags["code"] == "2"
    # Beside the database, wherever the job was started.
    assert run.info.artifact_uri.startswith((tmp_path / "mlflow" / "artifacts").as_uri())


def test_metrics_wait_while_mlflow_is_away(
    place: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(place, "job", "dpo")
    client = MlflowClient(place.uri)
    run = Run(Away(client, "log_batch", 1), opened.id, place.uri)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "PAUSE", 0.0)
    run.measure({"loss": 3.0}, 1)
    assert client.get_metric_history(run.id, "loss") == []
    run.measure({"loss": 2.0}, 2)
    assert [(m.step, m.value) for m in client.get_metric_history(run.id, "loss")] == [
        (1, 3.0),
        (2, 2.0),
    ]


def test_a_model_is_stored_once_mlflow_is_back(place: Tracking, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    opened = open_run(place, "job", "dpo")
    client = MlflowClient(place.uri)
    run = Run(Away(client, "log_artifacts", 1), opened.id, place.uri)  # type: ignore[arg-type]
    run.keep(tmp_path / "model", "model")
    assert [file.path for file in client.list_artifacts(run.id, "model")] == ["model/weights"]


def test_storing_gives_up_in_one_line(
    place: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    opened = open_run(place, "job", "dpo")
    client = MlflowClient(place.uri)
    run = Run(Away(client, "log_artifacts", 99), opened.id, place.uri)  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"cannot store .* refused; started again, the job goes on"):
        run.keep(tmp_path, "model")


def test_no_password_is_shown() -> None:
    assert shown("https://me:secret@mlflow.example:1/x") == "https://…@mlflow.example:1/x"
    assert shown("postgresql://u:p@db/m") == "postgresql://…@db/m"
    assert shown("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
