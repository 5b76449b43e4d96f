"""The embedded node: what the index stage needs of a stock server, and the same after a crash."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from elasticsearch import AsyncElasticsearch, ConflictError
from elasticsearch.helpers import async_bulk

from engines import ElasticsearchEngine
from infra.elasticsearch_node import VERSION

pytestmark = pytest.mark.elasticsearch

MAPPINGS = {
    "dynamic": "strict",
    "properties": {
        "title": {"type": "text", "analyzer": "english"},
        "mesh": {"type": "keyword"},
        "vector": {
            "type": "dense_vector",
            "dims": 4,
            "index": True,
            "similarity": "cosine",
            "index_options": {"type": "int8_hnsw"},
        },
    },
}


@pytest.fixture
async def client(elasticsearch_node: ElasticsearchEngine) -> AsyncIterator[AsyncElasticsearch]:
    async with AsyncElasticsearch(elasticsearch_node.url, request_timeout=30) as client:
        yield client


@pytest.fixture
async def index(client: AsyncElasticsearch) -> AsyncIterator[str]:
    name = f"t-{uuid4().hex[:8]}"
    await client.indices.create(
        index=name, mappings=MAPPINGS, settings={"number_of_shards": 1, "number_of_replicas": 0}
    )
    yield name
    await client.indices.delete(index=name)


def titles(answer: Any) -> list[str]:
    return [hit["_source"]["title"] for hit in answer["hits"]["hits"]]


async def test_it_says_who_it_is_as_a_stock_server_does(client: AsyncElasticsearch) -> None:
    assert await client.ping()
    info = await client.info()
    assert info["version"]["number"] == VERSION
    assert info["tagline"] == "You Know, for Search"
    assert len(info["cluster_uuid"]) == 22


async def test_english_stems_and_drops_stop_words(client: AsyncElasticsearch, index: str) -> None:
    answer = await client.indices.analyze(
        index=index, field="title", text="The patient's tumours were running"
    )
    assert [token["token"] for token in answer["tokens"]] == ["patient", "tumour", "were", "run"]
    await client.index(index=index, document={"title": "Running of tumours"}, refresh=True)
    found = await client.search(index=index, query={"match": {"title": "tumour runs"}})
    assert titles(found) == ["Running of tumours"]


async def test_english_takes_the_settings_that_a_stock_server_takes(
    client: AsyncElasticsearch,
) -> None:
    name = f"t-{uuid4().hex[:8]}"
    mine = {"type": "english", "stopwords": ["tumours"], "stem_exclusion": ["running"]}
    chain = {"type": "custom", "tokenizer": "standard"}
    chain["filter"] = ["lowercase", "asciifolding", "stop", "porter_stem"]
    await client.indices.create(
        index=name, settings={"analysis": {"analyzer": {"mine": mine, "chain": chain}}}
    )
    try:
        for analyzer, text, expected in (
            ("mine", "the running tumours grow", ["the", "running", "grow"]),
            ("chain", "The Ménière diseases", ["menier", "diseas"]),
        ):
            answer = await client.indices.analyze(index=name, analyzer=analyzer, text=text)
            assert [token["token"] for token in answer["tokens"]] == expected
    finally:
        await client.indices.delete(index=name)


async def test_knn_over_quantised_vectors_with_a_filter(
    client: AsyncElasticsearch, index: str
) -> None:
    documents = [
        {
            "_index": index,
            "title": f"v{n}",
            "mesh": [f"D{n % 2}"],
            "vector": [1.0, n / 10, 0.0, 0.0],
        }
        for n in range(50)
    ]
    await async_bulk(client, documents, refresh=True)
    knn = {"field": "vector", "query_vector": [1.0, 0.0, 0.0, 0.0], "k": 3, "num_candidates": 50}
    assert titles(await client.search(index=index, knn=knn)) == ["v0", "v1", "v2"]
    knn["filter"] = {"term": {"mesh": "D1"}}
    assert titles(await client.search(index=index, knn=knn)) == ["v1", "v3", "v5"]


async def test_an_older_version_never_overwrites_a_newer(
    client: AsyncElasticsearch, index: str
) -> None:
    async def put(version: int) -> None:
        document = {"title": f"version {version}"}
        await client.index(
            index=index, id="1", document=document, version=version, version_type="external"
        )

    await put(2)
    with pytest.raises(ConflictError):
        await put(1)
    assert (await client.get(index=index, id="1"))["_source"]["title"] == "version 2"


async def test_acknowledged_documents_survive_kill_9(
    elasticsearch_node: ElasticsearchEngine, client: AsyncElasticsearch, index: str
) -> None:
    documents = [
        {"_index": index, "_id": n, "title": f"title {n}", "vector": [1, n, 0, 0]}
        for n in range(1000)
    ]
    await async_bulk(client, documents)
    elasticsearch_node.kill()
    assert not elasticsearch_node.ready()
    elasticsearch_node.start()
    await client.indices.refresh(index=index)
    assert (await client.count(index=index))["count"] == 1000
    assert (await client.get(index=index, id="999"))["_source"]["title"] == "title 999"


async def test_sigterm_is_a_clean_stop_and_the_data_stays(
    elasticsearch_node: ElasticsearchEngine, client: AsyncElasticsearch, index: str
) -> None:
    await client.index(index=index, id="1", document={"title": "kept"})
    status = elasticsearch_node.stop()
    elasticsearch_node.start()
    assert status == 143
    assert status in elasticsearch_node.component.stopped
    assert (await client.get(index=index, id="1"))["_source"]["title"] == "kept"
