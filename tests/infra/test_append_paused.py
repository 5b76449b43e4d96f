"""The append stage while it is paused: the tables stand still, and what waited is all appended."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from append_engine import Worker, make_settings, message, publish, rows, total, until, workers
from engines import KafkaEngine
from infra import pause
from infra.settings import Settings

pytestmark = pytest.mark.kafka


@pytest.fixture
async def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return await make_settings(kafka_broker.bootstrap, tmp_path)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with workers(settings, tmp_path) as begin:
        yield begin


async def test_nothing_is_appended_while_paused_and_each_record_once_in_the_end(settings, start):
    worker = start(APPEND__SECONDS=60, APPEND__ROWS=500)
    await publish(settings, *map(message, range(1, 701)))
    await until(lambda: total(settings) >= 500)
    # The other 200 wait for their batch to fill: they are in hand, and appended at the pause.
    await until(lambda: 'kailin_in_flight{stage="append"} 200.0' in worker.metrics())
    await pause.tell(settings, ["append"], paused=True, who="ana", why="")
    await until(lambda: total(settings) == 700, within=5)
    await publish(settings, *map(message, range(701, 1301)))
    await until(lambda: lag(worker) == 600)
    worker.kill()
    worker.start()
    await until(lambda: 'kailin_paused{stage="append"} 1.0' in worker.metrics())
    await until(lambda: lag(worker) == 600)
    await asyncio.sleep(2)
    assert total(settings) == 700
    await pause.tell(settings, ["append"], paused=False, who="ana", why="")
    await publish(settings, *map(message, range(1301, 1801)))
    await until(lambda: total(settings) >= 1600)
    # A pause ends the wait of a batch, so what is left need not be waited for.
    await pause.tell(settings, ["append"], paused=True, who="ana", why="")
    await until(lambda: total(settings) >= 1800)
    assert rows(settings) == list(range(1, 1801))
    assert "does not hold offsets" not in worker.log


def lag(worker: Worker) -> float:
    lines = worker.metrics().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("kailin_consumer_lag_records{")
    )
