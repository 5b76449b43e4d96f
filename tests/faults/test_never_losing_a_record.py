"""Whatever is killed, every record ends in the tables exactly once or in the dead letters."""

import base64
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines import ElasticsearchEngine, KafkaEngine, unavailable
from fakes import records
from fakes.model_server import Reply, away, refusing
from faults.service import MESH, STAGES, Service, pmid, running_engines, running_service
from infra.artifacts import ArtifactError
from streams.citation import AbstractSection, Article, MeshHeading
from streams.codec import encode
from streams.topics import ALIGNMENTS, ARTICLES, CONTEXTS, IDEAL, PREFERENCES, QUESTIONS

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

RECORDS = 2000
ROUNDS = 2
SEED = 20260307
POISON = "UNSPEAKABLE"
# How long the model server answers 503, in seconds.
AWAY = float(os.environ.get("MODEL_AWAY_SECONDS", "15"))

DESCRIPTORS = [line.split("\t")[:2] for line in MESH.splitlines()]


def article(number: int, *, poisoned: bool = False) -> Article:
    """A record to be asked about; each fourth shares its descriptors."""
    dice = random.Random(number % 4 + 1)
    mesh = [MeshHeading(ui=ui, name=name) for ui, name in dice.sample(DESCRIPTORS, 3)]
    topic = " and ".join(heading.name.lower() for heading in mesh)
    text = f"We studied {topic} in {number} adults. {POISON if poisoned else ''}"
    return records.article(
        number,
        title=f"On {topic}, part {number}",
        sections=(AbstractSection(text=text),),
        mesh=tuple(mesh),
        arrived=datetime.now(UTC),
    )


def poisoning(request: dict[str, Any]) -> Reply:
    """A model that refuses to talk about some records; the encoder takes them."""
    return refusing(POISON)(request) if "messages" in request else Reply()


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[KafkaEngine, ElasticsearchEngine]]:
    """Engines of this file's own, to be killed."""
    try:
        with running_engines(tmp_path_factory.mktemp("engines")) as running:
            yield running
    except ArtifactError as error:
        unavailable(str(error))


@pytest.fixture
def service(engines: tuple[KafkaEngine, ElasticsearchEngine], tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path, *engines) as running:
        yield running


def test_no_record_is_lost_or_doubled_by_kills(service: Service):
    dice = random.Random(SEED)
    poisoned = set(dice.sample(range(1, RECORDS + 1), 20))
    service.models.script = poisoning
    service.start_all()
    targets = [
        target
        for _ in range(ROUNDS)
        for target in dice.sample([*STAGES, "kafka", "elasticsearch"], len(STAGES) + 2)
    ]
    portion = RECORDS // len(targets)
    for turn, target in enumerate(targets):
        first = turn * portion + 1
        last = RECORDS if turn == len(targets) - 1 else first + portion - 1
        busy = target if target in STAGES else dice.choice(STAGES)
        before = service.sample(busy) or 0.0
        service.publish([article(n, poisoned=n in poisoned) for n in range(first, last + 1)])
        # The moment is random, but one at which the target has work.
        service.wait_until(
            lambda busy=busy, before=before: (service.sample(busy) or 0.0) > before,
            f"work for {busy}",
        )
        time.sleep(dice.uniform(0.0, 0.5))
        if target in STAGES:
            service.kill(target)
            service.start(target)
        else:
            engine = service.kafka if target == "kafka" else service.elasticsearch
            engine.kill()
            time.sleep(dice.uniform(0.0, 2.0))
            engine.start()

    everyone = set(range(1, RECORDS + 1))
    service.wait_until(
        lambda: {row["pmid"] for row in service.rows()} >= everyone - poisoned,
        "row for every record",
        seconds=180,
    )
    service.wait_until(
        lambda: {pmid(letter) for letter in service.dead_letters()} >= poisoned,
        "dead letter for every poisoned record",
    )
    rows = service.rows()
    assert [i for i, times in Counter(row["id"] for row in rows).items() if times > 1] == []
    assert sorted(row["pmid"] for row in rows) == sorted(everyone - poisoned)
    letters = service.dead_letters()
    assert {pmid(letter) for letter in letters} == poisoned
    assert {(letter.stage, letter.reason) for letter in letters} == {("generate", "model refused")}


def test_poisoned_messages_end_in_the_dead_letters_with_their_reason(service: Service):
    service.models.script = poisoning
    service.start_all()
    valid = encode(article(7))
    # It just fits `questions`, and no longer `contexts` with what retrieve adds.
    small = records.questions(9)
    room = QUESTIONS.max_message - len(encode(small)) - 150
    large = replace(
        small, source=replace(small.source, abstract=small.source.abstract + "a" * room)
    )
    poison = {
        1: (ARTICLES, b"{not JSON"),
        2: (ARTICLES, b"\xff\xfe\x00"),
        3: (ARTICLES, valid.replace(b'"version":1', b'"version":"one"')),
        4: (ARTICLES, valid.replace(b'"languages":["eng"],', b"")),
        5: (ARTICLES, encode(records.questions(5))),
        6: (QUESTIONS, valid),
        7: (CONTEXTS, b"[]"),
        8: (ALIGNMENTS, b'{"schema":"alignments/9"}'),
        9: (QUESTIONS, encode(large)),
        10: (PREFERENCES, b"null"),
        12: (ARTICLES, valid.replace(b'"version":1', b'"version":%d' % 2**64)),
        13: (QUESTIONS, encode(records.questions(13)).replace(b'"seed":7', b'"seed":-%d' % 2**70)),
        14: (ARTICLES, valid.replace(b"article/2", b"article/000000001" + b"9" * 4400)),
        # Whole records, keyed by another's PMID.
        15: (ARTICLES, valid),
        16: (ALIGNMENTS, encode(records.alignments(7))),
        17: (IDEAL, encode(records.preference(17))),
        18: (IDEAL, encode(records.ideal(7))),
    }
    for number, (topic, value) in poison.items():
        service.publish_raw(topic, b"%d" % number, value)
    service.publish([article(11, poisoned=True), *(article(n) for n in range(100, 120))])

    # `pubmed.articles` has three readers, and each sets aside what it cannot read.
    readers = ("index", "generate", "rescore")
    expected = {
        *((n, stage, "not JSON") for n in (1, 2) for stage in readers),
        *((n, stage, "field") for n in (3, 4) for stage in readers),
        *((5, stage, "schema") for stage in readers),
        (6, "retrieve", "schema"),
        (7, "score", "not JSON"),
        (8, "prefer", "schema"),
        (9, "retrieve", "too large"),
        (10, "append", "not JSON"),
        (11, "generate", "model refused"),
        *((12, stage, "field") for stage in readers),
        (13, "retrieve", "field"),
        *((14, stage, "schema") for stage in readers),
        *((15, stage, "key") for stage in readers),
        (16, "prefer", "key"),
        (17, "append", "schema"),
        (18, "append", "key"),
    }
    service.wait_until(
        lambda: len(service.dead_letters()) >= len(expected), "dead letter for every message"
    )
    service.wait_until(lambda: len(service.rows()) >= 20, "row for every other record")
    letters = service.dead_letters()
    assert {(pmid(letter), letter.stage, letter.reason) for letter in letters} == expected
    assert len(letters) == len(expected)
    for letter in letters:
        assert letter.stack
        if pmid(letter) in poison and pmid(letter) != 9:
            assert base64.b64decode(letter.value or "") == poison[pmid(letter)][1]
    assert sorted(row["pmid"] for row in service.rows()) == list(range(100, 120))


def test_a_tombstone_whose_key_is_no_pmid_ends_in_the_dead_letters(service: Service):
    service.start("index")
    keys = (b"PMID 7", "７".encode(), b"-7", b"", b"8")
    for key in keys:
        service.publish_raw(ARTICLES, key, None)
    service.wait_until(lambda: (service.sample("index") or 0) == len(keys), "end of the topic")
    service.wait_until(lambda: len(service.dead_letters()) >= 4, "dead letters")
    letters = service.dead_letters()
    assert [base64.b64decode(letter.key or "") for letter in letters] == list(keys[:4])
    assert {(letter.stage, letter.reason, letter.value) for letter in letters} == {
        ("index", "key", None)
    }
    assert "got b'PMID 7'" in letters[0].detail
    # The last one is a deletion like any other.
    service.wait_until(
        lambda: (service.sample("index", "kailin_index_writes_total") or 0) == 1, "deletion"
    )


def test_a_model_server_that_is_away_delays_and_loses_nothing(service: Service):
    service.models.script = away(AWAY)
    service.start_all()
    service.publish([article(n) for n in range(1, 101)])
    service.wait_until(
        lambda: (service.sample("generate", "kailin_retries_total") or 0) > 0, "second attempt"
    )
    began = time.monotonic()
    service.wait_until(lambda: len(service.rows()) >= 100, "row for every record", seconds=300)
    assert time.monotonic() - began > AWAY / 2
    assert sorted(row["pmid"] for row in service.rows()) == list(range(1, 101))
    assert service.dead_letters() == []


def test_the_dead_letter_limit_stops_a_broken_stage(service: Service):
    """A wrong deployment that cannot read its topic must not drain it into the dead letters."""
    service.overrides["workers"] |= {"dead_letter_limit": 10}
    service.start("generate")
    for number in range(1, 51):
        service.publish_raw(ARTICLES, b"%d" % number, encode(records.questions(number)))
    assert service.processes["generate"].wait(120) == 3
    assert len(service.dead_letters()) == 10
    assert "more than 10 dead letters in 60 s" in service.log("generate")
    assert "Traceback" not in service.log("generate")


def test_a_stage_that_is_told_to_stop_ends_with_status_0(service: Service):
    for stage in STAGES:
        service.start(stage)
    for stage in STAGES:
        service.wait_until(lambda stage=stage: "working" in service.log(stage), f"{stage} at work")
    service.publish([article(n) for n in range(1, 31)])
    service.wait_until(lambda: len(service.rows()) >= 1, "first row")
    assert {stage: service.stop(stage) for stage in STAGES} == dict.fromkeys(STAGES, 0)
    assert "Traceback" not in "".join(map(service.log, STAGES))
