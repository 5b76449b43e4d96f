"""What a topic holds, as a real broker says it."""

from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from engines import KafkaEngine, free_port
from infra.kafka import BrokerUnreachable, client_arguments, end_offset, topic_name
from infra.settings import Settings
from streams.topics import ARTICLES


@pytest.mark.kafka
async def test_the_end_of_a_topic_is_that_of_its_longest_partition(
    kafka_broker: KafkaEngine,
) -> None:
    settings = Settings(
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"t{uuid4().hex[:8]}."}
    )
    assert await end_offset(settings, ARTICLES) == 0
    name = topic_name(settings, ARTICLES)
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1)])
    await admin.close()
    assert await end_offset(settings, ARTICLES) == 0
    producer = AIOKafkaProducer(**client_arguments(settings))
    await producer.start()
    for partition in (0, 1, 1, 1, 2):
        await producer.send_and_wait(name, b"x", partition=partition)
    await producer.stop()
    assert await end_offset(settings, ARTICLES) == 3


async def test_a_broker_that_is_not_there_has_no_end() -> None:
    with pytest.raises(BrokerUnreachable):
        await end_offset(Settings(kafka={"bootstrap": f"127.0.0.1:{free_port()}"}), ARTICLES)
