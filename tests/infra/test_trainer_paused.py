"""`kailin pause trainer` on a real broker: no job is begun, also by one that is started anew."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import kailin
from engines import KafkaEngine
from trainer_engine import Trainers

pytestmark = pytest.mark.kafka


@pytest.fixture
def trainers(kafka_broker: KafkaEngine, tmp_path: Path) -> Iterator[Trainers]:
    running = Trainers(kafka_broker, tmp_path)
    yield running
    running.end()


def test_no_job_is_begun_while_paused(trainers: Trainers):
    kailin(trainers.config, "pause", "trainer", "--by", "ana", "--why", "the GPU is lent out")
    first = trainers.start()
    trainers.append(30)
    trainers.wait_until(lambda: "trainer is paused by ana" in trainers.log(), "word of the pause")
    time.sleep(2)
    assert trainers.jobs() == []
    first.kill()
    first.wait()
    trainers.start()
    time.sleep(4)
    assert trainers.jobs() == []
    kailin(trainers.config, "resume", "trainer", "--by", "ana")
    trainers.wait_until(lambda: len(trainers.ended()) == 1, "a job that ended")
