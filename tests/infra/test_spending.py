"""Spending on a real broker: it outlives its workers, and two of them share one budget."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Cost
from engines import KafkaEngine
from fakes import records as example
from infra.settings import Settings
from infra.settings_learning import Spending as Bounds
from infra.spending import MonthlyBudget, Spent, by_model, left, month_of
from infra.topic_admin import create_topics
from infra.topic_view import read
from streams.errors import Transient
from streams.learning import Spending
from streams.metrics import Metrics
from streams.topics import SPENDING

NOW = datetime(2026, 3, 7, tzinfo=UTC)


def cost(tokens: int, money: float = 0.0) -> Cost:
    return Cost(prompt_tokens=tokens - 1, completion_tokens=1, money=money)


def test_the_sums_are_of_one_month_and_over_all_workers():
    spendings = [
        example.spending("a", money=1.0),
        example.spending("b", money=2.0),
        example.spending("a", model="other", money=4.0),
        example.spending("a", month="2026-02", money=8.0),
    ]
    assert by_model(spendings, "2026-03") == {
        "other": Spent(requests=10, prompt_tokens=9000, completion_tokens=20, money=4.0),
        "teacher-70b": Spent(requests=20, prompt_tokens=18000, completion_tokens=40, money=3.0),
    }


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, {"money": 1.0, "tokens": 1.0}),
        ({"money": 8.0, "tokens": 1000}, {"money": 0.75, "tokens": 0.8}),
        ({"money": 1.0, "tokens": 100}, {"money": 0.0, "tokens": 0.0}),
        ({"money": 0.0}, {"money": 0.0, "tokens": 1.0}),
    ],
)
def test_what_is_left_of_a_budget(bounds: dict[str, Any], expected: dict[str, float]):
    spent = {"teacher": Spent(prompt_tokens=150, completion_tokens=50, money=2.0)}
    assert left(spent, Bounds(**bounds)) == pytest.approx(expected)


def test_a_month_is_that_of_utc():
    assert month_of(datetime.fromisoformat("2026-04-01T01:00:00+02:00")) == "2026-03"


@asynccontextmanager
async def opened(
    broker: KafkaEngine, prefix: str, metrics: Metrics | None = None, **bounds: Any
) -> AsyncIterator[MonthlyBudget]:
    settings = settings_of(broker, prefix, **bounds)
    await create_topics(settings, [SPENDING])
    metrics = metrics or Metrics(CollectorRegistry())
    async with MonthlyBudget(settings, metrics, now=lambda: NOW) as budget:
        yield budget


def settings_of(broker: KafkaEngine, prefix: str, **bounds: Any) -> Settings:
    kafka = broker.settings.model_copy(update={"prefix": prefix})
    return Settings(kafka=kafka, spending=bounds)


async def on_record(broker: KafkaEngine, prefix: str) -> int:
    found = await read(settings_of(broker, prefix), SPENDING, Spending)
    return sum(one.tokens for one in by_model(found.values(), "2026-03").values())


@pytest.mark.kafka
async def test_the_most_is_on_record_before_a_request_and_its_cost_afterwards(
    kafka_broker: KafkaEngine,
):
    prefix = "spending-record."
    async with opened(kafka_broker, prefix) as budget:
        reserved = await budget.reserve("teacher", cost(100))
        assert await on_record(kafka_broker, prefix) == 100
        budget.settle(reserved, cost(30))
    assert await on_record(kafka_broker, prefix) == 30


@pytest.mark.kafka
async def test_what_was_spent_before_a_restart_still_counts(kafka_broker: KafkaEngine):
    prefix = "spending-restart."
    async with opened(kafka_broker, prefix, tokens=100) as budget:
        budget.settle(await budget.reserve("teacher", cost(90)), cost(80))
    async with opened(kafka_broker, prefix, tokens=100) as budget:
        with pytest.raises(Transient, match=r"80 of spending\.tokens = 100"):
            await budget.reserve("teacher", cost(21))
        await budget.reserve("teacher", cost(20))
    async with opened(kafka_broker, prefix, tokens=200) as budget:
        await budget.reserve("teacher", cost(21))


@pytest.mark.kafka
async def test_a_worker_that_died_leaves_what_it_had_in_flight_counted(kafka_broker: KafkaEngine):
    prefix = "spending-died."
    async with opened(kafka_broker, prefix) as budget:
        await budget.reserve("teacher", cost(70))
        # As a crash would: nothing is published any more.
        budget._unpublished.clear()
        budget._keeping.cancel()
    async with opened(kafka_broker, prefix, tokens=100) as budget:
        with pytest.raises(Transient, match="budget spent"):
            await budget.reserve("teacher", cost(31))
        await budget.reserve("teacher", cost(30))


@pytest.mark.kafka
async def test_two_workers_never_have_more_in_flight_than_there_is(kafka_broker: KafkaEngine):
    prefix = "spending-two."
    async with (
        opened(kafka_broker, prefix, tokens=300) as one,
        opened(kafka_broker, prefix, tokens=300) as two,
    ):
        granted = 0
        for _ in range(8):
            answers = await asyncio.gather(
                *(budget.reserve("teacher", cost(40)) for budget in (one, two) for _ in range(3)),
                return_exceptions=True,
            )
            granted += sum(not isinstance(answer, BaseException) for answer in answers)
            assert all(isinstance(a, Transient) for a in answers if isinstance(a, BaseException))
            assert granted * 40 <= 300
        # Both may have stepped back from the last of it at once, but alone one gets it.
        while granted < 7:
            await asyncio.sleep(1.5)
            await one.reserve("teacher", cost(40))
            granted += 1
        await asyncio.sleep(1.5)
        with pytest.raises(Transient, match="budget spent"):
            await two.reserve("teacher", cost(40))


@pytest.mark.kafka
async def test_the_metrics_are_of_all_workers_and_of_this_month(kafka_broker: KafkaEngine):
    prefix = "spending-metrics."
    async with opened(kafka_broker, prefix) as budget:
        budget.settle(await budget.reserve("teacher", cost(50, 2.0)), cost(50, 2.0))
    metrics = Metrics(CollectorRegistry())
    async with opened(kafka_broker, prefix, metrics, money=4.0) as budget:
        budget.settle(await budget.reserve("other", cost(20, 1.0)), cost(20, 1.0))
        await budget.reserve("other", cost(1, 0.0))

        def value(name: str, **labels: str) -> float | None:
            return metrics.registry.get_sample_value(name, labels)

        assert value("kailin_spent_money", model="teacher") == 2.0
        assert value("kailin_spent_money", model="other") == 1.0
        assert value("kailin_spent_tokens", model="teacher", kind="prompt") == 49
        assert value("kailin_budget_left_ratio", of="money") == 0.25
        assert value("kailin_budget_left_ratio", of="tokens") == 1.0


@pytest.mark.kafka
async def test_a_reservation_that_nobody_waits_for_any_more_is_taken_back(
    kafka_broker: KafkaEngine,
):
    async with opened(kafka_broker, "spending-gone.", tokens=100) as budget:
        asking = asyncio.create_task(budget.reserve("teacher", cost(100)))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await budget.reserve("teacher", cost(100))
