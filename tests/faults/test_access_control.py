"""Each process under a user of its own, who may do what `kailin acls` says and nothing else.

The broker denies what no list allows, and tells what it allowed: so it is seen that the whole chain
works, that no right is missing, and that none is given which nobody uses.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    TopicAuthorizationFailedError,
)

from engines import ElasticsearchEngine
from fakes import records
from fakes.model_server import ModelServer, Reply
from fakes.pubmed import citation, document
from faults.service import DIMENSIONS, MESH, ROOT, running_models
from infra import topic_view
from infra.access import ACCESS, TAKEN_BY, Right, rights
from infra.acls import bindings, commands
from infra.elastic import connect, count
from infra.kafka import Publisher, client_arguments, group_name, start, topic_name
from infra.settings import Elasticsearch, Settings
from infra.stages import STAGES
from infra.tables import row_counts
from infra.topic_admin import create_topics
from kafka_rights import granted
from secured_engine import PASSWORD, SecuredKafka
from secured_workers import Workers
from streams.errors import Transient
from streams.learning import Verdict
from streams.records import Record
from streams.topics import (
    ALIGNMENTS,
    ARTICLES,
    CONTEXTS,
    CONTROL,
    IDEAL,
    PREFERENCES,
    QUESTIONS,
    SERVING,
    TOPICS,
    VERDICTS,
    Topic,
)

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

WORKERS = (*STAGES, "append")
DESCRIPTORS = ("D000003", "D000004", "D000006", "D000009", "D000011", "D000012")
# Topics that this run has no use for: so many alignments must wait for the answer stage before the
# backlog reads them, and only an ingest that follows its sources can be paused.
UNUSED = {"backlog": {ALIGNMENTS}, "ingest": {CONTROL}}


@dataclass
class Chain:
    """Every process of the service, each with its own user, on topics of their own."""

    kafka: SecuredKafka
    prefix: str
    workers: Workers
    search: Elasticsearch
    models: ModelServer

    def settings(self, process: str, **changes: Any) -> Settings:
        """Settings of one process's user."""
        way = self.kafka.as_user(process, prefix=self.prefix)
        return Settings(kafka=way, tables=self.workers.settings.tables, **changes)

    def start(self, process: str, *arguments: str) -> "subprocess.Popen[bytes]":
        way = self.kafka.as_user(process, prefix=self.prefix)
        return self.workers.start(process, *arguments, kafka=way)

    def ingest(self, name: str, *citations: str, backfill: bool = False) -> None:
        """`kailin ingest files`, as its own user."""
        path = self.workers.directory / f"{name}.xml"
        path.write_text(document(*citations))
        how = ("--backfill",) if backfill else ()
        assert self.start("ingest", "ingest", "files", str(path), *how).wait(240) == 0, (
            self.workers.log("ingest")
        )

    def publish(self, process: str, topic: Topic, record: Record) -> None:
        async def send() -> None:
            async with Publisher(self.settings(process)) as publisher:
                await publisher.send(topic, record)

        asyncio.run(send())

    def used(self) -> dict[str, set[Right]]:
        """What each process was allowed since, of what its user has a list for."""
        found: dict[str, set[Right]] = {process: set() for process in ACCESS}
        for line in self.kafka.admitted():
            process = line.user.removeprefix("kailin-")
            if line.allowed and process in found and line.name.startswith(self.prefix):
                resource: Any = {"TransactionalId": "transactional-id"}.get(
                    line.resource, line.resource.lower()
                )
                operation: Any = line.operation.lower().replace("_", "-")
                found[process].add(Right(resource, line.name, operation))
        return found

    def unused(self, processes: Sequence[str]) -> dict[str, set[Right]]:
        """Rights that were given and are not used so far, by process."""
        used = self.used()
        left = {}
        for process in processes:
            spare = {topic_name(self.settings(process), t) for t in UNUSED.get(process, ())}
            needed = {r for r in rights(self.settings(process), process) if r.name not in spare}
            left[process] = needed - used[process]
        return {process: some for process, some in left.items() if some}


def about(pmid: int, *descriptors: str) -> str:
    """A citation with an abstract, indexed with these descriptors."""
    headings = "".join(
        f'<MeshHeading><DescriptorName UI="{ui}">{ui}</DescriptorName></MeshHeading>'
        for ui in descriptors
    )
    return citation(
        pmid=f'<PMID Version="1">{pmid}</PMID>',
        title=f"<ArticleTitle>Trial {pmid} of {' and '.join(descriptors)}.</ArticleTitle>",
        abstract=f"<Abstract><AbstractText>Arm {pmid} took it.</AbstractText></Abstract>",
        in_citation=f"<MeshHeadingList>{headings}</MeshHeadingList>" if headings else "",
    )


def kailin(chain: Chain, way: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command, as one of the super users."""
    (secret := chain.workers.directory / "admin").write_text(PASSWORD)
    kafka = chain.kafka.ways[way].model_copy(update={"prefix": chain.prefix})
    given = kafka.model_dump(mode="json", exclude_defaults=True, exclude={"password"})
    given |= {"password_file": str(secret)} if way.startswith("SASL") else {}
    environment = {name: value for name, value in os.environ.items() if "KAILIN" not in name}
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments],
        cwd=chain.workers.directory,
        env={**environment, "PYTHONPATH": str(ROOT), "KAILIN_KAFKA": json.dumps(given)},
        capture_output=True,
        text=True,
        check=False,
    )


def scripted(request: dict[str, Any]) -> Reply:
    """The teacher says yes; the others ask."""
    return Reply(text="Yes") if request.get("model") == "teacher" else Reply()


@pytest.fixture(scope="module")
def chain(
    secured_kafka: SecuredKafka,
    elasticsearch_node: ElasticsearchEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    """The lists are made and the topics are there; nothing runs yet."""
    directory = tmp_path_factory.mktemp("access")
    (directory / "mesh.tsv").write_text(MESH)
    prefix = f"t{uuid.uuid4().hex[:8]}."
    search = Elasticsearch(url=elasticsearch_node.url, alias=f"articles-{prefix}own")
    with running_models(scripted) as models:
        given = {
            "ELASTICSEARCH": {"url": search.url, "alias": search.alias},
            # A job that starts ends at once, for its base model is not there.
            "SERVERS": {"local": {"url": models.url, "source": "file:///none"}},
            "EMBEDDER": {"url": models.url, "dimensions": DIMENSIONS},
            "MESH": {"edition": "small", "source": str(directory / "mesh.tsv")},
            "WORKERS": {"retry_first": 0.2, "retry_longest": 1.0},
            "PREFER": {"margin": 0.0},
            "IDEAL": {"preference_share": 0.0, "floor": 0.0},
            "ANSWERERS": [{"name": "teacher", "server": "local", "model": "teacher"}],
            # What has no MeSH is given up at once, in place of a year.
            "PARKED": {"check_every": 1.0, "longest_days": 1e-6},
            "TRAINING": {"rows": 1, "least_rows": 1, "look_every": 1.0},
        }
        workers = Workers(directory, secured_kafka.ways["SASL_SSL"], given)
        running = Chain(secured_kafka, prefix, workers, search, models)
        applied = kailin(running, "SASL_PLAINTEXT", "acls", "--apply")
        assert applied.returncode == 0, applied.stderr
        asyncio.run(create_topics(running.settings("supervisor")))
        asyncio.run(_coordinated(secured_kafka))
        try:
            yield running
        finally:
            workers.end()


def test_the_broker_allows_each_user_what_the_table_says_and_no_more(chain: Chain):
    """As the broker itself tells what a user may do on each topic and group."""
    joined = {group for access in ACCESS.values() for group in access.joins}
    groups = [group_name(chain.settings("score"), group) for group in sorted(joined)]
    topics = [topic_name(chain.settings("score"), topic) for topic in TOPICS]

    async def all_granted() -> dict[str, set[Right]]:
        return {p: await granted(chain.settings(p), topics, groups) for p in ACCESS}

    for process, held in asyncio.run(all_granted()).items():
        wanted = {
            r for r in rights(chain.settings(process), process) if r.resource != "transactional-id"
        }
        # Who reads, writes or watches may also look.
        looks = {Right(r.resource, r.name, "describe") for r in wanted if r.operation != "create"}
        looks = {r for r in looks if any(
            (w.resource, w.name) == (r.resource, r.name)
            and w.operation in ("read", "write", "describe")
            for w in wanted
        )}  # fmt: skip
        assert held == wanted | looks, process


async def test_what_is_not_allowed_is_denied(chain: Chain):
    """A produce, a fetch and a commit, where no list allows them."""
    settings = chain.settings("score")
    producer = AIOKafkaProducer(**client_arguments(settings))
    await start(producer, settings)
    try:
        for topic in (CONTEXTS, ARTICLES, SERVING):
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic_name(settings, topic), b"{}", key=b"1")
        await producer.send_and_wait(topic_name(settings, ALIGNMENTS), b"{}", key=b"1")
    finally:
        await producer.stop()
    for topic, group in ((PREFERENCES, "score"), (CONTEXTS, "prefer")):
        consumer = AIOKafkaConsumer(
            **client_arguments(settings),
            group_id=group_name(settings, group),
            enable_auto_commit=False,
        )
        await start(consumer, settings)
        at = TopicPartition(topic_name(settings, topic), 0)
        consumer.assign([at])
        try:
            with pytest.raises((TopicAuthorizationFailedError, GroupAuthorizationFailedError)):
                await consumer.commit({at: 1})
        finally:
            await consumer.stop()


async def test_nobody_takes_part_in_another_ones_transactions(chain: Chain):
    settings = chain.settings("score")
    producer = AIOKafkaProducer(
        **client_arguments(settings), transactional_id=group_name(settings, "ingest")
    )
    with pytest.raises(Exception, match=r"(?i)transactional.*authori"):
        await asyncio.wait_for(producer.start(), 20)
    await producer.stop()


def test_the_chain_works_and_uses_all_of_its_rights(chain: Chain):
    workers = chain.workers
    before = sum(1 for _ in chain.kafka.admitted())
    for stage in WORKERS:
        chain.start(stage)
    chain.ingest("corpus", *(about(n, DESCRIPTORS[n % 6]) for n in range(1, 9)), backfill=True)
    workers.until(lambda: asyncio.run(_indexed(chain.search)) >= 8, "corpus", seconds=240)
    live = [about(n, DESCRIPTORS[n % 6], DESCRIPTORS[n % 5]) for n in range(101, 113)]
    chain.ingest("live", *live, about(120))
    deployer, trainer = chain.start("deployer", "deployer"), chain.start("trainer", "trainer")
    workers.until(lambda: row_counts(workers.settings)["preferences"] > 0, "rows", seconds=240)

    # θ3 serves from now on: the deployer says so.
    now = datetime.now(UTC)
    theta3 = records.serving(model="theta3-v1", revision="1", url=chain.models.url, first=now)

    chain.publish("deployer", SERVING, theta3)
    ideal = [about(n, DESCRIPTORS[n % 6]) for n in range(201, 207)]
    chain.ingest("ideal", *ideal, about(220), about(101, "D000006", "D000012"))
    # What the trainer's child does once it has compared two models.
    chain.publish("trainer", VERDICTS, records.verdict())
    asyncio.run(topic_view.read(chain.settings("trainer"), VERDICTS, Verdict))
    # A message that each stage must set aside.
    for topic in (ARTICLES, QUESTIONS, CONTEXTS, ALIGNMENTS, PREFERENCES, IDEAL):
        asyncio.run(_publish_raw(chain, topic, b"{"))

    running = (*WORKERS, "ingest", "trainer", "deployer", "supervisor")
    deadline = time.monotonic() + 240
    while (left := chain.unused(running)) and time.monotonic() < deadline:
        time.sleep(1)
    assert left == {}, "\n".join(f"== {p}\n{workers.log(p)[-2000:]}" for p in left)
    asked = itertools.islice(chain.kafka.admitted(), before, None)
    assert [line for line in asked if not line.allowed] == []
    assert (deployer.poll(), trainer.poll()) == (None, None)


def test_an_operator_looks_at_all_of_it_and_mends_it(chain: Chain):
    """Every command that an operator has for a service that runs, with the operator's own user."""

    def run(*arguments: str, ends: tuple[int, ...] = (0,)) -> str:
        chain.workers.log_file("operator").unlink(missing_ok=True)
        ended = chain.start("operator", *arguments).wait(240)
        log = chain.workers.log("operator")
        assert ended in ends, f"{arguments}: {ended}\n{log}"
        assert not ended or "Traceback" not in log
        return log

    # Both say that nothing was started here by `kailin up`.
    run("status", "--json", ends=(1,))
    run("doctor", ends=(0, 1))
    run("train", "status")
    run("train", "retry")
    assert "rows" in run("trace", "101")
    listed = (json.loads(line) for line in run("dlq", "list", "--json").splitlines())
    letters = [line for line in listed if "reason" in line]
    # One of each topic: what is put back there comes again, and is given up.
    assert {letter["topic"] for letter in letters} >= {
        topic_name(chain.settings("operator"), topic) for topic in TAKEN_BY
    }
    one = letters[0]
    run("dlq", "show", f"{one['topic']}/{one['partition']}/{one['offset']}")
    run("dlq", "replay", "--why", "once more", "--yes")
    run("dlq", "drop", "--why", "it is no JSON", "--yes")
    run("pause", "retrieve", "--why", "a look")
    run("resume", "retrieve")
    run("reindex", "--remove-old")
    run("backup", str(chain.workers.directory / "backup"))

    denied = [line for line in chain.kafka.admitted() if not line.allowed]
    assert [line for line in denied if line.user == "kailin-operator"] == []
    assert chain.unused(("operator",)) == {}


def test_applying_again_changes_nothing_and_shows_what_is_too_much(chain: Chain):
    again = kailin(chain, "SASL_PLAINTEXT", "acls", "--apply")
    assert again.stdout.startswith("0 made, ")
    assert len(again.stdout.splitlines()) == 1

    # A user who is given another one's rights.
    other = kailin(
        chain, "SASL_PLAINTEXT", "acls", "--apply", "prefer", "--principal", "User:kailin-score"
    )
    lines = other.stdout.splitlines()
    assert "that no process needs" in lines[1]
    settings = Settings(
        kafka=chain.kafka.ways["SASL_PLAINTEXT"].model_copy(update={"prefix": chain.prefix})
    )
    scores = bindings(settings, "User:kailin-score", ["score"])
    shared = bindings(settings, "User:kailin-score", ["prefer"])
    beside = [binding for binding in scores if binding not in shared]
    assert lines[2:] == commands(settings, beside, remove=True)


def test_a_stage_that_lacks_a_right_says_which_in_one_line(chain: Chain):
    """`prefer` as the user of `retrieve`."""
    way = chain.kafka.as_user("retrieve", prefix=chain.prefix)
    process = chain.workers.start("prefer-wrong", "run", "prefer", kafka=way)
    assert process.wait(180) == 1, chain.workers.log("prefer-wrong")
    said = chain.workers.log("prefer-wrong")
    assert "Traceback" not in said
    assert "kailin acls" in said.splitlines()[-1]


async def _indexed(search: Elasticsearch) -> int:
    client = connect(search)
    try:
        return await count(client, search.alias)
    except Transient:  # while the index is being made
        return 0
    finally:
        await client.close()


async def _coordinated(kafka: SecuredKafka) -> None:
    """Until the broker keeps consumer groups, which it begins to when it is first asked."""
    admin = AIOKafkaAdminClient(**client_arguments(Settings(kafka=kafka.ways["SASL_PLAINTEXT"])))
    await admin.start()
    try:
        while True:
            with suppress(GroupCoordinatorNotAvailableError):
                await admin.find_coordinator("any")
                return
            await asyncio.sleep(0.2)
    finally:
        await admin.close()


async def _publish_raw(chain: Chain, topic: Topic, value: bytes) -> None:
    kafka = chain.kafka.ways["SASL_PLAINTEXT"].model_copy(update={"prefix": chain.prefix})
    settings = Settings(kafka=kafka)
    producer = AIOKafkaProducer(**client_arguments(settings))
    await start(producer, settings)
    try:
        await producer.send_and_wait(topic_name(settings, topic), value, key=b"7")
    finally:
        await producer.stop()
