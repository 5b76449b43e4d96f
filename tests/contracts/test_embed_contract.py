"""What every Embed port does: the hashing one, the adapter over HTTP, and MiniLM in process."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from consumers.ports import Embed
from fakes.embed import FakeEmbed
from fakes.model_server import ModelServer
from infra.embedding import embedding
from infra.settings import Embedder

LONG = "Platelet aggregation was measured in forty adults. " * 400


@pytest.fixture(params=["fake", "http", "in process"])
async def embed(request: pytest.FixtureRequest) -> AsyncIterator[Embed]:
    if request.param == "fake":
        yield FakeEmbed()
    elif request.param == "http":
        async with ModelServer() as server:
            adapter = embedding(Embedder(url=server.url))
            yield adapter
            await adapter.close()
    else:
        yield request.getfixturevalue("minilm")


async def test_a_text_gives_one_unit_vector_of_float32(embed):
    vector = await embed("Does aspirin lower platelet aggregation?")
    assert vector.dtype == np.float32
    assert vector.shape == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", LONG, "α-synuclein 🧠\n\x00"])
async def test_any_text_has_a_vector(embed, text):
    vector = await embed(text)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


async def test_many_at_once_each_get_what_they_get_alone(embed):
    texts = [f"{'gene ' * (n % 7)}number {n} of {LONG[: n * 13]}" for n in range(40)]
    together = await asyncio.gather(*(embed(text) for text in texts))
    for n in (0, 17, 39):
        assert together[n] @ await embed(texts[n]) > 0.999
        others = [together[m] @ together[n] for m in range(40) if m != n]
        assert max(others) < 0.9999


async def test_texts_about_the_same_lie_nearer_than_others(embed):
    question, near, far = await asyncio.gather(
        embed("aspirin platelet aggregation adults"),
        embed("platelet aggregation in adults given aspirin"),
        embed("the migration of arctic terns along the coast"),
    )
    assert question @ near > question @ far + 0.2
