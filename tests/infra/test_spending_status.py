"""What `kailin status` shows of spending."""

import asyncio
from datetime import UTC, datetime

import pytest
from rich.console import Console

from engines import KafkaEngine
from fakes import records as example
from infra.kafka import Publisher
from infra.settings import Settings
from infra.spending import Spent, month_of
from infra.spending_status import SpendingStatus, read_status, render, summarise
from infra.topic_admin import create_topics
from streams.topics import SPENDING

NOW = datetime(2026, 3, 7, tzinfo=UTC)
SPENDINGS = {
    "a": example.spending("a", money=2.0, prompt_tokens=900, completion_tokens=100),
    "b": example.spending("b", model="retired", money=1.0, prompt_tokens=90, completion_tokens=10),
    "c": example.spending("a", month="2026-02", money=50.0),
}


def settings_of(**spending: float) -> Settings:
    names = {"one": "teacher-70b", "two": "unused"}
    answerers = [{"name": n, "server": "local", "model": model} for n, model in names.items()]
    return Settings(answerers=answerers, spending=spending)


def shown(status: SpendingStatus) -> list[list[str]]:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(status))
    return [line.split() for line in console.export_text().splitlines()]


def test_every_model_has_its_line_with_its_part_of_the_budget():
    status = summarise(SPENDINGS, settings_of(money=10.0, tokens=100_000), NOW)
    assert shown(status) == [
        ["answers", "in", "2026-03", "requests", "tokens", "money", "of", "budget"],
        ["teacher-70b", "10", "1,000", "2.00", "20%"],
        ["unused", "0", "0", "0.00", "0%"],
        ["retired", "10", "100", "1.00", "10%"],
        ["70%", "of", "the", "month's", "budget", "is", "left"],
    ]


def test_what_is_nearer_to_its_bound_counts():
    status = summarise(SPENDINGS, settings_of(money=10.0, tokens=2000), NOW)
    assert status.left == pytest.approx(0.45)
    assert status.shares["teacher-70b"] == pytest.approx(0.5)


def test_without_a_budget_there_is_no_part_of_it():
    status = summarise(SPENDINGS, settings_of(), NOW)
    assert status.left is None
    assert shown(status)[1] == ["teacher-70b", "10", "1,000", "2.00"]
    assert len(shown(status)) == 4


def test_without_answerers_there_is_nothing_to_show():
    assert read_status(Settings()) is None


def test_without_a_broker_there_is_nothing_to_show():
    settings = settings_of()
    away = settings.kafka.model_copy(update={"bootstrap": "127.0.0.1:9"})
    assert read_status(settings.model_copy(update={"kafka": away})) is None


async def publish(settings: Settings) -> None:
    await create_topics(settings, [SPENDING])
    async with Publisher(settings) as publisher:
        await publisher.send(SPENDING, example.spending(month=month_of(datetime.now(UTC))))


@pytest.mark.kafka
def test_it_is_read_from_the_topic(kafka_broker: KafkaEngine):
    kafka = kafka_broker.settings.model_copy(update={"prefix": "spending-status."})
    settings = settings_of().model_copy(update={"kafka": kafka})
    asyncio.run(publish(settings))
    status = read_status(settings)
    assert status
    assert status.models["teacher-70b"] == Spent(
        requests=10, prompt_tokens=9000, completion_tokens=20, money=0.0092
    )
