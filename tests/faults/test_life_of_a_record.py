"""What becomes of records as NLM's files go on about them, through ingest and every stage.

And what is told of them on the way: the trace of each, its history, and the logs.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers import spans
from engines import ElasticsearchEngine, KafkaEngine, free_port
from fakes.model_server import Reply, Script, prompt_of
from fakes.otlp_collector import Collector, Taken
from fakes.pubmed_records import Record, nlm_file
from faults.service import MESH, Service, running_service
from infra.cli import app
from infra.elastic import connect
from infra.ingest_commands import ingest_files
from infra.record_history import History, history
from infra.settings import Settings
from infra.tables import TableError, select
from published import published
from streams.log_lines import QUOTED

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

DESCRIPTORS = [tuple(line.split("\t")[:2]) for line in MESH.splitlines()]
ASTHMA, ASPIRIN, HEART = DESCRIPTORS[5], DESCRIPTORS[8], DESCRIPTORS[1]

KEY = "the-key-of-the-model-server"
# Words in a record's text by which the model server makes trouble.
REFUSED, AT_FIRST_AWAY = "unanswerable", "unlucky"
LONG = " ".join(f"{REFUSED} sentence {number} on asthma and aspirin." for number in range(500))


def two_topics(request: dict[str, Any]) -> Reply:
    """Each generator asks about a topic of its own, so that they find other records."""
    if REFUSED in prompt_of(request) and "messages" in request:
        return Reply(status=400, text=f"key {KEY} may not ask this: {prompt_of(request)}")
    topic = "arrhythmias" if request["model"] == "theta1" else "prednisone"
    text = f"Which adults have {topic}?"
    return Reply(text=text) if "messages" in request else Reply()


def at_first_away() -> Script:
    """As `two_topics`, but for one request about an unlucky record."""
    lucky: list[bool] = []

    def script(request: dict[str, Any]) -> Reply:
        if not lucky and AT_FIRST_AWAY in prompt_of(request) and "messages" in request:
            lucky.append(True)
            return Reply(status=503)
        return two_topics(request)

    return script


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    kafka_broker: KafkaEngine,
    elasticsearch_node: ElasticsearchEngine,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """All stages, with 40 records of corpus."""
    overrides: dict[str, Any] = {
        "prefer": {"margin": 0.0},
        "retrieve": {"k": 3, "mode": "bm25"},
        "parked": {"check_every": 2.0},
        "tracing": {"endpoint": collector.url},
    }
    directory = tmp_path_factory.mktemp("service")
    with running_service(directory, kafka_broker, elasticsearch_node, **overrides) as running:
        running.models.script = at_first_away()
        running.overrides["servers"]["local"]["api_key"] = KEY
        running.start_all()
        ingest(running, 1, *(corpus(pmid) for pmid in range(1, 41)))
        running.wait_until_searchable(40)
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


STAGES = ["append", "generate", "index", "ingest", "prefer", "rescore", "retrieve", "score"]


def test_the_spans_of_all_stages_about_a_record_are_in_one_trace(
    service: Service, collector: Collector
):
    ingest(service, 5, record(201), record(202, abstract=f"Asthma, {AT_FIRST_AWAY}, aspirin."))
    for pmid in (201, 202):
        service.wait_until(lambda pmid=pmid: rows(service, pmid) != [], f"row of {pmid}")
        service.wait_until(
            lambda pmid=pmid: sorted(span.name for span in collector.of(pmid)) == STAGES,
            f"spans of {pmid}",
        )
        (article,) = published(service.settings).states[pmid]
        trace, root = spans.ids(pmid, article.arrived)
        taken = {span.name: span for span in collector.of(pmid)}
        assert {span.trace for span in taken.values()} == {trace}
        assert {span.parent for name, span in taken.items() if name != "ingest"} == {root}
        assert (taken["ingest"].id, taken["ingest"].parent) == (root, 0)
        assert all(span.service == f"kailin-{name}" for name, span in taken.items())
        assert all(span.began >= taken["ingest"].began for span in taken.values())
        assert taken["append"].attributes["kailin.table"] == "preferences"
        steps = [span for span in collector.spans if span.trace == trace]
        assert parents(steps, "search") == {taken["retrieve"].id}
        assert parents(steps, "model request") == {taken["generate"].id}
    unlucky = {span.name: span for span in collector.of(202)}["generate"]
    assert unlucky.attributes["kailin.retries"] == 1
    assert unlucky.events == ["again: {'kailin.reason': 'model server failed'}"]
    assert unlucky.attributes["kailin.outcome"] == "done"


def parents(steps: list[Taken], name: str) -> set[int]:
    return {span.parent for span in steps if span.name == name}


def kailin(service: Service, *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and what it prints."""
    environment = {
        f"KAILIN_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in service.overrides.items()
    }
    done = CliRunner().invoke(app, arguments, env={**environment, "COLUMNS": "200"})
    return done.exit_code, done.stdout


def told(settings: Settings, pmid: int) -> History:
    return asyncio.run(history(settings, pmid, None, lambda done, total: None))


def waiting_for(service: Service, pmid: int) -> list[str]:
    """The stages that have not done with a record; `answer` does not run here."""
    waiting = told(service.settings, pmid).waiting
    return [each.stage for each in waiting if each.stage != "answer"]


def outcomes(found: History) -> list[tuple[str, str]]:
    return [(event.stage, event.outcome) for event in found.events]


def test_a_records_history_is_told_from_its_arrival_to_its_rows(service: Service):
    ingest(service, 6, record(211), record(212, mesh=()), record(213, abstract=LONG))
    service.wait_until(lambda: rows(service, 211) == [("preferences", None)], "row")
    service.wait_until(lambda: rows(service, 212) == [("parked", None)], "parked record")
    service.wait_until(lambda: len(service.dead_letters()) == 1, "dead letter")
    service.wait_until(
        lambda: all(waiting_for(service, pmid) == [] for pmid in (211, 212, 213)),
        "commits of every stage",
    )
    status, shown = kailin(service, "trace", "211", "--json")
    found = json.loads(shown)
    assert (status, found["pmid"], found["unseen"]) == (0, 211, [])
    assert [event["stage"] for event in found["events"]] == [
        "ingest",
        "generate",
        "retrieve or rescore",
        "score",
        "prefer",
        "append",
    ]
    arrived, asked, retrieved, scored, _, row = found["events"]
    assert arrived["outcome"] == "new, version 1"
    assert asked["outcome"] == "2 of 2 questions kept, for preference"
    assert {each["question"] for each in asked["details"]} == {
        "Which adults have arrhythmias?",
        "Which adults have prednisone?",
    }
    assert all(len(each["passages"]) == 3 for each in retrieved["details"])
    ranks = [passage["bm25_rank"] for passage in retrieved["details"][0]["passages"]]
    assert ranks == [1, 2, 3]
    assert sorted(each["score"] for each in row["details"]) == sorted(
        each["score"] for each in scored["details"]
    )
    assert row["where"].startswith("table preferences version ")
    assert found["index"]["version"] == 1

    assert ("append", "row in parked: unscorable: record without MeSH") in outcomes(
        told(service.settings, 212)
    )
    status, shown = kailin(service, "trace", "213")
    assert status == 0
    assert "dead letter: model refused; open" in " ".join(shown.split())
    assert "in the search index: version 1" in shown
    assert LONG[:1000] not in shown

    ingest(service, 7, record(211, publication_types=("Retracted Publication",)), gone=(212,))
    mark = [("preferences", "retracted")]
    service.wait_until(lambda: rows(service, 211) == mark, "mark")
    service.wait_until(lambda: not indexed(service, 212), "deletion from the index")
    withdrawn = outcomes(told(service.settings, 211))
    assert ("ingest", "rows stand no more: retracted") in withdrawn
    assert ("append", "row in preferences; stands no more: retracted") in withdrawn
    gone = told(service.settings, 212)
    assert ("ingest", "deleted") in outcomes(gone)
    assert gone.index is None


def test_what_cannot_be_looked_at_is_named_and_the_rest_told(service: Service):
    ingest(service, 8, record(221))
    service.wait_until(lambda: rows(service, 221) != [], "row")
    address = f"127.0.0.1:{free_port()}"
    no_index = {**service.overrides, "elasticsearch": {"url": f"http://{address}"}}
    found = told(Settings(**no_index), 221)
    assert [line.split(":")[0] for line in found.unseen] == ["index"]
    assert len(found.events) == 6

    no_broker = {**service.overrides, "kafka": {"bootstrap": address}}
    found = told(Settings(**no_broker), 221)
    assert [line.split(":")[0] for line in found.unseen] == ["topics"]
    assert "no Kafka broker" in found.unseen[0]
    assert outcomes(found) == [("append", "row in preferences")]
    assert found.index

    no_rows = {**service.overrides, "tables": f"{service.directory}/elsewhere"}
    found = told(Settings(**no_rows), 221)
    assert found.unseen == []
    assert "append" not in [event.stage for event in found.events]

    status, shown = kailin(service, "trace", "999999")
    assert status == 1
    assert "PMID 999999: no topic or table that could be looked at says anything of it" in shown


def test_a_stage_that_has_not_done_with_a_record_is_named(service: Service):
    service.stop("score")
    try:
        ingest(service, 9, record(231))
        service.wait_until(lambda: waiting_for(service, 231) == ["score"], "waiting")
    finally:
        service.start("score")
    service.wait_until(lambda: rows(service, 231) != [], "row")


def test_logs_say_whose_record_they_speak_of_and_hold_no_secret_and_no_abstract(service: Service):
    ingest(service, 10, record(241, abstract=LONG))

    def letters() -> list[dict[str, Any]]:
        lines = map(json.loads, service.log("generate").splitlines())
        return [line for line in lines if "dead letter" in line["message"]]

    service.wait_until(lambda: any(line["pmid"] == 241 for line in letters()), "line")
    (line,) = [line for line in letters() if line["pmid"] == 241]
    assert (line["stage"], line["level"]) == ("generate", "WARNING")
    assert line["topic"].endswith("pubmed.articles")
    assert {"partition", "offset", "time", "logger"} <= line.keys()
    assert "may not ask this" in line["message"]
    starts = range(0, len(LONG) - QUOTED, 7)
    for stage in service.processes:
        lines = service.log(stage).splitlines()
        assert lines
        for text in lines:
            assert json.loads(text)["stage"] == stage
            assert KEY not in text
            assert not any(LONG[at : at + QUOTED + 1] in text for at in starts)
