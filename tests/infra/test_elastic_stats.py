"""How Elasticsearch fares, as Prometheus sees it: of a real node, and of one that is away."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry, generate_latest

from engines import free_port
from fakes.records import article
from infra.elastic import ElasticIndex, connect, prepare
from infra.elastic_stats import watching
from infra.settings import Elasticsearch


@pytest.fixture
async def settings(elasticsearch_node: Any) -> AsyncIterator[Elasticsearch]:
    settings = Elasticsearch(url=elasticsearch_node.url, alias=f"stats-{uuid.uuid4().hex[:8]}")
    async with connect(settings) as client:
        await prepare(client, settings.alias, 4)
        yield settings
        await client.indices.delete(index=f"{settings.alias}-000001")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"kailin_elasticsearch_{name}", labels)


@pytest.mark.elasticsearch
async def test_what_is_written_and_searched_is_counted(settings: Elasticsearch) -> None:
    registry = CollectorRegistry()
    async with connect(settings) as client, watching(settings, registry, every=0.1):
        index = ElasticIndex(client, settings.alias)
        vector = np.array([1, 0, 0, 0], dtype=np.float32)
        for pmid in range(1, 6):
            await index.put(article(pmid), vector, version=pmid)
        await client.indices.refresh(index=settings.alias)
        await client.search(index=settings.alias)
        for _ in range(200):
            if value(registry, "documents") == 5 and value(registry, "searches_total"):
                break
            await asyncio.sleep(0.1)
        assert value(registry, "documents") == 5
        assert (value(registry, "searches_total") or 0) > 0
        assert value(registry, "writes_total") == 5
        assert (value(registry, "write_seconds_total") or 0) > 0
        # The node looks at its files every ten seconds.
        assert (value(registry, "store_bytes") or 0) > 0
        states = [value(registry, "state", state=s) for s in ("green", "yellow", "red", "away")]
        assert sorted(states[:2]) == [0, 1]
        assert states[2:] == [0, 0]
        for pool in ("search", "write", "get"):
            assert value(registry, "rejected_total", pool=pool) == 0
        (line,) = (
            line
            for line in generate_latest(registry).decode().splitlines()
            if line.startswith("kailin_elasticsearch_heap_ratio{")
        )
        assert 0 < float(line.rpartition(" ")[2]) < 1
    assert "kailin" not in generate_latest(registry).decode()


async def test_a_cluster_that_is_away_is_said_to_be() -> None:
    registry = CollectorRegistry()
    nowhere = Elasticsearch(url=f"http://127.0.0.1:{free_port()}")
    async with watching(nowhere, registry, every=0.05):
        await asyncio.sleep(0.2)
        assert value(registry, "state", state="away") == 1
        assert value(registry, "documents") is None


PART = {
    "docs": {"count": 7},
    "store": {"size_in_bytes": 9},
    "search": {"query_total": 2, "query_time_in_millis": 500},
    "indexing": {"index_total": 3, "index_time_in_millis": 1},
}


@asynccontextmanager
async def cluster(**answers: Any) -> AsyncIterator[Elasticsearch]:
    """A cluster that answers the paths in which these names are; all else is forbidden."""

    async def answered(request: web.Request) -> web.Response:
        name = request.path.strip("/").replace("/", "_")
        body = next((answer for path, answer in answers.items() if path in name), None)
        headers = {"X-Elastic-Product": "Elasticsearch"}
        return web.json_response(body or {}, status=200 if body else 403, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answered)
    async with TestServer(app) as server:
        yield Elasticsearch(url=str(server.make_url("/")), alias="articles")


async def test_without_the_privilege_to_monitor_only_the_index_is_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    async with (
        cluster(articles__stats={"_all": {"primaries": PART, "total": PART}}) as settings,
        watching(settings, registry, every=0.05),
    ):
        await asyncio.sleep(0.5)
        assert value(registry, "documents") == 7
        assert value(registry, "search_seconds_total") == 0.5
        assert value(registry, "state", state="away") == 1
    (line,) = (record.message for record in caplog.records if "monitor" in record.message)
    assert "privilege" in line


async def test_an_index_of_which_no_shard_has_started_is_not_shown() -> None:
    """As a node answers in the first seconds of its life."""
    registry = CollectorRegistry()
    async with (
        cluster(
            cluster_health={"status": "red"},
            nodes_stats={"nodes": {}},
            articles__stats={"_all": {"primaries": {}, "total": {}}},
        ) as settings,
        watching(settings, registry, every=0.05),
    ):
        await asyncio.sleep(0.5)
        assert value(registry, "state", state="red") == 1
        assert "kailin_elasticsearch_documents" not in generate_latest(registry).decode()
