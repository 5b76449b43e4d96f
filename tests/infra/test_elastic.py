"""The Elasticsearch adapter on a real node: the alias and its index, and a node that is killed."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from elasticsearch import AsyncElasticsearch

from consumers.ports import Vector
from fakes.records import article
from infra.elastic import ElasticIndex, ElasticSearch, check_not_ahead, connect, prepare
from infra.settings import Elasticsearch, SettingsError
from streams.errors import Invalid, Transient

pytestmark = pytest.mark.elasticsearch

VECTOR: Vector = np.array([1, 0, 0, 0], dtype=np.float32)


@pytest.fixture
def alias() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def client(elasticsearch_node: Any, alias: str) -> AsyncIterator[AsyncElasticsearch]:
    client = connect(Elasticsearch(url=elasticsearch_node.url))
    yield client
    # A stock server refuses to delete by wildcard.
    for name in await client.indices.get(index=f"{alias}*"):
        await client.indices.delete(index=name)
    await client.close()


async def mapping(client: AsyncElasticsearch, alias: str) -> Any:
    return (await client.indices.get(index=alias)).body


async def test_the_index_stands_behind_its_alias(client: AsyncElasticsearch, alias: str) -> None:
    await prepare(client, alias, 4)

    held = await mapping(client, alias)

    assert list(held) == [f"{alias}-000001"]
    assert list(held[f"{alias}-000001"]["aliases"]) == [alias]


async def test_an_index_of_several_shards_finds_what_lies_in_each(
    client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4, shards=3)
    index = ElasticIndex(client, alias)
    for pmid in range(1, 13):
        await index.put(article(pmid), VECTOR, version=pmid)
    await client.indices.refresh(index=alias)

    search = ElasticSearch(client, alias)
    hits = await search("aspirin", VECTOR, mode="hybrid", depth=20, exclude=1)

    settings = (await mapping(client, alias))[f"{alias}-000001"]["settings"]
    assert settings["index"]["number_of_shards"] == "3"
    shards = await client.cat.shards(index=alias, format="json")
    assert sum(shard["prirep"] == "p" and int(shard["docs"]) > 0 for shard in shards) == 3
    assert {hit.pmid for hit in hits.bm25} == {hit.pmid for hit in hits.dense} == set(range(2, 13))


async def test_preparing_again_keeps_what_is_there(client: AsyncElasticsearch, alias: str) -> None:
    await prepare(client, alias, 4)
    await ElasticIndex(client, alias).put(article(10), VECTOR, version=1)
    before = await mapping(client, alias)

    await asyncio.gather(*(prepare(client, alias, 4) for _ in range(3)))

    assert await mapping(client, alias) == before
    await client.indices.refresh(index=alias)
    assert (await client.count(index=alias))["count"] == 1


async def test_workers_that_start_at_once_make_one_index(
    client: AsyncElasticsearch, alias: str
) -> None:
    await asyncio.gather(*(prepare(client, alias, 4) for _ in range(8)))

    assert list(await mapping(client, alias)) == [f"{alias}-000001"]


async def test_an_index_that_is_ahead_of_its_topic_is_told(
    client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4)
    await check_not_ahead(client, alias, "articles", 0)
    index = ElasticIndex(client, alias)
    await asyncio.gather(index.put(article(10), VECTOR, version=2**40))
    await asyncio.gather(index.put(article(11), VECTOR, version=7))
    await client.indices.refresh(index=alias)

    await check_not_ahead(client, alias, "articles", 2**40 + 1)

    with pytest.raises(SettingsError, match=f"offset {2**40}, but topic articles ends"):
        await check_not_ahead(client, alias, "articles", 2**40)


async def test_other_dimensions_are_told_and_nothing_is_altered(
    client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4)
    before = await mapping(client, alias)

    with pytest.raises(SettingsError) as raised:
        await prepare(client, alias, 8)

    assert str(raised.value) == (
        f"elasticsearch.alias = {alias}: the mapping of {alias}-000001 has embedding.dims = 4, "
        "expected 8: `kailin reindex` makes one as the settings have it"
    )
    assert await mapping(client, alias) == before


async def test_an_index_of_another_shape_is_told(client: AsyncElasticsearch, alias: str) -> None:
    await client.indices.create(index=f"{alias}-old", aliases={alias: {}})

    with pytest.raises(SettingsError, match=rf"the mapping of {alias}-old has dynamic = None, "):
        await prepare(client, alias, 4)


async def test_an_index_named_like_the_alias_is_told(
    client: AsyncElasticsearch, alias: str
) -> None:
    await client.indices.create(index=alias)

    with pytest.raises(SettingsError) as raised:
        await prepare(client, alias, 4)

    assert str(raised.value).startswith(f"elasticsearch.alias = {alias}: ")
    assert "\n" not in str(raised.value)


async def test_an_index_without_its_alias_is_told(client: AsyncElasticsearch, alias: str) -> None:
    await client.indices.create(index=f"{alias}-000001")

    with pytest.raises(SettingsError, match="is there, but the alias does not point to it"):
        await prepare(client, alias, 4)


async def test_more_dimensions_than_the_server_takes_are_told(
    client: AsyncElasticsearch, alias: str
) -> None:
    with pytest.raises(SettingsError, match=r"cannot be made: .*4096"):
        await prepare(client, alias, 5000)


async def test_a_new_index_is_swapped_in_by_its_alias(
    client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4)
    index, search = ElasticIndex(client, alias), ElasticSearch(client, alias)
    await index.put(article(10, title="Old."), VECTOR, version=1)
    body = (await mapping(client, alias))[f"{alias}-000001"]["mappings"]
    await client.indices.create(index=f"{alias}-000002", mappings=body)

    await client.indices.update_aliases(
        actions=[
            {"remove": {"index": f"{alias}-000001", "alias": alias}},
            {"add": {"index": f"{alias}-000002", "alias": alias, "is_write_index": True}},
        ]
    )
    await prepare(client, alias, 4)
    await index.put(article(10, title="New."), VECTOR, version=1)

    await client.indices.refresh(index=alias)
    hits = await search("", VECTOR, mode="dense", depth=5, exclude=1)
    assert [hit.title for hit in hits.dense] == ["New."]


async def test_a_missing_index_is_waited_for_and_not_guessed(
    client: AsyncElasticsearch, alias: str
) -> None:
    with pytest.raises(Transient, match="index missing"):
        await ElasticIndex(client, alias).put(article(10), VECTOR, version=1)
    with pytest.raises(Transient, match="index missing"):
        await ElasticSearch(client, alias)("aspirin", None, mode="bm25", depth=5, exclude=1)

    assert not await client.indices.exists(index=alias)


async def test_a_write_block_is_waited_for(client: AsyncElasticsearch, alias: str) -> None:
    await prepare(client, alias, 4)
    index = ElasticIndex(client, alias)
    await client.indices.put_settings(index=alias, settings={"index.blocks.write": True})

    with pytest.raises(Transient, match="index blocked"):
        await index.put(article(10), VECTOR, version=1)

    await client.indices.put_settings(index=alias, settings={"index.blocks.write": False})
    assert await index.put(article(10), VECTOR, version=1)


async def test_a_vector_of_other_dimensions_is_refused_alone(
    client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4)
    search = ElasticSearch(client, alias)
    longer = np.ones(6, dtype=np.float32)

    refused, answered = await asyncio.gather(
        search("aspirin", longer, mode="dense", depth=5, exclude=1),
        search("aspirin", VECTOR, mode="dense", depth=5, exclude=1),
        return_exceptions=True,
    )

    assert isinstance(refused, Invalid)
    assert refused.reason == "search refused"
    assert not isinstance(answered, BaseException)


async def test_a_killed_node_is_transient_and_keeps_what_it_confirmed(
    elasticsearch_node: Any, client: AsyncElasticsearch, alias: str
) -> None:
    await prepare(client, alias, 4)
    index, search = ElasticIndex(client, alias), ElasticSearch(client, alias)
    assert await index.put(article(10), VECTOR, version=5)
    await index.put(article(11), VECTOR, version=5)
    assert await index.delete(11, version=6)

    await asyncio.to_thread(elasticsearch_node.kill)
    try:
        with pytest.raises(Transient, match="elasticsearch away"):
            await index.put(article(12), VECTOR, version=5)
        with pytest.raises(Transient, match="elasticsearch away"):
            await search("aspirin", VECTOR, mode="hybrid", depth=5, exclude=1)
        with pytest.raises(Transient, match="elasticsearch away"):
            await prepare(client, alias, 4)
    finally:
        await asyncio.to_thread(elasticsearch_node.start)

    await prepare(client, alias, 4)
    assert not await index.put(article(10, title="Stale."), VECTOR, version=5)
    assert not await index.put(article(11), VECTOR, version=5)
    assert await index.put(article(12), VECTOR, version=5)
    await client.indices.refresh(index=alias)
    hits = await search("aspirin", VECTOR, mode="hybrid", depth=5, exclude=1)
    assert {hit.pmid for hit in hits.bm25} == {hit.pmid for hit in hits.dense} == {10, 12}
