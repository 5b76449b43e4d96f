"""docs/metrics.md bounds every label that there is."""

from prometheus_client import CollectorRegistry

from infra.elastic_stats import ElasticStats
from metric_bounds import bounds, most_series
from streams.metrics import Metrics


def labels() -> set[str]:
    registry = CollectorRegistry()
    Metrics(registry)
    held = {label for each in registry._collector_to_names for label in each._labelnames}
    return held | {label for each in ElasticStats().describe() for label in each._labelnames}


def test_every_label_is_bounded_and_no_other() -> None:
    assert set(bounds()) == labels()
    assert most_series() == 1000
