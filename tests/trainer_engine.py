"""The trainer as a process over a real broker and real tables, with scripted jobs and gate.

trainers = Trainers(kafka_broker, tmp_path)
first = trainers.start()
trainers.append(30)
trainers.wait_until(lambda: len(trainers.ended()) == 1, "a job that ended")
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from engines import KafkaEngine, free_port
from fakes import trainer_process, training_job
from fakes.records import preference, source
from fakes.tables import append
from infra import topic_view
from infra.kafka import Publisher
from infra.settings import Settings
from infra.settings_file import load
from infra.tables import open_table
from infra.topic_admin import create_topics
from streams.learning import Job, TrainingData, Verdict
from streams.topics import CONTROL, JOBS, SERVING, TRAINING_DATA, VERDICTS

ROOT = Path(__file__).parent.parent
MESH = "D000001\tDiseases\t\tC01\nD000002\tAspirin\t\tD01.100|C01.200\n"
ENDED = ("passed", "blocked")


class Trainers:
    """A deployment of which only the trainers run; every one has the same data directory."""

    def __init__(self, kafka: KafkaEngine, directory: Path, **training: Any) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []
        self._appended: list[int] = []
        (directory / "base").mkdir()
        (directory / "base" / "config.json").write_text("{}")
        (directory / "mesh.tsv").write_text(MESH)
        script = [sys.executable, training_job.__file__]
        values = {
            "rows": 10,
            "look_every": 0.5,
            "retry_first": 0.2,
            "retry_longest": 1.0,
            "launcher": script,
            **training,
        }
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        self.config = directory / "kailin.toml"
        self.config.write_text(
            f'data = "{directory}/data"\n'
            f'[kafka]\nbootstrap = "{kafka.bootstrap}"\nprefix = "t{uuid.uuid4().hex[:8]}."\n'
            f'[servers.local]\nsource = "file://{directory}/base"\n'
            f'[mesh]\nsource = "{directory}/mesh.tsv"\n'
            f"[training]\n{lines}"
        )
        asyncio.run(create_topics(self.settings, [TRAINING_DATA, JOBS, VERDICTS, SERVING, CONTROL]))

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """One more trainer."""
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "KAILIN_PORTS__TRAINER": str(free_port()),
        }
        with (self.directory / "trainer.log").open("ab") as log:
            process = subprocess.Popen(
                (sys.executable, trainer_process.__file__, str(self.config), *options),
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def append(self, count: int) -> None:
        """Commit rows to the table and tell, as the append stage does."""
        tables = self.directory / "data" / "tables"
        first = sum(self._appended) + 1
        self._appended.append(count)
        records = [preference(source=source(pmid=first + n)) for n in range(count)]
        now = datetime.now(UTC)
        append(tables, records, at=now)
        told = TrainingData(
            table="preferences",
            version=open_table(self.settings, "preferences").version(),
            rows=sum(self._appended),
            added=count,
            at=now,
        )

        async def tell() -> None:
            async with Publisher(self.settings) as publisher:
                await publisher.send(TRAINING_DATA, told)

        asyncio.run(tell())

    def jobs(self) -> list[Job]:
        """The oldest first."""
        found = asyncio.run(topic_view.read(self.settings, JOBS, Job))
        return sorted(found.values(), key=lambda job: job.data_version)

    def verdicts(self) -> dict[str, Verdict]:
        return asyncio.run(topic_view.read(self.settings, VERDICTS, Verdict))

    def ended(self) -> list[Job]:
        return [job for job in self.jobs() if job.state in ENDED]

    def work(self, job: str) -> list[str]:
        """What the job's processes did, in their order."""
        with suppress(FileNotFoundError):
            return (self.place(job) / "work.log").read_text().split("\n")[:-1]
        return []

    def place(self, job: str) -> Path:
        return self.directory / "data" / "training" / job

    def behave(self, job: str, word: str) -> None:
        """From now on a job's process does as the word says: fail, hang, or nothing odd."""
        self.place(job).mkdir(parents=True, exist_ok=True)
        (self.place(job) / "behave").write_text(word)

    def job_processes(self) -> list[psutil.Process]:
        """The scripted jobs of this deployment that run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if words[1:2] == [training_job.__file__] and str(self.directory) in words[-1]:
                    found.append(process)
        return found

    def log(self) -> str:
        return (self.directory / "trainer.log").read_text(errors="replace")

    def wait_until(
        self, condition: Callable[[], object], what: str, *, seconds: float = 60.0
    ) -> None:
        """Fails with the end of the trainers' log."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {seconds:g} s\n{self.log()[-4000:]}")
            time.sleep(0.1)
