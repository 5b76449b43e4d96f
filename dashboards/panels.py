"""The kinds of panel that the dashboards are made of.

A panel's title is the question that it answers. Its description repeats the question, says what is
shown and what to do about it, and from which value on that is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel = Builder[models.Panel]
# An expression and the legend of its series.
Query = tuple[str, str]

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED = "green", "orange", "red"
# Grafana's grid is 24 columns wide.
QUARTER, THIRD, HALF = 6, 8, 12
LOW, HIGH = 4, 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Values from which on, or below which, something is to be looked at (orange) or done (red)."""

    orange: float
    red: float

    @property
    def falling(self) -> bool:
        return self.red < self.orange

    def steps(self) -> dashboard.ThresholdsConfig:
        low, middle, high = (RED, ORANGE, GREEN) if self.falling else (GREEN, ORANGE, RED)
        first, second = sorted((self.orange, self.red))
        changes = [(None, low), (first, middle), (second, high)]
        if first == second:
            changes = [(None, low), (second, high)]
        return _steps(changes)

    def told(self, unit: str) -> str:
        side = "below" if self.falling else "from"
        orange, red = (_value(value, unit) for value in (self.orange, self.red))
        if orange == red:
            return f"Red from {red}."
        return f"Orange {side} {orange}, red {side} {red}."


@dataclass(frozen=True, slots=True)
class Leads:
    """Where to look next: another dashboard, with the labels of the series as its variables."""

    board: str
    labels: tuple[str, ...] = ()

    def link(self) -> dashboard.DashboardLink:
        chosen = "".join(f"&var-{name}=${{__field.labels.{name}}}" for name in self.labels)
        title = f"{self.board}, for this {' and '.join(self.labels)}" if chosen else self.board
        url = f"/d/kailin-{self.board.lower()}?${{__url_time_range}}{chosen}"
        return dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url)


def number(
    title: str, text: str, unit: str, query: Query, limits: Limits, *, leads: Leads | None = None
) -> Panel:
    """The newest value of one series, in large, coloured by its limits."""
    panel = (
        stat.Panel()
        .title(title)
        .description(_described(title, text, unit, limits))
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(limits.steps())
        .span(QUARTER)
        .height(LOW)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query))
    )
    return panel.data_links([leads.link()]) if leads else panel


def trend(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    limits: Limits | None = None,
    width: int = HALF,
    leads: Leads | None = None,
) -> Panel:
    """Series over time; limits are drawn as dashed lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(_described(title, text, unit, limits))
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .no_value("none")
        .fill_opacity(8)
        .span(width)
        .height(HIGH)
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    if limits:
        panel.thresholds(limits.steps())
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        )
    if leads:
        panel.data_links([leads.link()])
    for query in queries:
        panel.with_target(_target(query))
    return panel


def bars(
    title: str,
    text: str,
    query: Query,
    *,
    unit: str = "short",
    limits: Limits | None = None,
    width: int = THIRD,
    leads: Leads | None = None,
) -> Panel:
    """The newest value of each series as a bar: for counts by reason."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(_described(title, text, unit, limits))
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .no_value("none")
        .thresholds(limits.steps() if limits else _steps([(None, GREEN)]))
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(width)
        .height(HIGH)
        .with_target(_target(query))
    )
    return panel.data_links([leads.link()]) if leads else panel


def states(
    title: str,
    text: str,
    query: Query,
    *,
    unit: str = "none",
    limits: Limits | None = None,
    width: int = HALF,
    leads: Leads | None = None,
) -> Panel:
    """What each series was, and since when, as a band over time."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(_described(title, text, unit, limits))
        .datasource(SOURCE)
        .unit(unit)
        .no_value("none")
        .thresholds(limits.steps() if limits else _steps([(None, GREEN)]))
        .show_value(VisibilityMode.AUTO)
        .merge_values(True)
        .legend(_legend())
        .span(width)
        .height(HIGH)
        .with_target(_target(query))
    )
    return panel.data_links([leads.link()]) if leads else panel


def density(title: str, text: str, expression: str) -> Panel:
    """A histogram's buckets over time, as a heatmap."""
    return (
        heatmap.Panel()
        .title(title)
        .description(_described(title, text, "short", None))
        .datasource(SOURCE)
        .unit("short")
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Greens"))
        .y_axis(heatmap.YAxisConfig().unit("none"))
        .span(HALF)
        .height(HIGH)
        .with_target(_target((expression, "{{le}}")).format(PromQueryFormat.HEATMAP))
    )


def _described(title: str, text: str, unit: str, limits: Limits | None) -> str:
    told = limits.told(unit) if limits else "No value is bad in itself."
    return f"{title} {text} {told}"


def _value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "s":
        for name, seconds in (("days", 86400), ("h", 3600), ("min", 60)):
            if value >= 2 * seconds:
                return f"{value / seconds:g} {name}"
        return f"{value:g} s"
    return f"{value:,g}"


def _steps(changes: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    """Colours by value: each holds from its value on, the first (None) from below."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in changes])
    )


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _target(query: Query) -> prometheus.Dataquery:
    expression, legend = query
    return prometheus.Dataquery().expr(expression).legend_format(legend)
