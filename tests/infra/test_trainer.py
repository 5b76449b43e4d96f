"""The trainer as a process: what is due is trained, judged and closed, once, by one of them."""

import asyncio
import io
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from engines import KafkaEngine
from fakes.trainer_process import passes
from infra.train_status import read_status, retry, show
from streams.learning import job_id
from trainer_engine import Trainers

pytestmark = pytest.mark.kafka

STEPS = [f"step {number}" for number in range(6)]


@pytest.fixture
def trainers(kafka_broker: KafkaEngine, tmp_path: Path) -> Iterator[Trainers]:
    made = Trainers(kafka_broker, tmp_path)
    yield made
    made.end()


def id_of(version: int) -> str:
    return job_id("theta3", "dpo", "preferences", version)


def test_new_rows_are_trained_on_judged_and_closed_once(trainers: Trainers):
    trainer = trainers.start()
    trainers.append(9)
    trainers.wait_until(lambda: "9 of 10 new rows" in trainers.log(), "look at the table")
    assert trainers.jobs() == []
    trainers.append(4)
    trainers.wait_until(trainers.ended, "job that ended")
    (job,) = trainers.jobs()
    assert job.id == id_of(2)
    assert job.state == ("passed" if passes(job.id) else "blocked")
    assert (job.rows, job.reason, job.model) == (13, "as scripted", f"theta3-{job.id}")
    assert job.run == f"run-{job.id}"
    assert trainers.work(job.id) == ["begin", *STEPS]
    # Blocked or not, the next rows make the next job due.
    trainers.append(10)
    trainers.wait_until(lambda: len(trainers.ended()) == 2, "second job")
    assert trainers.work(id_of(3)) == ["begin", *STEPS]
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(30) == 0


def test_a_trainer_that_is_to_end_carries_out_what_is_due_and_ends(trainers: Trainers):
    trainers.append(10)
    assert trainers.start("--once").wait(60) == 0
    (job,) = trainers.ended()
    assert trainers.work(job.id) == ["begin", *STEPS]
    # Nothing is due now.
    assert trainers.start("--once").wait(60) == 0
    assert trainers.jobs() == [job]


def test_a_trainer_that_is_to_end_does_not_stand_in_line(trainers: Trainers):
    trainers.start()
    trainers.wait_until(lambda: "at work for theta3" in trainers.log(), "trainer at work")
    assert trainers.start("--once").wait(60) == 0
    assert "nothing to be done: another trainer is at work" in trainers.log()


def test_a_job_that_fails_is_stopped_and_goes_on_by_hand(trainers: Trainers):
    trainers.append(10)
    trainers.behave(id_of(1), "fail")
    trainers.start()
    trainers.wait_until(lambda: "stopped after 3 failures" in trainers.log(), "stop")
    (job,) = trainers.jobs()
    assert (job.id, job.state, job.attempt) == (id_of(1), "failed", 3)
    assert job.reason == "dpo: no luck with this one"
    assert trainers.work(job.id) == ["begin"] * 3
    (target,) = asyncio.run(read_status(trainers.settings)).targets
    assert target.decision.state == "stopped"
    trainers.behave(job.id, "")
    (tried,) = asyncio.run(retry(trainers.settings, by="someone"))
    assert tried.by == "someone"
    trainers.wait_until(trainers.ended, "job that ended")
    assert trainers.work(job.id) == [*["begin"] * 4, *STEPS]


def test_what_the_gate_needs_is_waited_for_without_an_attempt(trainers: Trainers):
    trainers.append(10)
    id = id_of(1)
    trainers.behave(id, "away")
    trainers.start()
    again = f"theta3: job {id} again in 0.2 s: judge: MLflow is away"
    trainers.wait_until(lambda: trainers.log().count(again) > 3, "fourth look at the gate")
    (job,) = trainers.jobs()
    assert (job.state, job.attempt) == ("trained", 1)
    (target,) = asyncio.run(read_status(trainers.settings)).targets
    assert (target.decision.state, target.progress) == ("running", None)
    trainers.behave(id, "")
    trainers.wait_until(trainers.ended, "job that ended")
    (job,) = trainers.jobs()
    assert job.attempt == 1
    assert trainers.work(id) == ["begin", *STEPS]


def test_the_status_tells_how_far_the_job_is(trainers: Trainers):
    trainers.append(4)
    status = asyncio.run(read_status(trainers.settings))
    (target,) = status.targets
    assert (target.decision.why, status.trainers) == ("4 of 10 new rows", 0)
    trainers.append(10)
    id = id_of(2)
    trainers.behave(id, "hang")
    trainers.start()
    trainers.wait_until(lambda: len(trainers.work(id)) > 2, "steps")
    status = asyncio.run(read_status(trainers.settings))
    (target,) = status.targets
    assert target.decision.state == "running"
    assert target.decision.why.endswith("UTC: 14 new rows")
    assert target.progress
    assert target.progress.step >= 1
    shown = io.StringIO()
    show(trainers.settings, status, Console(file=shown, width=200), as_json=False)
    assert f"step {target.progress.step} of 6, loss 0.5" in shown.getvalue()
    assert "no trainer" not in shown.getvalue()
    gone = replace(status, trainers=0)
    show(trainers.settings, gone, Console(file=shown, width=200), as_json=False)
    assert "no trainer is at work" in shown.getvalue()
    show(trainers.settings, status, Console(file=io.StringIO()), as_json=True)
    trainers.behave(id, "")
    trainers.wait_until(trainers.ended, "job that ended")
    ended = asyncio.run(read_status(trainers.settings))
    assert ended.jobs[0].id == id
    assert ended.verdicts[id].reason == "as scripted"


def test_a_second_trainer_waits_and_carries_the_job_of_a_dead_one_on(trainers: Trainers):
    first = trainers.start()
    trainers.append(10)
    id = id_of(1)
    trainers.behave(id, "hang")
    trainers.wait_until(lambda: len(trainers.work(id)) > 2, "steps")
    trainers.start()
    trainers.wait_until(lambda: "stands in line" in trainers.log(), "second in line")
    assert len(trainers.job_processes()) == 1
    first.kill()
    first.wait()
    trainers.wait_until(lambda: trainers.work(id).count("begin") == 2, "second at work")
    trainers.behave(id, "")
    trainers.wait_until(trainers.ended, "job that ended")
    work = trainers.work(id)
    assert not {"clash", "again"} & set(work)
    # It went on from the checkpoint: none but the step that was cut off was made twice.
    made = [word for word in work if word.startswith("step")]
    assert len(set(made)) >= len(made) - 1


def test_one_that_slept_and_its_successor_do_not_both_work(trainers: Trainers):
    """Whichever of them Kafka gives the turn in the end, the job is trained by one process."""
    first = trainers.start()
    trainers.append(10)
    id = id_of(1)
    trainers.behave(id, "hang")
    trainers.wait_until(lambda: len(trainers.work(id)) > 2, "steps")
    first.send_signal(signal.SIGSTOP)
    trainers.start()
    trainers.wait_until(lambda: "waits for the process that still" in trainers.log(), "second")
    first.send_signal(signal.SIGCONT)
    trainers.wait_until(lambda: "turn lost" in trainers.log(), "decision between them")
    assert len(trainers.job_processes()) <= 1
    trainers.behave(id, "")
    trainers.wait_until(trainers.ended, "job that ended")
    work = trainers.work(id)
    assert not {"clash", "again"} & set(work)
    assert work.count("begin") <= 2
