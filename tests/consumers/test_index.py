import numpy as np
import pytest

from consumers.index import index, passage_text
from consumers.ports import Vector
from fakes.records import article
from fakes.search import FakeLibrary
from streams.citation import AbstractSection
from streams.errors import Transient


async def embed(text: str) -> Vector:
    return np.array([1.0, 0.0], dtype=np.float32)


async def no_embedding(text: str) -> Vector:
    raise AssertionError("embedded what is not written")


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary(dimensions=2)


async def test_a_record_is_put_with_the_embedding_of_its_text(library: FakeLibrary) -> None:
    embedded = []

    async def remember(text: str) -> Vector:
        embedded.append(text)
        return np.array([0.0, 1.0], dtype=np.float32)

    record = article(10, title="Iron.", sections=(AbstractSection(label="AIM", text="To mine."),))

    assert await index(record, pmid=10, version=3, embed=remember, index=library) == "put"

    assert embedded == ["Iron.\nAIM: To mine."]
    hits = await library("", np.array([0.0, 1.0]), mode="dense", depth=1, exclude=1)
    assert hits.dense[0].title == "Iron."


async def test_an_older_copy_is_stale(library: FakeLibrary) -> None:
    await index(article(10, title="New."), pmid=10, version=3, embed=embed, index=library)

    again = await index(article(10, title="Old."), pmid=10, version=2, embed=embed, index=library)

    assert again == "stale"
    assert library.articles[10].title == "New."


async def test_a_tombstone_deletes_and_embeds_nothing(library: FakeLibrary) -> None:
    await index(article(10), pmid=10, version=3, embed=embed, index=library)

    gone = await index(None, pmid=10, version=4, embed=no_embedding, index=library)
    again = await index(None, pmid=10, version=4, embed=no_embedding, index=library)

    assert (gone, again) == ("deleted", "stale")
    assert library.articles == {}


async def test_without_abstract_the_title_is_embedded() -> None:
    assert passage_text(article(10, title="Iron.", sections=())) == "Iron."


async def test_an_embedder_that_is_away_leaves_the_index_as_it_is(library: FakeLibrary) -> None:
    async def away(text: str) -> Vector:
        raise Transient("embedder away")

    with pytest.raises(Transient, match="embedder away"):
        await index(article(10), pmid=10, version=3, embed=away, index=library)

    assert library.articles == {}
