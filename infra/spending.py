"""What the answerers cost in a month, kept in the topic `spending`: one sum a worker and model.

A worker publishes its sum before it asks, with the most that the request may cost in it, and again
when it knows what it did cost. So a worker that dies leaves too much counted, by what it had in
flight, and never too little. A worker is one process: its sums stay when it has gone.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TypeAlias

from consumers.ports import Clock, Cost, Reserved
from infra.kafka import Publisher
from infra.settings import Settings
from infra.settings_learning import Spending as Bounds
from infra.topic_view import followed
from streams.errors import Transient
from streams.learning import Spending
from streams.metrics import Metrics
from streams.topics import SPENDING

log = logging.getLogger(__name__)

# A model and a month.
_Account: TypeAlias = tuple[str, str]

# How long what a request did cost waits to be published, where nothing else is asked for.
LINGER = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The sums of some `Spending`s."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def month_of(moment: datetime) -> str:
    """YYYY-MM, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def by_model(spendings: Iterable[Spending], month: str) -> dict[str, Spent]:
    """What each model cost in a month, over all workers."""
    held = [spending for spending in spendings if spending.month == month]
    return {
        model: _total(one for one in held if one.model == model)
        for model in sorted({one.model for one in held})
    }


def left(spent: Mapping[str, Spent], budget: Bounds) -> dict[str, float]:
    """The part of a month's budget that is left, of money and of tokens; 1 where there is none."""
    total = _total(spent.values())
    bounds = {"money": (total.money, budget.money), "tokens": (float(total.tokens), budget.tokens)}
    return {
        of: 1.0 if bound is None else max(0.0, 1.0 - used / bound) if bound else 0.0
        for of, (used, bound) in bounds.items()
    }


class MonthlyBudget:
    """The `Budget` port over the topic. `now` tells which month it is.

    Use as an async context manager; entering waits for a topic that is not there yet, and raises
    `BrokerUnreachable`. Reservations of one moment share a message.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, *, now: Clock = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._bounds = settings.spending
        self._metrics = metrics
        self._now = now
        self._worker = uuid.uuid4().hex[:12]
        self._settled: dict[_Account, Spent] = {}
        self._in_flight: set[Reserved] = set()
        self._unpublished: set[_Account] = set()
        self._asking: list[_Asking] = []
        self._asked = asyncio.Event()
        self._measured: set[str] = set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._view = await stack.enter_async_context(
                followed(self._settings, SPENDING, Spending)
            )
            self._publisher = await stack.enter_async_context(Publisher(self._settings))
            self._open = stack.pop_all()
        self._measure()
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        try:
            await self._publish()
        except Transient as error:
            log.warning("the last sums are not published, and count too much: %s", error)
        await self._open.aclose()

    async def reserve(self, model: str, most: Cost) -> Reserved:
        if self._keeping.done():
            self._keeping.result()
        reserved = Reserved(model, month_of(self._now()), most)
        asking = _Asking(reserved, asyncio.get_running_loop().create_future())
        self._asking.append(asking)
        self._asked.set()
        try:
            await asking.answer
        except BaseException:
            # Also where it was granted, and whoever asked has gone.
            self._withdraw(reserved)
            raise
        return reserved

    def settle(self, reserved: Reserved, cost: Cost) -> None:
        account = _account(reserved)
        self._settled[account] = _with(self._settled.get(account, Spent()), cost)
        self._withdraw(reserved)

    def _withdraw(self, reserved: Reserved) -> None:
        if reserved in self._in_flight:
            self._in_flight.remove(reserved)
            self._unpublished.add(_account(reserved))

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LINGER)
            self._asked.clear()
            asking, self._asking = self._asking, []
            try:
                await self._grant(asking)
            except Exception as error:
                for one in [*asking, *self._asking]:
                    one.refuse(error)
                if not isinstance(error, Transient):
                    raise
                log.warning("the sums of spending are not published: %s", error)
            self._measure()

    async def _grant(self, asking: Sequence["_Asking"]) -> None:
        """Publish the sums with what is asked for in them, then see what others published."""
        fitting = self._admit(asking)
        self._unpublished |= {_account(one.reserved) for one in fitting}
        await self._publish()
        if fitting and self._bounded:
            # Of two workers that ask for the last of a budget, one at least sees the other's.
            await self._view.catch_up()
            published = {one.reserved for one in fitting}
            self._in_flight -= published
            fitting = self._admit(fitting)
            self._unpublished |= {_account(r) for r in published - self._in_flight}
        for one in fitting:
            one.grant()

    def _admit(self, asking: Sequence["_Asking"]) -> list["_Asking"]:
        """Those that there is budget for, now in flight; the others are refused, if still there."""
        used: dict[str, Spent] = {}
        fitting = []
        for one in (one for one in asking if not one.answer.done()):
            month, most = one.reserved.month, one.reserved.most
            before = used.get(month) or _total(by_model(self._known(), month).values())
            used[month] = _with(before, most)
            if self._over(used[month]):
                used[month] = before
                one.refuse(Transient("budget spent", self._explained(before, most)))
                continue
            self._in_flight.add(one.reserved)
            fitting.append(one)
        return fitting

    @property
    def _bounded(self) -> bool:
        return self._bounds.money is not None or self._bounds.tokens is not None

    def _over(self, spent: Spent) -> bool:
        money, tokens = self._bounds.money, self._bounds.tokens
        return (money is not None and spent.money > money) or (
            tokens is not None and spent.tokens > tokens
        )

    def _explained(self, spent: Spent, most: Cost) -> str:
        parts = []
        if self._bounds.money is not None:
            of = f"{spent.money:.4g} of spending.money = {self._bounds.money:g}"
            parts.append(f"{of} (a request may cost {most.money:.4g})")
        if self._bounds.tokens is not None:
            of = f"{spent.tokens:,} of spending.tokens = {self._bounds.tokens:,}"
            most_tokens = most.prompt_tokens + most.completion_tokens
            parts.append(f"{of} (a request may take {most_tokens:,})")
        return f"{'; '.join(parts)}: answering goes on next month, or with a higher bound"

    def _known(self) -> list[Spending]:
        """What all workers spent; of this one as it is, not as it was published."""
        others = (s for s in self._view.records.values() if s.worker != self._worker)
        accounts = set(map(_account, self._in_flight)) | self._settled.keys()
        return [*others, *map(self._own, accounts)]

    def _own(self, account: _Account) -> Spending:
        model, month = account
        spent = self._settled.get(account, Spent())
        for reserved in self._in_flight:
            if _account(reserved) == account:
                spent = _with(spent, reserved.most)
        return Spending(
            worker=self._worker,
            model=model,
            month=month,
            requests=spent.requests,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            money=spent.money,
            at=self._now(),
        )

    async def _publish(self) -> None:
        accounts, self._unpublished = self._unpublished, set()
        try:
            for account in accounts:
                await self._publisher.send(SPENDING, self._own(account))
        except BaseException:
            self._unpublished |= accounts
            raise

    def _measure(self) -> None:
        spent = by_model(self._known(), month_of(self._now()))
        metrics = self._metrics
        self._measured |= spent.keys()
        for model in self._measured:
            one = spent.get(model, Spent())
            metrics.spent_money.labels(model).set(one.money)
            metrics.spent_tokens.labels(model, "prompt").set(one.prompt_tokens)
            metrics.spent_tokens.labels(model, "completion").set(one.completion_tokens)
        for of, ratio in left(spent, self._bounds).items():
            metrics.budget_left.labels(of).set(ratio)


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """A reservation, and who waits for it."""

    reserved: Reserved
    answer: asyncio.Future[None]

    def grant(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _account(reserved: Reserved) -> _Account:
    return reserved.model, reserved.month


def _with(spent: Spent, cost: Cost) -> Spent:
    return Spent(
        requests=spent.requests + 1,
        prompt_tokens=spent.prompt_tokens + cost.prompt_tokens,
        completion_tokens=spent.completion_tokens + cost.completion_tokens,
        money=spent.money + cost.money,
    )


def _total(parts: Iterable[Spent | Spending]) -> Spent:
    held = list(parts)
    return Spent(
        requests=sum(one.requests for one in held),
        prompt_tokens=sum(one.prompt_tokens for one in held),
        completion_tokens=sum(one.completion_tokens for one in held),
        money=sum(one.money for one in held),
    )
