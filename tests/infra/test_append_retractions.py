"""The append stage on a real broker with retractions: rows are marked, whatever comes first."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from deltalake import DeltaTable

from append_engine import (
    Worker,
    answered,
    make_settings,
    message,
    publish,
    tie,
    total,
    until,
    workers,
)
from engines import KafkaEngine
from fakes.records import ARRIVED, source
from infra.kafka import client_arguments, topic_name
from infra.settings import Settings
from streams.codec import encode
from streams.records import Retraction
from streams.topics import RETRACTIONS

pytestmark = pytest.mark.kafka

A, B = ("D000001", "D000002"), ("D000001", "D000003")


@pytest.fixture
async def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return await make_settings(kafka_broker.bootstrap, tmp_path)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with workers(settings, tmp_path) as begin:
        yield begin


async def retract(
    settings: Settings,
    *said: tuple[int, str | None],
    mesh: tuple[str, ...] | None = None,
    abort: bool = False,
) -> None:
    """Retractions in one transaction, as ingest sends them."""
    producer = AIOKafkaProducer(**client_arguments(settings), transactional_id=uuid4().hex)
    await producer.start()
    try:
        await producer.begin_transaction()
        for pmid, reason in said:
            value = encode(Retraction(pmid=pmid, reason=reason, mesh=mesh, at=ARRIVED))
            await producer.send(topic_name(settings, RETRACTIONS), value, key=b"%d" % pmid)
        await (producer.abort_transaction() if abort else producer.commit_transaction())
    finally:
        await producer.stop()


def marks(settings: Settings, table: str = "preferences") -> dict[int, Any]:
    held = DeltaTable(f"{settings.tables_uri}/{table}")
    return {
        each["pmid"]: each["retracted"]
        for each in held.to_pyarrow_table(columns=["pmid", "retracted"]).to_pylist()
    }


async def test_before_and_after_and_lifted(settings, start):
    await retract(settings, (1, "deleted"), (2, "retracted"))
    await retract(settings, (3, "deleted"), abort=True)
    worker = start()
    await publish(settings, *map(message, range(1, 6)), tie(6), answered(7), answered(8))
    await until(lambda: total(settings) == 8)
    assert marks(settings) == {1: "deleted", 2: "retracted", 3: None, 4: None, 5: None}
    await retract(settings, (4, "erratum"), (6, "deleted"), (7, "deleted"), (99, "deleted"))
    await until(lambda: marks(settings)[4] == "erratum")
    await until(lambda: marks(settings, "dropped") == {6: "deleted"})
    await until(lambda: marks(settings, "ideal") == {7: "deleted", 8: None})
    await retract(settings, (1, None), (4, None))
    await until(lambda: marks(settings)[4] is None)
    assert marks(settings) == {1: None, 2: "retracted", 3: None, 4: None, 5: None}
    page = worker.metrics()
    assert 'kailin_rows_marked_total{reason="stands again",table="preferences"} 2.0' in page
    assert 'kailin_rows_marked_total{reason="erratum",table="preferences"} 1.0' in page
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.log


async def test_rows_made_under_other_mesh_are_superseded(settings, start):
    start()
    await publish(settings, message(1, source=source(1, mesh=A)))
    await until(lambda: total(settings) == 1)
    await retract(settings, (1, "MeSH changed"), mesh=B)
    await until(lambda: marks(settings) == {1: "MeSH changed"})
    await publish(settings, message(1, id="b" * 32, source=source(1, mesh=B)))
    await until(lambda: total(settings) == 2)
    held = DeltaTable(f"{settings.tables_uri}/preferences").to_pyarrow_table().to_pylist()
    assert {tuple(r["mesh"]): r["retracted"] for r in held} == {A: "MeSH changed", B: None}


async def test_killed_before_the_rows_were_marked(settings, start):
    worker = start()
    await publish(settings, *map(message, range(1, 31)))
    await until(lambda: total(settings) == 30)
    worker.kill()
    await retract(settings, *((pmid, "deleted") for pmid in range(1, 11)))
    worker.start()
    await until(lambda: sum(mark == "deleted" for mark in marks(settings).values()) == 10)
    worker.kill()
    await retract(settings, (1, None))
    worker.start()
    await until(lambda: marks(settings)[1] is None)


async def test_every_row_has_its_mark_though_two_workers_are_killed_at_random(settings, start):
    """Rows and retractions in any order, some lifted, some said twice, and 8 × kill −9."""
    chance = random.Random(11)
    pmids = list(range(1, 601))
    newest: dict[int, str | None] = {}
    both = [start(), start()]
    for part in range(0, len(pmids), 75):
        said = [
            (pmid, chance.choice(["deleted", "retracted", None]))
            for pmid in chance.sample(pmids, 60)
        ]
        newest |= dict(said)
        sending = [
            retract(settings, *said),
            publish(settings, *map(message, pmids[part : part + 75])),
        ]
        chance.shuffle(sending)
        for each in sending:
            await each
            await asyncio.sleep(chance.uniform(0.0, 1.0))
        victim = chance.choice(both)
        victim.kill()
        victim.start()
    await until(lambda: total(settings) >= 600)
    expected = {pmid: newest.get(pmid) for pmid in pmids}
    await until(lambda: marks(settings) == expected, within=90)
    assert total(settings) == 600


async def test_a_message_that_is_no_retraction_is_passed_over(settings, start):
    producer = AIOKafkaProducer(**client_arguments(settings))
    await producer.start()
    await producer.send_and_wait(topic_name(settings, RETRACTIONS), b"garbage", key=b"1")
    await producer.stop()
    await retract(settings, (2, "deleted"))
    worker = start()
    await publish(settings, message(1), message(2))
    await until(lambda: total(settings) == 2)
    assert marks(settings) == {1: None, 2: "deleted"}
    assert "offset 0: passed over: not JSON" in worker.log
