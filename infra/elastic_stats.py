"""How Elasticsearch fares, for Prometheus: it has no endpoint of its own that Prometheus reads.

The index stage asks and shows it, whether the cluster is embedded or elsewhere. An API key that may
do no more than the index needs lacks the cluster's privilege `monitor`: then only the figures of
the index are shown.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from elasticsearch import ApiError, AsyncElasticsearch, AuthorizationException, TransportError
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from infra.elastic import connect
from infra.settings import Elasticsearch

log = logging.getLogger(__name__)

EVERY = 5.0
STATES = ("green", "yellow", "red", "away")
# The thread pools that work of the stages goes through.
POOLS = ("search", "write", "get")
NODES = (
    "nodes.*.name,nodes.*.jvm.mem.heap_used_in_bytes,nodes.*.jvm.mem.heap_max_in_bytes,"
    "nodes.*.process.cpu.percent,nodes.*.thread_pool.*.rejected,nodes.*.thread_pool.*.queue"
)


@dataclass(frozen=True, slots=True)
class Stats:
    """What was answered last: the cluster's state, and the parts of its answers; empty if none."""

    state: str = "away"
    index: Mapping[str, Any] | None = None
    nodes: tuple[Mapping[str, Any], ...] = ()


class ElasticStats(Collector):
    """Shows the `Stats` that it was given last. Labels are bounded by nodes and by `POOLS`."""

    def __init__(self) -> None:
        self.stats = Stats()

    def collect(self) -> Iterable[Metric]:
        return shown(self.stats)

    def describe(self) -> Iterable[Metric]:
        return shown(Stats(index=_NOTHING))


@asynccontextmanager
async def watching(
    settings: Elasticsearch, registry: CollectorRegistry, *, every: float = EVERY
) -> AsyncIterator[None]:
    """Ask about the index and its cluster every so many seconds, and show it."""
    collector = ElasticStats()
    async with connect(settings) as client:
        registry.register(collector)
        asking = asyncio.create_task(_ask_on(client, settings.alias, collector, every))
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            registry.unregister(collector)


async def _ask_on(
    client: AsyncElasticsearch, alias: str, collector: ElasticStats, every: float
) -> None:
    asks = client.options(request_timeout=every)
    said = False
    while True:
        try:
            collector.stats = await ask(asks, alias)
        except AuthorizationException:
            collector.stats = Stats(index=await _index_alone(asks, alias))
            if not said:
                log.warning(
                    "index: how Elasticsearch fares is not shown: the API key or user lacks the "
                    "cluster privilege monitor"
                )
            said = True
        except (ApiError, TransportError):
            # The stage itself says so, and waits.
            collector.stats = Stats()
        await asyncio.sleep(every)


async def ask(client: AsyncElasticsearch, alias: str) -> Stats:
    """One look at the cluster. Raises what the client raises."""
    health = await client.cluster.health(filter_path="status")
    nodes = await client.nodes.stats(
        metric=["jvm", "process", "thread_pool"], filter_path=NODES.split(",")
    )
    return Stats(
        state=health["status"],
        index=await _index_alone(client, alias),
        nodes=tuple(nodes.get("nodes", {}).values()),
    )


async def _index_alone(client: AsyncElasticsearch, alias: str) -> Mapping[str, Any] | None:
    try:
        answer = await client.indices.stats(
            index=alias,
            metric=["docs", "store", "search", "indexing"],
            filter_path="_all",
        )
    except (ApiError, TransportError):
        return None
    totals: Mapping[str, Any] = answer["_all"]
    # A node that has just started has no shard yet, and says nothing of them.
    return totals if all(totals[part] for part in ("primaries", "total")) else None


# name, what it is, where it is found: the part of all copies or of the primaries, and the path.
_GAUGES = (
    ("documents", "Records in the index, deleted ones left out.", "primaries", ("docs", "count")),
    (
        "store_bytes",
        "Bytes of the index on disk, copies included.",
        "total",
        ("store", "size_in_bytes"),
    ),
)
_COUNTERS = (
    ("searches", "Searches of shards.", "total", ("search", "query_total"), 1.0),
    ("search_seconds", "Time in them.", "total", ("search", "query_time_in_millis"), 0.001),
    ("writes", "Records written to shards.", "total", ("indexing", "index_total"), 1.0),
    ("write_seconds", "Time in that.", "total", ("indexing", "index_time_in_millis"), 0.001),
)
_NOTHING: Mapping[str, Any] = {
    part: {
        "docs": {"count": 0},
        "store": {"size_in_bytes": 0},
        "search": {"query_total": 0, "query_time_in_millis": 0},
        "indexing": {"index_total": 0, "index_time_in_millis": 0},
    }
    for part in ("primaries", "total")
}


def shown(stats: Stats) -> Iterable[Metric]:
    """The families of metrics that say so."""
    state = GaugeMetricFamily(
        "kailin_elasticsearch_state",
        "1 for the state of the cluster (green, yellow, red), or away where it does not say.",
        labels=["state"],
    )
    for name in STATES:
        state.add_metric([name], float(name == stats.state))
    yield state
    if stats.index:
        yield from _index(stats.index)
    yield from _nodes(stats.nodes)


def _index(found: Mapping[str, Any]) -> Iterable[Metric]:
    for name, what, part, (section, key) in _GAUGES:
        yield GaugeMetricFamily(
            f"kailin_elasticsearch_{name}", what, value=found[part][section][key]
        )
    for name, what, part, (section, key), factor in _COUNTERS:
        yield CounterMetricFamily(
            f"kailin_elasticsearch_{name}", what, value=found[part][section][key] * factor
        )


def _nodes(nodes: Iterable[Mapping[str, Any]]) -> Iterable[Metric]:
    heap = GaugeMetricFamily(
        "kailin_elasticsearch_heap_ratio", "Part of a node's heap that is in use.", labels=["node"]
    )
    busy = GaugeMetricFamily(
        "kailin_elasticsearch_cpu_ratio",
        "Part of its machine's processors that a node takes.",
        labels=["node"],
    )
    queue = GaugeMetricFamily(
        "kailin_elasticsearch_queue",
        "Requests that wait for a thread, over all nodes.",
        labels=["pool"],
    )
    rejected = CounterMetricFamily(
        "kailin_elasticsearch_rejected",
        "Requests refused because too many waited, over all nodes.",
        labels=["pool"],
    )
    waiting, refused = dict.fromkeys(POOLS, 0), dict.fromkeys(POOLS, 0)
    for node in nodes:
        memory = node["jvm"]["mem"]
        heap.add_metric([node["name"]], memory["heap_used_in_bytes"] / memory["heap_max_in_bytes"])
        busy.add_metric([node["name"]], max(0, node["process"]["cpu"]["percent"]) / 100)
        for pool in POOLS:
            found = node["thread_pool"].get(pool, {})
            waiting[pool] += found.get("queue", 0)
            refused[pool] += found.get("rejected", 0)
    if nodes:
        for pool in POOLS:
            queue.add_metric([pool], waiting[pool])
            rejected.add_metric([pool], refused[pool])
    yield from (heap, busy, queue, rejected)
