import re
from itertools import count

import pytest

from consumers.generate import Generator
from consumers.ports import Prompted
from consumers.stage import Policy
from fakes.embed import FakeEmbed, hashed
from fakes.generate import FakeGenerate
from fakes.mesh import mesh, ui
from fakes.records import article
from fakes.search import FakeLibrary
from infra.gate_questions import ATTEMPTS, Bench, compare
from streams.citation import AbstractSection, Article, MeshHeading
from streams.errors import Invalid, Transient
from streams.questions import Limits
from streams.similarity import Similarity

SUBJECTS = ["aspirin", "statins", "insulin", "morphine", "lithium"]
TREE = mesh({name: f"D0{place}" for place, name in enumerate(SUBJECTS, 1)})


def about(pmid: int, subject: str) -> Article:
    return article(
        pmid,
        title=f"On {subject} in trial {pmid}.",
        sections=(AbstractSection(text=f"We gave {subject} to forty adults."),),
        mesh=(MeshHeading(ui=ui(TREE, subject), name=subject),),
    )


RECORDS = [about(pmid, SUBJECTS[pmid % 5]) for pmid in range(1, 31)]


@pytest.fixture
async def bench() -> Bench:
    library = FakeLibrary(384)
    for number, subject in enumerate(SUBJECTS * 5, 1000):
        held = about(number, subject)
        await library.put(held, hashed(held.title), version=1)
    return Bench(
        embed=FakeEmbed(),
        search=library,
        lookup=library.lookup,
        similarity=Similarity(TREE),
        limits=Limits(min_words=4, max_words=60),
        how={"mode": "hybrid", "k": 4, "depth": 10, "rrf_k": 60},
        policy=Policy(window=4, retry_first=0.001, retry_longest=0.001),
    )


def generator(model: str, ask: FakeGenerate) -> Generator:
    return Generator(
        name="theta3",
        model=model,
        revision="1",
        prompt="question/1",
        temperature=0.7,
        top_p=0.95,
        max_tokens=64,
        attempts=2,
        ask=ask,
    )


def to_the_point(request: Prompted) -> str:
    subject = re.search(r"We gave (\w+)", request.prompt)
    assert subject
    return f"Does {subject[1]} help forty adults in a trial?"


def beside_it(request: Prompted) -> str:
    others = [name for name in SUBJECTS if name not in request.prompt]
    return f"Does {others[request.seed % 4]} help forty adults in a trial?"


NAMES = {"champion", "candidate"}


def refusing(request: Prompted) -> str | Exception:
    return Invalid("model refused") if "trial 7." in request.prompt else to_the_point(request)


async def test_the_model_that_finds_what_the_record_is_about_scores_higher(bench):
    compared = await compare(
        RECORDS,
        champion=generator("old", FakeGenerate(beside_it)),
        candidate=generator("new", FakeGenerate(to_the_point)),
        bench=bench,
    )
    assert [one.pmid for one in compared] == [record.pmid for record in RECORDS]
    assert all(one.candidate > one.champion for one in compared)


async def test_both_are_asked_with_the_same_seeds_and_prompts(bench):
    old, new = FakeGenerate(to_the_point), FakeGenerate(to_the_point)
    compared = await compare(
        RECORDS, champion=generator("old", old), candidate=generator("new", new), bench=bench
    )
    assert all(one.candidate == one.champion for one in compared)
    asked = [sorted((one.prompt, one.seed) for one in port.requests) for port in (old, new)]
    assert asked[0] == asked[1]
    assert len({seed for _, seed in asked[0]}) == len(RECORDS)


async def test_a_rejected_question_has_no_score(bench):
    compared = await compare(
        RECORDS[:3],
        champion=generator("old", FakeGenerate(to_the_point)),
        candidate=generator("new", FakeGenerate(lambda _: "No question.")),
        bench=bench,
    )
    assert [one.candidate for one in compared] == [None] * 3
    assert None not in [one.champion for one in compared]


@pytest.mark.parametrize("refuses", ["champion", "candidate"])
async def test_a_model_whose_server_refuses_a_record_has_no_score_for_it(bench, refuses):
    models = {name: generator(name, FakeGenerate(to_the_point)) for name in NAMES}
    models[refuses] = generator(refuses, FakeGenerate(refusing))
    compared = await compare(RECORDS, **models, bench=bench)
    assert len(compared) == len(RECORDS)
    (other,) = NAMES - {refuses}
    assert [one.pmid for one in compared if getattr(one, refuses) is None] == [7]
    assert all(getattr(one, other) is not None for one in compared)


async def test_a_record_that_both_servers_refuse_is_left_out_and_all_are_told_of(bench):
    told = count()
    compared = await compare(
        RECORDS,
        **{name: generator(name, FakeGenerate(refusing)) for name in NAMES},
        bench=bench,
        told=lambda: next(told),
    )
    assert {one.pmid for one in compared} == {record.pmid for record in RECORDS} - {7}
    assert next(told) == len(RECORDS)


async def test_a_server_that_comes_back_is_waited_for(bench):
    calls = count(1)

    def shaky(request: Prompted) -> str | Exception:
        return Transient("model server away") if next(calls) % 3 else to_the_point(request)

    compared = await compare(
        RECORDS[:5],
        champion=generator("old", FakeGenerate(to_the_point)),
        candidate=generator("new", FakeGenerate(shaky)),
        bench=bench,
    )
    assert len(compared) == 5


async def test_a_server_that_stays_away_ends_it_at_the_first_record(bench):
    away = FakeGenerate(lambda _: Transient("model server away"))
    with pytest.raises(Transient, match="model server away"):
        await compare(
            RECORDS,
            champion=generator("old", FakeGenerate(to_the_point)),
            candidate=generator("new", away),
            bench=bench,
        )
    assert len(away.requests) == ATTEMPTS
