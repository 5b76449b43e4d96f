import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from consumers.ports import Index, Lookup, Search, Versions
from fakes.search import FakeLibrary
from infra.elastic import (
    ElasticIndex,
    ElasticLookup,
    ElasticSearch,
    ElasticVersions,
    connect,
    prepare,
)
from infra.settings import Elasticsearch

DIMENSIONS = 8


@dataclass
class Library:
    """An empty index of `DIMENSIONS`; what is written is found after `refresh`."""

    index: Index
    search: Search
    lookup: Lookup
    versions: Versions
    refresh: Callable[[], Awaitable[object]]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.elasticsearch)])
async def library(request: pytest.FixtureRequest) -> AsyncIterator[Library]:
    if request.param == "fake":
        fake = FakeLibrary(DIMENSIONS)

        async def nothing() -> None: ...

        yield Library(fake, fake, fake.lookup, fake.versions, nothing)
        return
    node = request.getfixturevalue("elasticsearch_node")
    alias = f"contract-{uuid.uuid4().hex}"
    client = connect(Elasticsearch(url=node.url, alias=alias))
    await prepare(client, alias, DIMENSIONS)
    try:
        yield Library(
            ElasticIndex(client, alias),
            ElasticSearch(client, alias),
            ElasticLookup(client, alias),
            ElasticVersions(client, alias),
            lambda: client.indices.refresh(index=alias),
        )
    finally:
        await client.indices.delete(index=f"{alias}-000001")
        await client.close()
