"""θ3 as a worker knows it: followed on a real broker, asked where it serves, one model a record."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Prompted
from engines import KafkaEngine
from fakes import records as example
from fakes.model_server import ModelServer
from infra.kafka import Publisher
from infra.serving_models import ServingModels
from infra.settings import Server, Settings
from infra.topic_admin import create_topics
from streams.errors import Transient
from streams.metrics import Metrics
from streams.topics import SERVING

pytestmark = pytest.mark.kafka

ASKED = {"prompt": "Ask.", "temperature": 0.7, "top_p": 0.9, "max_tokens": 16, "seed": 3}


def settings_of(broker: KafkaEngine, prefix: str, **servers: Server) -> Settings:
    kafka = broker.settings.model_copy(update={"prefix": prefix})
    theta3 = {"temperature": 0.1, "max_tokens": 9}
    return Settings(kafka=kafka, servers={"local": Server(), **servers}, theta3=theta3)


@asynccontextmanager
async def following(
    settings: Settings,
) -> AsyncIterator[tuple[ServingModels, Publisher, Metrics]]:
    await create_topics(settings, [SERVING])
    metrics = Metrics(CollectorRegistry())
    async with Publisher(settings) as publisher, ServingModels(settings, metrics) as models:
        yield models, publisher, metrics


async def put(models: ServingModels, publisher: Publisher, **changes: Any) -> None:
    record = example.serving(**changes)
    await publisher.send(SERVING, record)
    while models.serving != record:
        await models.wait(5.0)


async def test_the_generator_is_the_model_that_serves_asked_as_the_settings_say(
    kafka_broker: KafkaEngine,
):
    async with ModelServer() as server:
        guarded = Server(url="http://127.0.0.1:9/v1", api_key="sk-hidden")
        settings = settings_of(kafka_broker, "serving-one.", guarded=guarded)
        async with following(settings) as (models, publisher, metrics):
            with models.theta3() as none:
                assert none is None
            await put(models, publisher, model="m7", revision="7", server="guarded", url=server.url)
            with models.theta3() as theta3:
                assert theta3
                assert (theta3.name, theta3.model, theta3.revision) == ("theta3", "m7", "7")
                assert (theta3.temperature, theta3.max_tokens) == (0.1, 9)
                assert (await theta3.ask(Prompted(model=theta3.model, **ASKED))).text
            revision = metrics.registry.get_sample_value(
                "kailin_serving_revision", {"generator": "theta3"}
            )
            assert revision == 7
    assert server.requests[0]["model"] == "m7"
    # Its address is another, its key the server's own.
    assert server.keys == ["sk-hidden"]


async def test_a_record_in_work_keeps_its_model_and_its_client(kafka_broker: KafkaEngine):
    async with ModelServer() as old, ModelServer() as new:
        settings = settings_of(kafka_broker, "serving-two.")
        async with following(settings) as (models, publisher, _):
            await put(models, publisher, model="old", url=old.url)
            with models.theta3() as first:
                await put(models, publisher, model="new", url=new.url)
                with models.theta3() as second:
                    assert first
                    assert second
                    assert (first.model, second.model) == ("old", "new")
                    for theta3 in (second, first):
                        await theta3.ask(Prompted(model=theta3.model, **ASKED))
            # The old one's client went with its last record, the new one's stays.
            with models.theta3() as again:
                assert again
                assert again.ask is second.ask
            assert list(models._clients) == [("local", new.url)]
    assert [request["model"] for request in old.requests] == ["old"]
    assert [request["model"] for request in new.requests] == ["new"]


async def test_a_new_name_at_the_same_address_keeps_the_client(kafka_broker: KafkaEngine):
    async with following(settings_of(kafka_broker, "serving-same.")) as (models, publisher, _):
        await put(models, publisher, model="v1", url=None)
        with models.theta3() as first:
            await put(models, publisher, model="v2", url=None)
        with models.theta3() as second:
            assert first
            assert second
            assert (first.model, second.model) == ("v1", "v2")
            assert first.ask is second.ask


async def test_a_server_that_the_settings_do_not_have_is_waited_for(kafka_broker: KafkaEngine):
    async with following(settings_of(kafka_broker, "serving-else.")) as (models, publisher, _):
        await put(models, publisher, server="elsewhere")
        with (
            pytest.raises(Transient, match="'elsewhere', which is none of servers"),
            models.theta3(),
        ):
            pass


async def test_a_tombstone_takes_theta3_away(kafka_broker: KafkaEngine):
    async with following(settings_of(kafka_broker, "serving-gone.")) as (models, publisher, _):
        await put(models, publisher)
        await publisher.delete(SERVING, b"theta3")
        while models.serving:
            await models.wait(5.0)
        with models.theta3() as theta3:
            assert theta3 is None


async def test_a_topic_that_is_not_there_yet_is_waited_for(kafka_broker: KafkaEngine):
    settings = settings_of(kafka_broker, "serving-late.")
    models = ServingModels(settings, Metrics(CollectorRegistry()))
    entering = asyncio.create_task(models.__aenter__())
    await asyncio.sleep(1.0)
    assert not entering.done()
    await create_topics(settings, [SERVING])
    await asyncio.wait_for(entering, 60)
    await models.__aexit__(None, None, None)
