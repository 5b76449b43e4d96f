"""A request is paid for before it is sent, and afterwards costs what it did cost."""

import asyncio

import pytest

from consumers.budget import TEMPLATE, Prices, within
from consumers.ports import Completion, Cost, Prompted
from fakes.budget import FakeBudget
from fakes.generate import FakeGenerate
from streams.errors import Invalid, Transient

PRICES = Prices(prompt=2.0, completion=10.0)
REQUEST = Prompted(
    model="teacher-70b", prompt="Does it?", temperature=0.0, top_p=1.0, max_tokens=16, seed=1
)
MOST = PRICES.of(len("Does it?") + TEMPLATE, 16)
ANSWER = Completion(text="Yes", finished=True, prompt_tokens=40, completion_tokens=2)


def spent(budget: FakeBudget) -> list[Cost]:
    assert budget.reserved == []
    return [cost for costs in budget.spent.values() for cost in costs]


def test_prices_are_of_a_million_tokens():
    assert PRICES.of(1_000_000, 500_000).money == 7.0


async def test_what_was_reserved_is_settled_with_what_it_cost():
    budget = FakeBudget()
    seen = []

    async def ask(request: Prompted) -> Completion:
        seen.extend(reserved.most for reserved in budget.reserved)
        return ANSWER

    assert await within(budget, ask, PRICES)(REQUEST) is ANSWER
    assert seen == [MOST]
    assert spent(budget) == [PRICES.of(40, 2)]


async def test_nothing_is_asked_that_the_budget_does_not_bear():
    model = FakeGenerate(["Yes"])
    with pytest.raises(Transient, match="budget spent"):
        await within(FakeBudget(tokens=100), model, PRICES)(REQUEST)
    assert model.requests == []


async def test_a_letter_of_any_script_is_no_more_tokens_than_bytes():
    budget = FakeBudget()
    asked = within(budget, FakeGenerate([Transient("model server timed out")]), PRICES)
    with pytest.raises(Transient):
        await asked(Prompted(model="m", prompt="β凝", temperature=0, top_p=1, max_tokens=1, seed=1))
    assert spent(budget) == [PRICES.of(5 + TEMPLATE, 1)]


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (Transient("model server away"), PRICES.of(0, 0)),
        (Transient("model server overloaded"), PRICES.of(0, 0)),
        (Invalid("model refused"), PRICES.of(0, 0)),
        (Transient("model server timed out"), MOST),
        (Transient("model answer malformed"), MOST),
        (RuntimeError("a fault"), MOST),
    ],
)
async def test_what_may_have_been_charged_without_an_answer_counts_in_full(error, cost):
    budget = FakeBudget()
    with pytest.raises(type(error)):
        await within(budget, FakeGenerate([error]), PRICES)(REQUEST)
    assert spent(budget) == [cost]


async def test_an_abandoned_request_counts_in_full():
    budget = FakeBudget()
    begun = asyncio.Event()

    async def endless(request: Prompted) -> Completion:
        begun.set()
        return await asyncio.Future()

    asking = asyncio.create_task(within(budget, endless, PRICES)(REQUEST))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert spent(budget) == [MOST]


async def test_a_server_that_counts_nothing_is_taken_to_have_used_the_most():
    budget = FakeBudget()
    silent = Completion(text="Yes", finished=True, prompt_tokens=0, completion_tokens=0)
    await within(budget, FakeGenerate([silent]), PRICES)(REQUEST)
    assert spent(budget) == [MOST]
