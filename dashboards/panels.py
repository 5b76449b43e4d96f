"""The kinds of panel that the dashboards are made of."""

import json

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
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


def number(
    title: str, description: str, unit: str, query: Query, thresholds: dashboard.ThresholdsConfig
) -> Panel:
    """The newest value of one series, in large, coloured by its thresholds."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(thresholds)
        .span(QUARTER)
        .height(LOW)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query))
    )


def trend(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    thresholds: dashboard.ThresholdsConfig | None = None,
    width: int = HALF,
) -> Panel:
    """Series over time; thresholds are drawn as dashed lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .no_value("none")
        .fill_opacity(8)
        .span(width)
        .height(HIGH)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    if thresholds:
        panel.thresholds(thresholds)
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        )
    for query in queries:
        panel.with_target(_target(query))
    return panel


def bars(title: str, description: str, query: Query, *, width: int = THIRD) -> Panel:
    """The newest value of each series as a bar: for counts by reason."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .min(0)
        .no_value("none")
        .thresholds(steps((None, GREEN)))
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(width)
        .height(HIGH)
        .with_target(_target(query))
    )


def density(title: str, description: str, expression: str) -> Panel:
    """A histogram's buckets over time, as a heatmap."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Greens"))
        .y_axis(heatmap.YAxisConfig().unit("none"))
        .span(HALF)
        .height(HIGH)
        .with_target(_target((expression, "{{le}}")).format(PromQueryFormat.HEATMAP))
    )


def steps(*changes: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours by value: each holds from its value on, the first (None) from below."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in changes])
    )


def _target(query: Query) -> prometheus.Dataquery:
    expression, legend = query
    return prometheus.Dataquery().expr(expression).legend_format(legend)


def datasource() -> dashboard.DatasourceVariable:
    """The Prometheus that a dashboard asks, chosen in its list."""
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def as_json(board: dashboard.Dashboard) -> str:
    """A dashboard as Grafana's JSON."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
