"""The lag of the append stage, where a transaction ends its topic."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from append_engine import Worker, make_settings, message, total, until, workers
from engines import KafkaEngine
from infra.kafka import client_arguments, topic_name
from streams.topics import PREFERENCES

pytestmark = pytest.mark.kafka


def lags(worker: Worker) -> set[str]:
    lines = worker.metrics().splitlines()
    return {one.split()[-1] for one in lines if one.startswith("kailin_consumer_lag_records{")}


async def test_the_marker_that_ends_a_transaction_is_no_message_that_waits(
    kafka_broker: KafkaEngine, tmp_path: Path
) -> None:
    settings = await make_settings(kafka_broker.bootstrap, tmp_path)
    topic = topic_name(settings, PREFERENCES)
    begin: Callable[..., Worker]
    with workers(settings, tmp_path) as begin:
        worker = begin()
        async with AIOKafkaProducer(
            **client_arguments(settings), transactional_id=f"{topic} replay"
        ) as producer:
            for pmid in (3, 6):
                async with producer.transaction():
                    pmid, value = message(pmid)
                    await producer.send_and_wait(topic, value, key=b"%d" % pmid, partition=0)
        await until(lambda: total(settings) == 2)
        await until(lambda: lags(worker) == {"0.0"}, within=20)
