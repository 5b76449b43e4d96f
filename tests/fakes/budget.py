"""The `Budget` port in memory: one worker, one month at a time."""

from collections.abc import Callable
from datetime import UTC, datetime

from consumers.ports import Cost, Reserved
from streams.errors import Transient


class FakeBudget:
    """`spent` holds what was settled, by month; what is reserved counts against the bounds."""

    def __init__(
        self,
        *,
        money: float | None = None,
        tokens: int | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._money, self._tokens, self._now = money, tokens, now
        self.reserved: list[Reserved] = []
        self.spent: dict[str, list[Cost]] = {}

    async def reserve(self, model: str, most: Cost) -> Reserved:
        month = f"{self._now().astimezone(UTC):%Y-%m}"
        held = [r.most for r in self.reserved if r.month == month]
        counted = [*self.spent.get(month, ()), *held, most]
        tokens = sum(cost.prompt_tokens + cost.completion_tokens for cost in counted)
        if self._tokens is not None and tokens > self._tokens:
            raise Transient("budget spent")
        if self._money is not None and sum(cost.money for cost in counted) > self._money:
            raise Transient("budget spent")
        reserved = Reserved(model, month, most)
        self.reserved.append(reserved)
        return reserved

    def settle(self, reserved: Reserved, cost: Cost) -> None:
        self.reserved.remove(reserved)
        self.spent.setdefault(reserved.month, []).append(cost)
