"""Embeddings over HTTP: batches, faults, and what one bad text does to the others."""

import asyncio
import json

import numpy as np
import pytest

from fakes.embed import hashed
from fakes.model_server import ModelServer, Reply, in_turn, refusing
from infra.embedding import over_http
from infra.settings import Embedder
from streams.errors import Invalid, Transient


async def embed_all(server: ModelServer, texts: list[str], **settings):
    adapter = over_http(Embedder(url=server.url, **settings))
    try:
        return await asyncio.gather(*(adapter(text) for text in texts), return_exceptions=True)
    finally:
        await adapter.close()


async def test_texts_that_come_together_share_a_request():
    texts = [f"text {n}" for n in range(20)]
    async with ModelServer() as server:
        vectors = await embed_all(server, texts, batch=8)
    assert [len(request["input"]) for request in server.requests] == [8, 8, 4]
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, hashed(text), atol=1e-6)


async def test_a_long_text_is_left_to_the_server_to_cut():
    async with ModelServer() as server:
        await embed_all(server, ["a"], model="encoder")
    assert server.requests[0]["truncate_prompt_tokens"] == -1
    assert server.requests[0]["model"] == "encoder"


async def test_a_refused_text_takes_no_others_with_it():
    async with ModelServer(refusing("POISON")) as server:
        results = await embed_all(server, ["a", "POISON", "b"])
    assert isinstance(results[1], Invalid)
    np.testing.assert_allclose(results[0], hashed("a"), atol=1e-6)
    np.testing.assert_allclose(results[2], hashed("b"), atol=1e-6)


def answer(*vectors: list[float | None], indexes: list[int] | None = None) -> bytes:
    data = [
        {"index": (indexes or [*range(len(vectors))])[n], "embedding": v}
        for n, v in enumerate(vectors)
    ]
    return json.dumps({"data": data}).encode()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=503), "model server failed"),
        (Reply(cut=True), "model server away"),
        (Reply(body=b"{"), "model answer malformed"),
        (Reply(body=answer()), "model answer malformed"),
        (Reply(body=answer([1.0, 0.0], [0.0, 1.0])), "model answer malformed"),
        (Reply(body=answer([1.0, 0.0], indexes=[1])), "model answer malformed"),
        (Reply(body=answer([1.0])), "embedding of another length than embedder.dimensions"),
    ],
)
async def test_what_may_pass_is_transient(reply, reason):
    async with ModelServer(in_turn(reply)) as server:
        (error,) = await embed_all(server, ["a"], dimensions=2)
    assert isinstance(error, Transient)
    assert error.reason == reason


@pytest.mark.parametrize(
    "vector", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [None, None]]
)
async def test_a_text_without_embedding_takes_no_others_with_it(vector):
    reply = Reply(body=answer([3.0, 4.0], vector, [0.0, 2.0]))
    async with ModelServer(in_turn(reply)) as server:
        first, bad, last = await embed_all(server, ["a", "b", "c"], dimensions=2)
    assert isinstance(bad, Invalid)
    assert bad.reason == "no embedding"
    np.testing.assert_allclose([first, last], [[0.6, 0.8], [0.0, 1.0]], atol=1e-6)
