"""The way of ideal records on a real broker: θ3 takes over, answers in a budget, the backlog."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumers.budget import TEMPLATE
from engines import ElasticsearchEngine, KafkaEngine
from fakes import records
from fakes.model_server import ModelServer, Reply, prompt_of, question
from faults.service import Service, running_models, running_service
from infra.kafka import Publisher
from infra.spending import by_model, month_of
from infra.topic_view import read
from published import messages
from streams.citation import Article
from streams.codec import decode
from streams.learning import Serving, Spending
from streams.plan import role
from streams.prompts import question_prompt
from streams.records import Alignments, Ideal, Questions, Record
from streams.topics import ALIGNMENTS, IDEAL, QUESTIONS, SERVING, SPENDING, Topic

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

SHARE = 0.3
WINDOW = 4
ANSWERER = {"name": "teacher", "server": "local", "model": "teacher", "max_tokens": 16}


@pytest.fixture
def service(
    kafka_broker: KafkaEngine, elasticsearch_node: ElasticsearchEngine, tmp_path: Any
) -> Iterator[Service]:
    how = {"ideal": {"preference_share": SHARE}, "backlog": {"window": WINDOW}}
    with running_service(tmp_path, kafka_broker, elasticsearch_node, **how) as running:
        yield running


@pytest.fixture
def second() -> Iterator[ModelServer]:
    with running_models() as models:
        yield models


def article(pmid: int, **changes: Any) -> Article:
    return replace(records.article(pmid), **{"arrived": datetime.now(UTC), **changes})


def serving(version: int, models: ModelServer, first: datetime) -> Serving:
    return records.serving(
        model=f"theta3-v{version}", revision=str(version), url=models.url, first=first
    )


def send(service: Service, topic: Topic, made: Sequence[Record]) -> None:
    async def sent() -> None:
        async with Publisher(service.settings) as publisher:
            await asyncio.gather(*(publisher.send(topic, record) for record in made))

    asyncio.run(sent())


def questions(service: Service) -> list[Questions]:
    return [decode(Questions, m.value) for m in messages(service.settings, QUESTIONS)]


def planned(pmids: Sequence[int]) -> set[int]:
    """Those of the records that go the ideal way once θ3 serves."""
    return {p for p in pmids if role(p, theta3_serves=True, preference_share=SHARE) == "ideal"}


def written_by(made: Questions) -> list[str]:
    """The models that a record's questions show to have written them."""
    source = made.source
    prompt = question_prompt("question/1", title=source.title, abstract=source.abstract)
    return [
        model
        for candidate in made.candidates
        for model in ("theta1", "theta2", "theta3-v1", "theta3-v2")
        if candidate.question == question(prompt, candidate.seed, model)
    ]


def test_a_running_generate_worker_follows_what_serves(service: Service, second: ModelServer):
    def unhurried(request: dict[str, Any]) -> Reply:
        return Reply(delay=0.05)

    service.models.script = second.script = unhurried
    service.start("generate")
    service.publish([article(pmid) for pmid in range(1, 31)])
    service.wait_until(lambda: len(questions(service)) == 30, "questions", seconds=90)
    pid = service.processes["generate"].pid
    assert service.sample("generate", "kailin_serving_revision") == 0
    assert {made.role for made in questions(service)} == {"preference"}

    first = datetime.now(UTC)
    send(service, SERVING, [serving(1, service.models, first)])
    service.wait_until(
        lambda: service.sample("generate", "kailin_serving_revision") == 1, "first model"
    )
    # The second takes over while many records are being asked about.
    for start in range(31, 431, 100):
        service.publish([article(pmid) for pmid in range(start, start + 100)])
        if start == 131:
            send(service, SERVING, [serving(2, second, first)])
    service.wait_until(lambda: len(questions(service)) == 430, "questions", seconds=90)

    made = {one.source.pmid: one for one in questions(service)}
    assert set(made) == set(range(1, 431))
    ideal = {pmid for pmid, one in made.items() if one.role == "ideal"}
    assert ideal == planned(range(31, 431))
    for one in made.values():
        assert written_by(one) == [candidate.model for candidate in one.candidates]
        assert len(one.candidates) == (1 if one.role == "ideal" else 2)
    by = {made[pmid].candidates[0].model: pmid for pmid in ideal}
    assert set(by) == {"theta3-v1", "theta3-v2"}
    assert all(
        c.revision == c.model.removeprefix("theta3-v")
        for pmid in ideal
        for c in made[pmid].candidates
    )
    assert {request["model"] for request in second.requests} == {"theta3-v2"}
    assert "theta3-v2" not in {request["model"] for request in service.models.requests}
    assert service.processes["generate"].pid == pid
    assert service.processes["generate"].poll() is None
    assert service.sample("generate", "kailin_retries_total") == 0
    assert service.dead_letters() == []


def test_a_server_that_goes_is_left_for_the_model_that_serves_then(
    service: Service, second: ModelServer
):
    first = datetime.now(UTC)
    service.models.script = lambda _: Reply(status=503)
    send(service, SERVING, [serving(1, service.models, first)])
    service.start("generate")
    pmids = planned(range(1, 60))
    service.publish([article(pmid) for pmid in pmids])
    service.wait_until(
        lambda: (service.sample("generate", "kailin_retries_total") or 0) > 0, "retry", seconds=90
    )
    send(service, SERVING, [serving(2, second, first)])

    service.wait_until(lambda: len(questions(service)) == len(pmids), "questions")
    assert {c.model for made in questions(service) for c in made.candidates} == {"theta3-v2"}


def ideals(service: Service) -> list[Ideal]:
    return [decode(Ideal, m.value) for m in messages(service.settings, IDEAL)]


def test_a_spent_budget_stops_answering_and_nothing_is_lost(service: Service):
    service.models.script = lambda _: Reply(text="Yes.")
    taken: list[Alignments] = [
        records.alignments(pmid, role="ideal", alignments=(records.alignment("theta3", 0.6),))
        for pmid in range(1, 41)
    ]
    # A request reserves its bytes, and costs its words: room for some of the 40, not for all.
    service.overrides |= {"answerers": [ANSWERER], "spending": {"tokens": 1500}}
    service.start("answer")
    send(service, ALIGNMENTS, taken)
    service.wait_until(
        lambda: (service.sample("answer", "kailin_retries_total") or 0) > 40, "stop", seconds=90
    )
    # By then each has been refused at least once more, with what the others left unused.
    time.sleep(8)
    before = len(ideals(service))
    time.sleep(4)
    assert len(ideals(service)) == before == len(service.models.requests)
    assert 0 < before < 40
    spent = asyncio.run(read(service.settings, SPENDING, Spending))
    sums = by_model(spent.values(), month_of(datetime.now(UTC)))
    assert sums["teacher"].requests == before
    assert sums["teacher"].tokens <= 1500
    assert (service.sample("answer", "kailin_budget_left_ratio") or 2) < 2

    # Killed, too, it goes on where the budget is raised, and pays for no question twice.
    service.kill("answer")
    service.overrides["spending"] = {"tokens": 1_000_000}
    service.start("answer")
    service.wait_until(lambda: {i.source.pmid for i in ideals(service)} == set(range(1, 41)), "all")
    answered = {ideal.id: ideal.answer for ideal in ideals(service)}
    assert len(answered) == 40
    assert all(answer and answer.decision == "yes" for answer in answered.values())
    assert service.dead_letters() == []


def test_what_a_killed_worker_spent_is_never_forgotten(service: Service):
    service.models.script = lambda _: Reply(text="No.", delay=0.1)
    service.overrides |= {"answerers": [ANSWERER], "spending": {"tokens": 10**9}}
    taken = [
        records.alignments(pmid, role="ideal", alignments=(records.alignment("theta3", 0.6),))
        for pmid in range(1, 601)
    ]
    service.start("answer")
    send(service, ALIGNMENTS, taken[:300])
    kills = 3
    for _ in range(kills):
        asked = len(service.models.requests)
        service.wait_until(
            lambda asked=asked: len(service.models.requests) > asked, "request", seconds=90
        )
        service.kill("answer")
        service.start("answer")
    send(service, ALIGNMENTS, taken[300:])
    service.wait_until(
        lambda: {ideal.source.pmid for ideal in ideals(service)} == set(range(1, 601)), "all"
    )
    time.sleep(2)

    requests = service.models.requests
    served = sum(len(prompt_of(request).split()) + 1 for request in requests)
    on_record = by_model(
        asyncio.run(read(service.settings, SPENDING, Spending)).values(),
        month_of(datetime.now(UTC)),
    )["teacher"]
    assert on_record.requests >= len(requests) >= 600
    most = max(len(prompt_of(request).encode()) for request in requests) + TEMPLATE + 16
    in_flight = kills * service.settings.workers.window
    assert served <= on_record.tokens <= served + in_flight * most


def test_the_backlog_is_asked_about_once_and_after_live_records(service: Service):
    def unhurried(request: dict[str, Any]) -> Reply:
        return Reply(delay=0.1 if request["model"].startswith("theta3") else 0.0)

    service.models.script = unhurried
    past = datetime.now(UTC) - timedelta(hours=1)
    service.publish([article(pmid, arrived=past) for pmid in range(1, 121)])
    service.publish([article(pmid, arrived=past, corpus=True) for pmid in range(121, 141)])
    service.start("generate")
    service.start("backlog")
    service.wait_until(lambda: len(questions(service)) == 120, "questions", seconds=90)
    waiting = "kailin_backlog_waiting"
    service.wait_until(lambda: service.sample("backlog", waiting) == 1, "wait for theta3")
    assert service.stop("backlog") == 0
    service.start("backlog")
    service.wait_until(lambda: service.sample("backlog", waiting) == 1, "wait for theta3")

    # Live records wait, for their stage is down: the backlog gives them way.
    service.stop("generate")
    service.publish([article(pmid) for pmid in range(201, 221)])
    send(service, SERVING, [serving(1, service.models, past + timedelta(minutes=30))])
    service.wait_until(lambda: (service.sample("backlog") or 0) > 0, "backlog's message")
    time.sleep(5)
    assert len(questions(service)) == 120
    assert service.sample("backlog", waiting) == 1

    service.start("generate")
    expected = planned(range(1, 121))
    for _ in range(3):
        done = len(questions(service))
        service.wait_until(lambda done=done: len(questions(service)) > done + 8, "progress")
        service.kill("backlog")
        service.start("backlog")
    live = range(201, 221)

    def asked() -> set[int]:
        return {made.source.pmid for made in questions(service) if made.role == "ideal"}

    service.wait_until(lambda: asked() == expected | planned(live), "question for each")
    time.sleep(3)
    made = questions(service)
    assert asked() == expected | planned(live)
    ids: dict[int, set[str]] = {}
    for one in (one for one in made if one.role == "ideal"):
        ids.setdefault(one.source.pmid, set()).add(one.id)
        assert written_by(one) == ["theta3-v1"]
    # What a killed worker did twice has one id, and the tables keep the first.
    assert {len(own) for own in ids.values()} == {1}
    assert service.dead_letters() == []
    assert "Traceback" not in service.log("backlog")
