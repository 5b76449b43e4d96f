"""Mutated messages through a real broker and every stage: each is used or set aside, by name."""

import base64
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumers.delivery import check_key
from consumers.generate import not_asked
from engines import ElasticsearchEngine, KafkaEngine
from fakes import records
from fakes.mutants import mutant
from faults.service import Service, pmid, running_service
from infra.access import TAKEN_BY
from published import messages, put
from streams.citation import Article
from streams.codec import decode, encode
from streams.errors import Invalid
from streams.records import DeadLetter, Record
from streams.topics import (
    ALIGNMENTS,
    ARTICLES,
    CONTEXTS,
    DEAD_LETTERS,
    IDEAL,
    PREFERENCES,
    QUESTIONS,
    RETRACTIONS,
    SERVING,
    Topic,
)

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow]

SEED = int(os.environ.get("FAULTS_SEED", "20261127"))
MUTANTS = 360
# The stages that read a topic; the backlog waits for θ3, which is not there.
READERS = {
    topic: tuple(stage for stage in stages if stage != "backlog")
    for topic, stages in TAKEN_BY.items()
}
GOLDEN = Path(__file__).parents[1] / "golden"
Where = tuple[str, int, int]


def sound(topic: Topic, number: int) -> Record:
    """A message of a topic as it should be, which no other has the PMID or id of."""
    now = datetime.now(UTC)
    make: dict[Topic, Any] = {
        ARTICLES: records.article,
        QUESTIONS: records.questions,
        CONTEXTS: records.contexts,
        ALIGNMENTS: records.alignments,
        PREFERENCES: records.preference,
        IDEAL: records.ideal,
    }
    made = make[topic](number)
    if topic == ARTICLES:
        return replace(made, arrived=now)
    return replace(made, source=replace(made.source, arrived=now))


@pytest.fixture
def service(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Path
) -> Iterator[Service]:
    with running_service(tmp_path, kafka_broker, elasticsearch_node) as running:
        yield running


def refusal(topic: Topic, key: bytes | None, value: bytes) -> str | None:
    """Why any reader of a topic refuses a message, by the contract alone."""
    try:
        check_key(topic, decode(topic.record, value), key)
    except Invalid as error:
        return error.reason
    return None


def mutants() -> list[tuple[Topic, bytes, bytes]]:
    """Messages of each topic in turn, keyed as the sound record was."""
    dice = random.Random(SEED)
    made = []
    for number in range(1, MUTANTS + 1):
        topic = list(READERS)[number % len(READERS)]
        made.append((topic, b"%d" % number, mutant(encode(sound(topic, number)), dice)))
    # Whoever follows these two as a whole passes over what it cannot read.
    for topic, name in ((RETRACTIONS, "retraction-1"), (SERVING, "serving-1")):
        golden = (GOLDEN / f"{name}.json").read_bytes()
        damaged = [(topic, b"theta3", mutant(golden, dice)) for _ in range(40)]
        made += [each for each in damaged if refusal(*each)]
    return [each for each in made if len(each[2]) < each[0].max_message - 1000]


def set_aside(service: Service) -> dict[tuple[str, Where], DeadLetter]:
    letters = [decode(DeadLetter, m.value) for m in messages(service.settings, DEAD_LETTERS)]
    return {(of.stage, (of.topic, of.partition, of.offset)): of for of in letters}


def goes_on(topic: Topic, value: bytes) -> bool:
    """Whether a record that can be read leads to a row, if nothing else is wrong with it."""
    return not (topic == ARTICLES and not_asked(decode(Article, value)))


def test_every_mutated_message_is_used_or_set_aside_with_its_reason(service: Service):
    service.start_all()
    service.start("answer")
    put(service.settings, mutants())
    due: dict[tuple[str, Where], str] = {}
    values: dict[Where, bytes] = {}
    whole: set[int] = set()
    for topic, stages in READERS.items():
        for message in messages(service.settings, topic):
            where = message.topic, message.partition, message.offset
            values[where] = message.value
            if reason := refusal(topic, message.key, message.value):
                due |= {(stage, where): reason for stage in stages}
            elif goes_on(topic, message.value):
                whole.add(int(message.key))
    assert len(due) > MUTANTS / 2
    assert len(whole) > MUTANTS / 20

    def ended() -> set[int]:
        letters = {pmid(letter) for letter in set_aside(service).values()}
        return {row["pmid"] for row in service.rows()} | letters

    service.wait_until(lambda: set_aside(service).keys() >= due.keys(), "dead letter for each")
    service.wait_until(lambda: ended() >= whole, "row or dead letter for each of the others")
    found = set_aside(service)
    assert {at: found[at].reason for at in due} == due
    for (_, where), letter in found.items():
        if where in values:
            assert base64.b64decode(letter.value or "") == values[where]
    # Nobody has died of any, and all work on.
    assert all(process.poll() is None for process in service.processes.values())
    service.publish([replace(records.article(9001), arrived=datetime.now(UTC))])
    service.wait_until(
        lambda: 9001 in {row["pmid"] for row in service.rows()}, "row of a sound record"
    )
    assert "Traceback" not in "".join(map(service.log, service.processes))
