"""What `kailin status` shows of the month's spending on answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from infra import topic_view
from infra.kafka import BrokerUnreachable
from infra.settings import Settings
from infra.settings_learning import Spending as Bounds
from infra.spending import Spent, by_model, left, month_of
from streams.errors import Transient
from streams.learning import Spending
from streams.topics import SPENDING

WITHIN = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingStatus:
    """One month (YYYY-MM, UTC). `shares` are of the budget by model, None where there is none.

    `left` is the part that is left of it. Of money and tokens, what is nearer to its bound counts.
    """

    month: str
    models: dict[str, Spent]
    shares: dict[str, float | None]
    left: float | None


def read_status(settings: Settings) -> SpendingStatus | None:
    """What is on record; None without answerers, or where no broker answers."""
    if not settings.answerers:
        return None
    try:
        spendings = asyncio.run(
            asyncio.wait_for(topic_view.read(settings, SPENDING, Spending), WITHIN)
        )
    except (BrokerUnreachable, KafkaError, TimeoutError, Transient):
        return None
    return summarise(spendings, settings, datetime.now(UTC))


def summarise(
    spendings: Mapping[str, Spending], settings: Settings, now: datetime
) -> SpendingStatus:
    """The status of the month that `now` is in: every answerer's model, and what else has cost."""
    month, bounds = month_of(now), settings.spending
    spent = by_model(spendings.values(), month)
    models = dict.fromkeys((answerer.model for answerer in settings.answerers), Spent()) | spent
    bounded = bounds.money is not None or bounds.tokens is not None
    return SpendingStatus(
        month=month,
        models=models,
        shares={
            model: _share({model: one}, bounds) if bounded else None
            for model, one in models.items()
        },
        left=1.0 - _share(models, bounds) if bounded else None,
    )


def _share(spent: Mapping[str, Spent], bounds: Bounds) -> float:
    return 1.0 - min(left(spent, bounds).values())


def render(status: SpendingStatus) -> RenderableType:
    """The status as a table of models, and a line for what is left of a budget."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"answers in {status.month}")
    for column in ("requests", "tokens", "money", "of budget"):
        table.add_column(column, justify="right")
    for model, spent in status.models.items():
        share = status.shares[model]
        table.add_row(
            escape(model),
            f"{spent.requests:,}",
            f"{spent.tokens:,}",
            f"{spent.money:,.2f}",
            "" if share is None else f"{share:.0%}",
        )
    if status.left is None:
        return table
    colour = "red" if status.left < 0.01 else "dim"
    return Group(table, f"[{colour}]{status.left:.0%} of the month's budget is left[/]")
