"""Who has the right: one at a time, for as long as it lives, and then the next in line."""

import asyncio
import uuid
from pathlib import Path

import pytest

from engines import KafkaEngine
from infra.settings import Kafka, Settings
from infra.topic_admin import create_topics
from infra.turn import Turn, TurnLost
from streams.topics import PROGRESS

pytestmark = pytest.mark.kafka


@pytest.fixture
async def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    made = Settings(data=tmp_path, kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=prefix))
    await create_topics(made, [PROGRESS])
    return made


def turn_of(settings: Settings, name: str) -> Turn:
    return Turn(settings, name, group="ingest", topic=PROGRESS)


async def test_one_has_it_and_the_next_gets_it_when_it_is_given_back(settings: Settings):
    first, second = turn_of(settings, "first"), turn_of(settings, "second")
    await first.join()
    assert await first.wait(10)
    assert not await first.wanted()
    await second.join()
    assert not await second.wait(2)
    await first.check()
    assert await first.wanted()
    await first.leave()
    assert await second.wait(10)
    # Back in line, the first does not take it away again.
    await first.join()
    assert not await first.wait(2)
    await second.check()
    await second.leave()
    assert await first.wait(10)
    await first.leave()


async def test_who_never_reads_a_message_keeps_it(settings: Settings):
    """aiokafka takes a consumer that does not ask for messages for dead, after five minutes."""
    turn = turn_of(settings, "long")
    await turn.join()
    assert await turn.wait(10)
    coordinator = turn._consumer._coordinator  # type: ignore[union-attr]
    assert coordinator._max_poll_interval > 10 * 365 * 24 * 3600
    await turn.leave()


async def test_started_again_under_its_name_it_takes_its_own_place_at_once(settings: Settings):
    before = turn_of(settings, "same")
    await before.join()
    assert await before.wait(10)
    # As if killed: it says nothing more.
    before._consumer._coordinator._heartbeat_task.cancel()  # type: ignore[union-attr]
    again = turn_of(settings, "same")
    began = asyncio.get_running_loop().time()
    await again.join()
    assert await again.wait(10)
    assert asyncio.get_running_loop().time() - began < 4
    await again.leave()
    await before.leave()


async def test_who_has_lost_it_is_told(settings: Settings):
    turn = turn_of(settings, "any")
    with pytest.raises(TurnLost):
        await asyncio.wait_for(turn.check(), 30)
