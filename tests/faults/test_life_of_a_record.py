"""What becomes of records as NLM's files go on about them, through ingest and every stage."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import ElasticsearchEngine, KafkaEngine
from fakes.model_server import Reply
from fakes.pubmed_records import Record, nlm_file
from faults.service import MESH, Service, running_service
from infra.elastic import connect
from infra.ingest_commands import ingest_files
from infra.tables import TableError, select
from published import published

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

DESCRIPTORS = [tuple(line.split("\t")[:2]) for line in MESH.splitlines()]
ASTHMA, ASPIRIN, HEART = DESCRIPTORS[5], DESCRIPTORS[8], DESCRIPTORS[1]


def two_topics(request: dict[str, Any]) -> Reply:
    """Each generator asks about a topic of its own, so that they find other records."""
    topic = "arrhythmias" if request["model"] == "theta1" else "prednisone"
    text = f"Which adults have {topic}?"
    return Reply(text=text) if "messages" in request else Reply()


@pytest.fixture
def service(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
) -> Iterator[Service]:
    overrides: dict[str, Any] = {
        "prefer": {"margin": 0.0},
        "retrieve": {"k": 3, "mode": "bm25"},
        "parked": {"check_every": 2.0},
    }
    with running_service(tmp_path, kafka_broker, elasticsearch_node, **overrides) as running:
        running.models.script = two_topics
        running.start_all()
        yield running


def corpus(pmid: int) -> Record:
    mesh = tuple(random.Random(pmid).sample(DESCRIPTORS, 3))
    topics = " and ".join(name.lower() for _, name in mesh)
    return Record(
        pmid=pmid, title=f"On {topics}, part {pmid}.", abstract=f"Of {topics} in adults.", mesh=mesh
    )


def record(pmid: int, **changes: Any) -> Record:
    """Shares no word with the questions, so that their evidence is the corpus alone."""
    example = Record(
        pmid=pmid,
        title=f"Asthma and aspirin, part {pmid}.",
        abstract="Asthma and aspirin.",
        mesh=(ASTHMA, ASPIRIN),
    )
    return replace(example, **changes)


def ingest(service: Service, number: int, *held: Record, gone: tuple[int, ...] = ()) -> None:
    """An update file with this number, as new records; number 1 as corpus."""
    path = service.directory / f"pubmed26n{number:04}.xml.gz"
    path.write_bytes(nlm_file(held, [(pmid, 1) for pmid in gone]))
    assert ingest_files([path], service.settings, number == 1) == 0


def rows(service: Service, pmid: int) -> list[tuple[str, str | None]]:
    """The table and the mark of each row of a record, in the order of their arrival."""
    found = []
    for table in ("preferences", "dropped", "parked"):
        query = f"select retracted, appended from rows where pmid = {pmid}"  # noqa: S608
        try:
            held = select(service.settings, table, query)
        except TableError:
            held = []
        found += [(row["appended"], table, row["retracted"]) for row in held]
    return [(table, mark) for _, table, mark in sorted(found, key=lambda row: row[0])]


def indexed(service: Service, pmid: int) -> bool:
    async def ask() -> bool:
        client = connect(service.settings.elasticsearch)
        try:
            return bool(
                await client.exists(index=service.settings.elasticsearch.alias, id=str(pmid))
            )
        finally:
            await client.close()

    return asyncio.run(ask())


def questions_asked(service: Service) -> int:
    return sum("messages" in request for request in service.models.requests)


def test_from_file_to_file(service: Service):
    held: tuple[tuple[str, None], ...] = (("preferences", None),)
    ingest(service, 1, *(corpus(pmid) for pmid in range(1, 41)))
    service.wait_until(
        lambda: (service.sample("index", "kailin_index_writes_total") or 0) >= 40, "corpus"
    )
    ingest(service, 2, *(record(pmid) for pmid in range(101, 107)), record(107, mesh=()))
    service.wait_until(
        lambda: all(rows(service, pmid) == [*held] for pmid in range(101, 107)), "rows"
    )
    service.wait_until(lambda: rows(service, 107) == [("parked", None)], "parked record")
    asked = questions_asked(service)

    ingest(
        service,
        3,
        record(101, abstract="Asthma and aspirin, anew."),
        record(102, mesh=(ASTHMA, HEART)),
        record(103, publication_types=("Journal Article", "Retracted Publication")),
        record(104, links=(("ErratumIn", 900),)),
        record(106),
        record(107),
        record(108, publication_types=("Retracted Publication",)),
        gone=(105,),
    )
    expected = {
        # Asked about anew; what was made of its former text stays.
        101: [*held, *held],
        # Scored anew, and the row under its former MeSH stands no more.
        102: [("preferences", "MeSH changed"), ("preferences", None)],
        103: [("preferences", "retracted")],
        104: [("preferences", "erratum")],
        105: [("preferences", "deleted")],
        106: [*held],
        107: [*held],
        108: [("dropped", "retracted")],
    }
    service.wait_until(
        lambda: {pmid: rows(service, pmid) for pmid in expected} == expected,
        f"rows as {expected}",
        seconds=120,
    )
    # Two questions about record 101 alone.
    assert questions_asked(service) == asked + 2
    service.wait_until(lambda: not indexed(service, 105), "deletion from the index")
    assert indexed(service, 103)

    ingest(service, 4, record(105), record(103))
    service.wait_until(lambda: indexed(service, 105), "record 105 in the index again")
    service.wait_until(
        lambda: rows(service, 105) == rows(service, 103) == [*held], "marks taken back"
    )
    assert questions_asked(service) == asked + 2
    changes = published(service.settings).changes
    assert [changes(pmid) for pmid in (101, 102, 103, 105, 106, 107)] == [
        ["new", "text"],
        ["new", "mesh"],
        ["new", "other", "other"],
        ["new", "deleted", "reinstated"],
        ["new"],
        ["new", "mesh"],
    ]
    assert service.dead_letters() == []
