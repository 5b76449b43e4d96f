"""The queries that panels have in common, and the variables that they go by."""

from collections.abc import Sequence

from dashboards.panels import Query

# What is chosen in the dashboard's lists.
STAGE = '{stage=~"$stage"}'
MODEL = '{model=~"$model"}'
TOPIC = '{topic=~"$topic"}'


def rate(metric: str, by: str, chosen: str = "") -> str:
    """How fast a counter grows, a second."""
    return f"sum by ({by}) (rate({metric}{chosen}[$__rate_interval]))"


def total(metric: str, by: str, chosen: str = "") -> str:
    """A gauge, or a counter since its process began, over all processes."""
    return f"sum by ({by}) ({metric}{chosen})"


def quantiles(
    metric: str, by: str, levels: Sequence[float], chosen: str = "", *, legend: str = ""
) -> list[Query]:
    """Quantiles of a histogram; the legend is what it is by, unless another is given."""
    rates = f"sum by (le, {by}) (rate({metric}_bucket{chosen}[$__rate_interval]))"
    name = legend or f"{{{{{by}}}}}"
    return [
        (f"histogram_quantile({level}, {rates})", f"{name} p{level * 100:.0f}") for level in levels
    ]


def mean(metric: str, by: str, over: str = "$__rate_interval") -> str:
    """The mean of what a histogram or summary observed."""
    sums, counts = (
        f"sum by ({by}) (increase({metric}_{part}[{over}]))" for part in ("sum", "count")
    )
    return f"{sums} / {counts}"
