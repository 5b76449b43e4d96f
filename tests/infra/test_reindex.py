"""`kailin reindex` on a real broker and node: in full flight, killed, and with faults."""

import asyncio
import io
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from elasticsearch import AsyncElasticsearch
from rich.console import Console

from engines import ElasticsearchEngine, KafkaEngine
from fakes.model_server import Reply, ordinary
from fakes.records import article
from faults.service import Service, running_service
from infra.elastic import ElasticLookup, connect, prepare
from infra.index_versions import IndexVersions, Version
from infra.kafka import Publisher
from infra.reindex import Options, remove, run
from infra.settings import Settings
from published import messages
from streams.citation import Article
from streams.codec import decode
from streams.topics import ARTICLES

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch]

T = TypeVar("T")

# A replay of some records then takes long enough to be killed in.
SLOWLY = Reply(delay=1.0)


@pytest.fixture
def service(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
) -> Iterator[Service]:
    with running_service(tmp_path, kafka_broker, elasticsearch_node) as running:
        yield running


def elastic(settings: Settings, do: Callable[[AsyncElasticsearch], Awaitable[T]]) -> T:
    async def done() -> T:
        client = connect(settings.elasticsearch)
        try:
            return await do(client)
        finally:
            await client.close()

    return asyncio.run(done())


def versions(settings: Settings) -> list[Version]:
    return elastic(settings, lambda client: IndexVersions(client, settings).all())


def held(settings: Settings, index: str | None = None) -> dict[int, dict[str, Any]]:
    """What an index holds, or the one that serves, by PMID."""

    async def read(client: AsyncElasticsearch) -> dict[int, dict[str, Any]]:
        of = index or settings.elasticsearch.alias
        await client.indices.refresh(index=of)
        answer = await client.search(index=of, size=10_000)
        return {int(hit["_id"]): hit["_source"] for hit in answer["hits"]["hits"]}

    return elastic(settings, read)


def newest(settings: Settings) -> dict[int, tuple[int, str]]:
    """Offset and title of each record's newest state, of those that are not deleted."""
    states = {int(m.key): (m.offset, m.value) for m in messages(settings, ARTICLES)}
    return {
        pmid: (offset, decode(Article, value).title)
        for pmid, (offset, value) in states.items()
        if value is not None
    }


def reindex(settings: Settings, **options: bool) -> tuple[int, str]:
    said = io.StringIO()
    status = run(settings, Options(**options), Console(file=said, width=200))
    return status, said.getvalue()


def indexed(service: Service, count: int) -> None:
    """Publish so many records and wait until the index stage has written them."""
    service.publish([article(pmid) for pmid in range(1, count + 1)])
    service.start("index")
    alias = service.settings.elasticsearch.alias
    service.wait_until(
        lambda: (
            any(v.serves for v in versions(service.settings))
            and len(held(service.settings, alias)) == count
        ),
        f"{count} records in the index",
    )


class Traffic:
    """Records that come, change and go without a pause, while this is entered."""

    def __init__(self, settings: Settings, pmids: range) -> None:
        self._settings = settings
        self._pmids = pmids
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self.sent = 0
        self.searches = 0
        self.unanswered: list[str] = []

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    async def _write(self) -> None:
        chance = random.Random(5)
        client = connect(self._settings.elasticsearch)
        lookup = ElasticLookup(client, self._settings.elasticsearch.alias)
        async with Publisher(self._settings) as publisher:
            while not self._over.is_set():
                pmid = chance.choice(self._pmids)
                if chance.random() < 0.2:
                    await publisher.delete(ARTICLES, b"%d" % pmid)
                else:
                    title = f"State {self.sent} of {pmid}"
                    await publisher.send(ARTICLES, replace(article(pmid), title=title))
                self.sent += 1
                try:
                    await lookup([chance.choice(self._pmids)])
                    self.searches += 1
                except Exception as error:
                    self.unanswered.append(repr(error))
                await asyncio.sleep(0.01)
        await client.close()


def test_in_full_flight_and_killed_the_new_index_has_the_newest_state_of_all(service: Service):
    settings = service.settings
    indexed(service, 1500)
    service.models.script = lambda request: SLOWLY
    with Traffic(settings, range(1, 1701)) as traffic:
        program = ("-m", "infra.cli")
        service.start("reindex", program)
        service.wait_until(
            lambda: any(v.filled for v in versions(settings)), "replay that is noted"
        )
        service.kill("reindex")
        service.models.script = ordinary
        half = versions(settings)
        assert [(v.serves, v.next, v.state) for v in half] == [
            (True, False, "whole"),
            (False, True, "filling"),
        ]
        first = service.log("reindex")
        service.start("reindex", program)
        assert service.processes.pop("reindex").wait(120) == 0, service.log("reindex")
        before = traffic.sent
        service.wait_until(lambda: traffic.sent > before + 50, "records after the swap")
    old, new = versions(settings)
    assert (old.serves, new.serves, new.state) == (False, True, "whole")
    said = service.log("reindex").removeprefix(first)
    assert f"going on with {new.name}" in said
    assert f"{new.name} serves now, in place of {old.name}" in said

    expected = newest(settings)
    service.wait_until(
        lambda: (
            {p: d["offset"] for p, d in held(settings).items()}
            == {p: offset for p, (offset, _) in expected.items()}
        ),
        "newest states in the index",
        seconds=60,
    )
    assert {p: d["title"] for p, d in held(settings).items()} == {
        p: title for p, (_, title) in expected.items()
    }
    assert traffic.searches > 50
    assert traffic.unanswered == []

    assert remove(settings, new.name, Console(file=io.StringIO())) == 1
    assert remove(settings, old.name, Console(file=io.StringIO())) == 0
    assert [v.name for v in versions(settings)] == [new.name]


def test_what_the_index_stage_wrote_around_a_swap_that_was_cut_off_is_not_missing(service: Service):
    settings = service.settings
    indexed(service, 40)
    assert reindex(settings, keep=True)[0] == 0
    service.publish([replace(article(pmid), title="Late") for pmid in (3, 50, 51)])
    service.wait_until(lambda: len(held(settings)) == 42, "late records in the old index")
    old, new = versions(settings)

    async def swap(client: AsyncElasticsearch) -> None:
        work = IndexVersions(client, settings)
        await work.note(new, "swapped", new.filled)
        await work.swap(old, new)

    elastic(settings, swap)
    assert len(held(settings)) == 40

    status, said = reindex(settings)

    assert (status, f"{new.name} serves already" in said) == (0, True)
    assert {pmid for pmid, found in held(settings).items() if found["title"] == "Late"} == {
        3,
        50,
        51,
    }
    assert [v.state for v in versions(settings) if v.serves] == ["whole"]


def test_an_index_that_is_not_as_good_is_not_swapped_in(service: Service):
    settings = service.settings
    indexed(service, 60)
    assert reindex(settings, keep=True)[0] == 0
    new = versions(settings)[-1]

    async def spoil(client: AsyncElasticsearch) -> None:
        for pmid in range(1, 6):
            await client.delete(index=new.name, id=str(pmid))
        found = await client.get(index=new.name, id="40")
        document = {**found["_source"], "journal": "Another"}
        await client.index(index=new.name, id="40", document=document, refresh=True)

    elastic(settings, spoil)

    status, said = reindex(settings)
    assert status == 1
    assert f"{new.name} holds 55 records" in said
    assert "PMID 40: differs in journal" in said
    assert "is in the old index only" in said
    assert "not swapped, for " in said
    assert [v.serves for v in versions(settings)] == [True, False]

    status, said = reindex(settings, force=True, remove_old=True)
    assert status == 0
    assert [(v.name, v.serves) for v in versions(settings)] == [(new.name, True)]


def test_with_another_encoder_no_stage_may_be_at_work_at_the_swap(service: Service):
    settings = service.settings
    indexed(service, 20)
    other = settings.embedder.model_copy(update={"model": "another"})
    changed = settings.model_copy(update={"embedder": other})

    status, said = reindex(changed)
    assert status == 1
    assert f"not swapped: {settings.kafka.prefix}kailin.index work with the encoder" in said

    status, said = reindex(settings)
    assert (status, "was begun with the encoder another" in said) == (1, True)

    assert service.stop("index") == 0
    time.sleep(0.5)
    assert reindex(changed)[0] == 0
    assert [(v.encoder, v.serves) for v in versions(settings)] == [
        (settings.embedder.name, False),
        ("another", True),
    ]


def test_what_is_not_there_is_told(service: Service):
    status, said = reindex(service.settings)
    assert (status, "there are 0: the index stage makes the first" in said) == (1, True)

    async def index(client: AsyncElasticsearch) -> None:
        settings = service.settings
        await prepare(client, settings.elasticsearch.alias, settings.embedder.dimensions)

    elastic(service.settings, index)
    away = service.settings.elasticsearch.model_copy(update={"url": "http://127.0.0.1:9"})
    status, said = reindex(service.settings.model_copy(update={"elasticsearch": away}))
    assert (status, said.count("\n")) == (1, 1)
    assert "elasticsearch away" in said
