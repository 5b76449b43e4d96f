"""Any number of workers of each stage, as processes: started, killed, and asked what they hold.

with running_workers(tmp_path, settings) as workers:
    workers.start("generate", 3)
    workers.wait_until(lambda: workers.shared("generate", 6), "share of the partitions")
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engines import free_port
from infra.settings import Settings

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Worker:
    stage: str
    port: int
    process: "subprocess.Popen[bytes]"

    def partitions(self) -> list[int]:
        """What it holds of the topic that its stage reads; none while it does not answer."""
        lag = self._samples("kailin_consumer_lag_records")
        return [int(sample.labels["partition"]) for sample in lag]

    def finished(self) -> int:
        """Messages that it has worked on to their end."""
        return int(sum(sample.value for sample in self._samples("kailin_handler_seconds_count")))

    def _samples(self, name: str) -> list[Sample]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as told:
                text = told.read().decode()
        except OSError:
            return []
        families = text_string_to_metric_families(text)
        return [sample for family in families for sample in family.samples if sample.name == name]

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()


class Workers:
    """The workers of one deployment, whose settings are given as a mapping."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.directory = directory
        self.settings = Settings(**settings)
        self.running: list[Worker] = []
        environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
        for name, value in settings.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment[f"KAILIN_{name.upper()}"] = text
        self._environment = {**environment, "PYTHONPATH": str(ROOT)}

    def start(self, stage: str, number: int = 1, *options: str) -> list[Worker]:
        """More workers of a stage, each with a port of its own."""
        started = [self._start(stage, free_port(), options) for _ in range(number)]
        self.running += started
        return started

    def _start(self, stage: str, port: int, options: Sequence[str]) -> Worker:
        with (self.directory / f"{stage}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "run", stage, *options],
                cwd=self.directory,
                env={**self._environment, f"KAILIN_PORTS__{stage.upper()}": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return Worker(stage, port, process)

    def shares(self, stage: str) -> list[int]:
        """How many partitions each living worker of a stage holds, the fewest first."""
        return sorted(len(worker.partitions()) for worker in self._of(stage))

    def shared(self, stage: str, partitions: int) -> bool:
        """Whether every partition is held once, and every living worker of the stage holds some."""
        held = [worker.partitions() for worker in self._of(stage)]
        times = Counter(partition for some in held for partition in some)
        return all(held) and times == Counter(range(partitions))

    def _of(self, stage: str) -> list[Worker]:
        return [w for w in self.running if w.stage == stage and w.process.poll() is None]

    def log(self, stage: str) -> str:
        """What all workers of a stage wrote."""
        return (self.directory / f"{stage}.log").read_text(errors="replace")

    def end(self) -> None:
        """Kill all that still run."""
        for worker in self.running:
            worker.kill()
        self.running.clear()

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        """Fails with the ends of the logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                paths = sorted(self.directory.glob("*.log"))
                logs = "\n".join(f"== {p.stem}\n{p.read_text()[-1500:]}" for p in paths)
                raise AssertionError(f"no {what} within {seconds:g} s\n{logs}")
            time.sleep(0.2)


@contextmanager
def running_workers(directory: Path, settings: dict[str, Any]) -> Iterator[Workers]:
    """None is started yet; those that were are killed at the end."""
    workers = Workers(directory, settings)
    try:
        yield workers
    finally:
        workers.end()
