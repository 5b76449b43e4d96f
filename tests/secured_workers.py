"""Processes of the service on a secured broker, configured by the environment alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import free_port
from infra.settings import Kafka, Ports, Settings
from secured_engine import PASSWORD

ROOT = Path(__file__).parent.parent


@dataclass
class Workers:
    """Processes with one way in to the broker, unless one is started with another.

    `given` are settings for all of them, as text or as what JSON is made of.
    """

    directory: Path
    kafka: Kafka
    given: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings(kafka=self.kafka, tables=str(self.directory / "tables"))

    def start(
        self,
        name: str,
        *arguments: str,
        kafka: Kafka | None = None,
        password: str = PASSWORD,
    ) -> subprocess.Popen[bytes]:
        """Start `kailin ARGUMENTS`, without any the worker of the stage of that name."""
        secret = self.directory / "password"
        secret.write_text(password)
        way = (kafka or self.kafka).model_dump(
            mode="json", exclude_defaults=True, exclude={"password"}
        )
        given = {
            "DATA": str(self.directory / "data"),
            "TABLES": self.settings.tables,
            "KAFKA": {**way, "password_file": str(secret)},
            "APPEND__SECONDS": "0.2",
            **self.given,
        }
        arguments = arguments or ("run", name)
        process = arguments[1] if arguments[0] == "run" else arguments[0]
        if process in Ports.model_fields:
            given[f"PORTS__{process.upper()}"] = str(free_port())
        with self.log_file(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *arguments],
                cwd=self.directory,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    **{
                        f"KAILIN_{key}": value if isinstance(value, str) else json.dumps(value)
                        for key, value in given.items()
                    },
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name]

    def log_file(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_file(name).read_text()

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            logs = "\n".join(f"== {name}\n{self.log(name)[-3000:]}" for name in self.processes)
            assert time.monotonic() < deadline, f"no {what} within {seconds:g} s\n{logs}"
            assert all(process.poll() in (None, 0) for process in self.processes.values()), logs
            time.sleep(0.1)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
