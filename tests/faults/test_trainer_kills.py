"""kill −9 of the trainer, of its job and of its gate: every decision ends once, none twice."""

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from engines import KafkaEngine
from fakes import trainer_process, training_job
from infra.train_config import KEPT
from infra.train_status import read_status
from trainer_engine import Trainers

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 20261125
KILLS = 12
STEPS = {f"step {number}" for number in range(6)}


def at_work(trainers: Trainers) -> list[psutil.Process]:
    """The trainer, and, once it works, its job, its gate, and the leashes of these."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            ours = str(trainers.directory) in words
            if ours and (trainer_process.__file__ in words or training_job.__file__ in words):
                found.append(process)
    return found


def test_every_decision_ends_once(kafka_broker: KafkaEngine, tmp_path: Path):
    dice = random.Random(SEED)
    # So many attempts that the kills of a job do not stop it.
    trainers = Trainers(kafka_broker, tmp_path, attempts=100, retry_first=0.1, retry_longest=0.1)
    killed: list[str] = []

    def waiting() -> bool:
        (target,) = asyncio.run(read_status(trainers.settings)).targets
        return target.decision.state == "waiting"

    try:
        process = trainers.start()
        for _ in range(KILLS):
            if process.poll() is not None:
                process = trainers.start()
            if waiting():
                trainers.append(dice.randint(10, 15))
            trainers.wait_until(lambda: len(at_work(trainers)) > 1, "work", seconds=90)
            time.sleep(dice.uniform(0.0, 2.5))
            chosen = dice.choice(at_work(trainers))
            with suppress(psutil.Error):
                killed.append(" ".join(chosen.cmdline())[-150:])
                chosen.kill()
                chosen.wait(10)
        if process.poll() is not None:
            trainers.start()
        trainers.append(10)
        trainers.wait_until(waiting, "end of all jobs", seconds=120)
        jobs = trainers.jobs()
        assert len(jobs) > 1
        removed = 0
        for job in jobs:
            assert job.state == ("passed" if trainer_process.passes(job.id) else "blocked")
            if not trainers.place(job.id).exists():  # of older jobs what they left is removed
                removed += 1
                continue
            work = trainers.work(job.id)
            assert not {"clash", "again"} & set(work), (job.id, work, killed)
            made = [word for word in work if word.startswith("step")]
            assert set(made) == STEPS
            # A step may be made again after a kill, from the last checkpoint, and not otherwise.
            assert len(made) - len(STEPS) < work.count("begin")
        assert removed <= max(0, len(jobs) - KEPT)
        assert trainers.verdicts().keys() == {job.id for job in jobs}
    finally:
        trainers.end()
    psutil.wait_procs(trainers.job_processes(), timeout=30)
    assert trainers.job_processes() == []
