"""A real MLflow for tests, on SQLite or as a server; and jobs that have ended.

finished_job(Settings(data=…, mlflow={"uri": store(directory)}), "job1")
server = MlflowServer(directory); server.start(), server.kill()
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from engines import free_port
from infra.gate_run import output_of
from infra.settings import Settings
from trainers.result import Result

WEIGHTS = {"adapter_model.safetensors": b"weights" * 1000, "more/README.md": b"About it."}


def store(directory: Path) -> str:
    """Makes an SQLite database of MLflow, which takes seconds; its tracking URI."""
    uri = f"sqlite:///{directory}/mlflow.db"
    MlflowClient(tracking_uri=uri).search_experiments()
    return uri


def finished_job(
    settings: Settings,
    job: str,
    files: Mapping[str, bytes] = WEIGHTS,
    *,
    base: str = "base",
    logged: bool = True,
) -> Result:
    """A job that has ended: its model, its MLflow run and its result."""
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    run = client.create_run(_experiment(client, settings)).info.run_id
    output = output_of(settings, job)
    for name, content in files.items():
        path = output / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if logged:
        client.log_artifacts(run, str(output / "model"), "model")
    result = Result(
        job=job,
        kind="dpo",
        run=run,
        model=output / "model",
        adapter=True,
        base=base,
        table="preferences",
        table_version=3,
        rows=10,
        digest="00",
        metrics={},
    )
    result.write(output)
    return result


def _experiment(client: MlflowClient, settings: Settings) -> str:
    found = client.get_experiment_by_name(settings.mlflow.experiment)
    if found:
        return str(found.experiment_id)
    local = settings.mlflow_uri.startswith("sqlite:")
    place = (settings.data / "mlflow" / "artifacts").as_uri() if local else None
    try:
        return client.create_experiment(settings.mlflow.experiment, artifact_location=place)
    except MlflowException:
        return _experiment(client, settings)


class MlflowServer:
    """`mlflow server` with its data under `data`; all its processes are killed together."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._data}/mlflow.db"]
        command += ["--artifacts-destination", str(self._data / "artifacts")]
        with (self._data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._data / "server.log").read_text()[-3000:])
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as page:
                return bool(page.status == 200)
        except (URLError, OSError):
            return False
