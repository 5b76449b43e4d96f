"""The `Budget` port: one suite on the one in memory and on the topic of a real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Budget, Cost
from fakes.budget import FakeBudget
from infra.settings import Settings
from infra.spending import MonthlyBudget
from infra.topic_admin import create_topics
from streams.errors import Transient
from streams.metrics import Metrics
from streams.topics import SPENDING

Open = Callable[..., Awaitable[Budget]]

NEW_YEARS_EVE = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)


def cost(tokens: int, money: float = 0.0) -> Cost:
    return Cost(prompt_tokens=tokens - 1, completion_tokens=1, money=money)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kafka)])
async def budget(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens a budget with these bounds, `now` in UTC."""

    def now() -> datetime:
        return NEW_YEARS_EVE

    async def fake(**bounds: Any) -> Budget:
        return FakeBudget(**{"now": now, **bounds})

    if request.param == "fake":
        yield fake
        return
    broker = request.getfixturevalue("kafka_broker")
    async with AsyncExitStack() as stack:

        async def real(now: Callable[[], datetime] = now, **bounds: Any) -> Budget:
            kafka = broker.settings.model_copy(update={"prefix": f"{uuid.uuid4().hex[:8]}."})
            settings = Settings(kafka=kafka, spending=bounds)
            await create_topics(settings, [SPENDING])
            metrics = Metrics(CollectorRegistry())
            return await stack.enter_async_context(MonthlyBudget(settings, metrics, now=now))

        yield real


async def test_without_a_bound_anything_may_be_spent(budget: Open) -> None:
    held = await budget()
    held.settle(await held.reserve("teacher", cost(10**9, 1e6)), cost(10**9, 1e6))
    await held.reserve("teacher", cost(10**9, 1e6))


@pytest.mark.parametrize("bound", [{"tokens": 100}, {"money": 1.0}])
async def test_what_is_in_flight_counts_until_it_is_settled(budget: Open, bound: Any) -> None:
    held = await budget(**bound)
    first = await held.reserve("teacher", cost(60, 0.6))
    with pytest.raises(Transient, match="budget spent"):
        await held.reserve("other", cost(60, 0.6))
    held.settle(first, cost(40, 0.4))
    second = await held.reserve("other", cost(60, 0.6))
    held.settle(second, cost(60, 0.6))
    with pytest.raises(Transient) as refused:
        await held.reserve("teacher", cost(1, 0.01))
    assert refused.value.reason == "budget spent"


async def test_what_cost_more_than_was_reserved_counts_in_full(budget: Open) -> None:
    held = await budget(tokens=100)
    held.settle(await held.reserve("teacher", cost(50)), cost(99))
    with pytest.raises(Transient):
        await held.reserve("teacher", cost(2))
    await held.reserve("teacher", cost(1))


async def test_of_many_at_once_only_as_many_as_there_is_room_for(budget: Open) -> None:
    held = await budget(tokens=100)
    answers = await asyncio.gather(
        *(held.reserve("teacher", cost(30)) for _ in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, Transient)]
    assert len(answers) - len(refused) == 3
    for answer in answers:
        if not isinstance(answer, BaseException):
            held.settle(answer, cost(30))
    await held.reserve("teacher", cost(10))


async def test_a_refusal_leaves_nothing_counted(budget: Open) -> None:
    held = await budget(tokens=100)
    for _ in range(3):
        with pytest.raises(Transient):
            await held.reserve("teacher", cost(101))
    await held.reserve("teacher", cost(100))


async def test_a_month_has_its_own_budget_and_settles_what_it_began(budget: Open) -> None:
    moment = [NEW_YEARS_EVE]
    held = await budget(tokens=100, now=lambda: moment[0])
    begun = await held.reserve("teacher", cost(100))
    moment[0] += timedelta(minutes=2)
    reserved = await held.reserve("teacher", cost(100))
    held.settle(begun, cost(100))
    held.settle(reserved, cost(90))
    await held.reserve("teacher", cost(10))
