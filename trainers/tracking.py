"""One job's run in MLflow: found again by the job's id, and not in training's way when it is away.

What a run says of itself is credentials' business of the environment (`MLFLOW_TRACKING_TOKEN` and
the like), so none are in a job's configuration.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.config import Tracking, shown
from trainers.errors import JobError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

JOB_TAG = "job"
# A server that is away is asked again after a minute, and so holds training up by little.
PAUSE = 60.0
# What a run's end waits for a server that is away, in seconds.
PATIENCE = 600.0
# MLflow takes so many at once; a run that waits keeps so many at most.
AT_ONCE = 1000
KEPT = 100_000


class Run:
    """A run that is being written. Metrics wait while MLflow is away; `fail` does without it."""

    def __init__(self, client: "MlflowClient", id: str, where: str) -> None:
        self.id = id
        self._client = client
        self._where = where
        self._waiting: list[Metric] = []
        self._next = 0.0

    def describe(self, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """What the run is of. Parameters stay as they were first set, as MLflow has it.

        Raises `JobError`.
        """
        from mlflow.entities import Param, RunTag

        def send() -> None:
            known = self._client.get_run(self.id).data.params
            new = [Param(key, str(value)) for key, value in params.items() if key not in known]
            labels = [RunTag(key, value) for key, value in tags.items()]
            self._client.log_batch(self.id, params=new, tags=labels)

        self._until_done(send, "describe the run")

    def measure(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        del self._waiting[:-KEPT]
        if time.monotonic() < self._next:
            return
        try:
            self._send()
        # MLflow's stores fail in many ways: HTTP, SQL, files.
        except Exception as error:
            self._next = time.monotonic() + PAUSE
            log.warning("MLflow at %s: %s; metrics wait", self._where, _line(error))

    def keep(self, directory: Path, name: str) -> None:
        """Store a directory as the run's artifact `name`, and all that waits. Raises `JobError`."""

        def send() -> None:
            self._send()
            self._client.log_artifacts(self.id, str(directory), name)

        self._until_done(send, f"store {directory}")

    def finish(self) -> None:
        """End it as FINISHED. Raises `JobError`."""

        def send() -> None:
            self._client.set_terminated(self.id, "FINISHED")

        self._until_done(send, "end the run")

    def fail(self) -> None:
        """End it as FAILED, if MLflow can be told."""
        try:
            self._send()
            self._client.set_terminated(self.id, "FAILED")
        except Exception as error:
            log.warning("MLflow at %s: %s; the run stays open there", self._where, _line(error))

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:AT_ONCE])
            del self._waiting[:AT_ONCE]

    def _until_done(self, send: Callable[[], None], what: str) -> None:
        began, pause = time.monotonic(), 1.0
        while True:
            try:
                return send()
            except Exception as error:
                if time.monotonic() - began + pause > PATIENCE:
                    raise JobError(
                        f"MLflow at {self._where}: cannot {what}: {_line(error)}; started again, "
                        "the job goes on from there"
                    ) from None
                log.warning("MLflow at %s: %s; trying again", self._where, _line(error))
            time.sleep(pause)
            pause = min(pause * 2, PAUSE)


def open_run(tracking: Tracking, job: str, kind: str) -> Run:
    """The run of a job, made or found again. Raises `JobError` where MLflow is away."""
    # MLflow's own retries take minutes, which training would stand still for.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    where = shown(tracking.uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    try:
        if tracking.uri.startswith("sqlite:"):
            _database(tracking.uri).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = _experiment(client, tracking)
        found = client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{job}'", max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return Run(client, found[0].info.run_id, where)
        tags = {JOB_TAG: job, "kind": kind}
        made = client.create_run(experiment, tags=tags, run_name=f"{kind} {job}")
    except Exception as error:
        raise JobError(f"MLflow at {where}: cannot be used: {_line(error)}") from None
    return Run(client, made.info.run_id, where)


def _experiment(client: "MlflowClient", tracking: Tracking) -> str:
    """The experiment's id. Beside SQLite the artifacts lie in a directory; a server has its own."""
    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        place = None
        if tracking.uri.startswith("sqlite:"):
            place = (_database(tracking.uri).parent / "artifacts").resolve().as_uri()
        try:
            return client.create_experiment(tracking.experiment, artifact_location=place)
        except Exception:
            # Another job may have made it a moment ago.
            found = client.get_experiment_by_name(tracking.experiment)
            if found is None:
                raise
    return str(found.experiment_id)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
