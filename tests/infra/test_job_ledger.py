"""The topic of the jobs, written on a real broker."""

import asyncio
from pathlib import Path

import pytest

from engines import KafkaEngine
from fakes.records import job
from infra.job_ledger import Ledger
from infra.settings import Settings
from infra.topic_admin import create_topics
from infra.turn import Turn
from streams.topics import JOBS, TRAINING_DATA

pytestmark = pytest.mark.kafka


async def test_jobs_of_two_targets_are_kept_at_once(kafka_broker: KafkaEngine, tmp_path: Path):
    kafka = kafka_broker.settings.model_copy(update={"prefix": "ledger."})
    settings = Settings(data=tmp_path, kafka=kafka)
    await create_topics(settings, [JOBS, TRAINING_DATA])
    turn = Turn(settings, "trainer", group="trainer", topic=TRAINING_DATA)
    await turn.join()
    try:
        assert await turn.wait(30)
        async with Ledger(settings, turn) as ledger:
            jobs = [job(f"{number:016x}") for number in range(6)]
            await asyncio.gather(*(ledger.keep(each) for each in jobs))
            assert sorted(ledger.jobs) == [each.id for each in jobs]
    finally:
        await turn.leave()
