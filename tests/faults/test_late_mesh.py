"""Records whose MeSH comes late: one row each in the end, and no question is asked again."""

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engines import ElasticsearchEngine, KafkaEngine
from fakes import records
from fakes.model_server import Reply
from faults.service import MESH, Service, running_service
from infra.elastic import ElasticLookup, connect
from infra.tables import TableError, select
from streams.citation import (
    AbstractSection,
    Article,
    Correction,
    MeshHeading,
)

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

CORPUS = range(1, 41)
DESCRIPTORS = [line.split("\t")[:2] for line in MESH.splitlines()]
# The sweep runs as its worker starts, and then not within any of these tests; or all the time.
SELDOM, OFTEN = {"check_every": 3600.0}, {"check_every": 1.0}
# A worker that is killed when the broker has what it sent on, before it takes that out.
KILLED = """
import os, signal, sys
from infra import parked, worker
from infra.settings import Settings
parked._take_out = lambda settings, rows: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(worker.run(sys.argv[1], Settings()))
"""


def headings(pmid: int) -> tuple[MeshHeading, ...]:
    drawn = random.Random(pmid).sample(DESCRIPTORS, 3)
    return tuple(MeshHeading(ui=ui, name=name) for ui, name in drawn)


def article(pmid: int, **changes: Any) -> Article:
    """A record that has its MeSH already."""
    topic = " and ".join(heading.name.lower() for heading in headings(pmid))
    example = records.article(
        pmid,
        title=f"On {topic}, part {pmid}",
        sections=(AbstractSection(text=f"We studied {topic} in {pmid} adults."),),
        mesh=headings(pmid),
        arrived=datetime.now(UTC),
    )
    return replace(example, **changes)


def two_topics(request: dict[str, Any]) -> Reply:
    """Each generator asks about a topic of its own, so that they find other records."""
    topic = "arrhythmias" if request["model"] == "theta1" else "prednisone"
    text = f"Which adults were studied for {topic} in a trial?"
    return Reply(text=text) if "messages" in request else Reply()


@pytest.fixture(scope="module")
def service(
    kafka_broker: KafkaEngine,
    elasticsearch_node: ElasticsearchEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One service for all of these tests, each of which has records of its own."""
    directory = tmp_path_factory.mktemp("late mesh")
    by_words = {"prefer": {"margin": 0.0}, "retrieve": {"k": 3, "mode": "bm25"}}
    with running_service(
        directory, kafka_broker, elasticsearch_node, parked=SELDOM, **by_words
    ) as running:
        running.models.script = two_topics
        running.start_all()
        running.publish([article(pmid, corpus=True) for pmid in CORPUS])
        running.wait_until_searchable(len(CORPUS))
        yield running


def rows(service: Service, pmid: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of a record by table, of those tables that have any."""
    found = {}
    for table in ("preferences", "dropped", "parked"):
        try:
            query = f"select * from rows where pmid = {pmid}"  # noqa: S608
            held = select(service.settings, table, query)
        except TableError:
            held = []
        if held:
            found[table] = held
    return found


def parked(service: Service, *pmids: int) -> None:
    service.wait_until(
        lambda: all(list(rows(service, pmid)) == ["parked"] for pmid in pmids), "parked record"
    )


def preferred(service: Service, pmid: int) -> dict[str, Any]:
    """The one row of a record whose MeSH came, once nothing else is left of it."""
    service.wait_until(lambda: list(rows(service, pmid)) == ["preferences"], "preference alone")
    # Whatever else were on its way would come now.
    time.sleep(3)
    found = rows(service, pmid)
    assert list(found) == ["preferences"]
    (row,) = found["preferences"]
    assert row["mesh"] == [heading.ui for heading in headings(pmid)]
    return row


def asked(service: Service) -> int:
    """Requests to the generators; those for embeddings are not counted."""
    return sum("messages" in request for request in service.models.requests)


def sweep_as(service: Service, how: dict[str, float]) -> None:
    service.stop("rescore")
    service.overrides["parked"] = how
    service.start("rescore")


def wait_for_index(service: Service, pmid: int, mesh: int) -> None:
    """Wait until the index has so many descriptors of a record."""

    async def lookup() -> dict[int, tuple[str, ...]]:
        async with connect(service.settings.elasticsearch) as client:
            return await ElasticLookup(client, service.settings.elasticsearch.alias)([pmid])

    service.wait_until(
        lambda: len(asyncio.run(lookup()).get(pmid, ())) == mesh, f"{mesh} descriptors of {pmid}"
    )


def test_a_parked_record_is_scored_when_its_mesh_comes(service: Service):
    service.publish([article(101, mesh=())])
    parked(service, 101)
    requests = asked(service)
    assert requests >= 2

    service.publish([article(101, change="mesh")])
    service.wait_until(
        lambda: "preferences" in rows(service, 101), "preference of the record", seconds=60
    )
    assert service.sample("rescore", "kailin_records_out_total") == 1
    # It is taken out by the sweep, which need not send it on again.
    sweep_as(service, OFTEN)
    row = preferred(service, 101)
    assert row["indexing"] == "Curated"
    assert asked(service) == requests


def test_mesh_that_comes_while_questions_wait_for_retrieve_is_in_time(service: Service):
    service.stop("retrieve")
    service.publish([article(102, mesh=())])
    wait_for_index(service, 102, mesh=0)
    service.publish([article(102, change="mesh")])
    wait_for_index(service, 102, mesh=3)
    service.start("retrieve")

    preferred(service, 102)


def test_mesh_that_comes_before_its_record_is_parked_is_found_by_the_sweep(service: Service):
    service.stop("score")
    out = (service.sample("retrieve", "kailin_records_out_total") or 0) + 1
    service.publish([article(103, mesh=())])
    service.wait_until(
        lambda: service.sample("retrieve", "kailin_records_out_total") == out, "contexts"
    )
    taken = (service.sample("rescore") or 0) + 1
    service.publish([article(103, change="mesh")])
    service.wait_until(lambda: (service.sample("rescore") or 0) >= taken, "message with MeSH")
    wait_for_index(service, 103, mesh=3)
    requests = asked(service)
    service.start("score")

    preferred(service, 103)
    assert asked(service) == requests
    assert service.sample("rescore", "kailin_parked_resumed_total") >= 1


def test_a_worker_killed_before_it_takes_out_what_it_sent_on_leaves_one_row(service: Service):
    service.stop("rescore")
    service.publish([article(104, mesh=())])
    parked(service, 104)
    service.publish([article(104, change="mesh")])
    wait_for_index(service, 104, mesh=3)
    service.start("rescore", ("-c", KILLED))
    assert service.processes["rescore"].wait(120) == -signal.SIGKILL
    assert "parked" in rows(service, 104)
    service.start("rescore")

    preferred(service, 104)


def test_a_record_that_is_never_indexed_leaves_with_that_reason(service: Service):
    long_ago = datetime.now(UTC) - timedelta(days=400)
    service.publish([article(105, mesh=(), arrived=long_ago), article(106, mesh=())])

    service.wait_until(lambda: list(rows(service, 105)) == ["dropped"], "record given up")
    (row,) = rows(service, 105)["dropped"]
    assert (row["outcome"], row["reason"]) == ("unscorable", "never indexed")
    assert all(candidate["context"] for candidate in row["candidates"])
    assert list(rows(service, 106)) == ["parked"]


def test_a_retracted_record_is_not_asked_about_and_a_row_says_why(service: Service):
    requests = asked(service)
    notice = Correction(kind="RetractionIn", pmid=9, source="J Ex. 2026;1:2")
    service.publish([article(107, corrections=(notice,))])

    service.wait_until(lambda: list(rows(service, 107)) == ["dropped"], "row of the record")
    (row,) = rows(service, 107)["dropped"]
    assert (row["outcome"], row["reason"], row["candidates"]) == ("unscorable", "retracted", [])
    assert asked(service) == requests


def test_nothing_was_set_aside(service: Service):
    assert service.dead_letters() == []
    assert "Traceback" not in service.log("rescore")
