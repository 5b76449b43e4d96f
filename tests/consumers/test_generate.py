"""Questions from every generator; rejected ones are asked for again with another seed."""

import asyncio
from collections.abc import Callable

import pytest

from consumers.generate import Generator, generate, not_asked, withheld
from consumers.ports import Completion, Prompted
from fakes import records as example
from streams.citation import RETRACTED_PUBLICATION, Correction
from streams.errors import Transient
from streams.questions import Limits

ERRATUM = Correction(kind="ErratumIn", pmid=9, source="J Ex. 2026;1:2")
GOOD = "Does aspirin lower platelet aggregation in adults?"


def scripted(*answers: str | Completion | Exception) -> tuple[Callable, list[Prompted]]:
    """A model that gives these answers in turn, and what it was asked."""
    asked: list[Prompted] = []

    async def ask(request: Prompted) -> Completion:
        answer = answers[len(asked)]
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return answer
        return Completion(text=answer, finished=True, prompt_tokens=100, completion_tokens=10)

    return ask, asked


def generator(name: str, ask: Callable, **changes) -> Generator:
    settings = {
        "name": name,
        "model": "smollm2",
        "revision": "base",
        "prompt": "question/1",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
        "attempts": 3,
    }
    return Generator(**{**settings, **changes}, ask=ask)


async def asked_of(*generators: Generator, article=None):
    return await generate(
        article or example.article(), role="preference", generators=generators, limits=Limits()
    )


async def test_each_generator_writes_a_candidate_with_its_provenance():
    one, one_asked = scripted(GOOD)
    two, _ = scripted("Is cyclooxygenase blocked by aspirin in platelets?")
    questions = await asked_of(generator("theta1", one), generator("theta2", two, model="mistral"))
    assert [c.question for c in questions.candidates] == [
        GOOD,
        "Is cyclooxygenase blocked by aspirin in platelets?",
    ]
    assert [c.model for c in questions.candidates] == ["smollm2", "mistral"]
    first = questions.candidates[0]
    assert (first.attempts, first.rejected, first.seed) == (1, None, one_asked[0].seed)
    assert example.article().title in one_asked[0].prompt
    assert "RESULTS: Aggregation fell by half" in one_asked[0].prompt


async def test_what_the_later_stages_need_of_the_article_rides_along():
    ask, _ = scripted(GOOD)
    article = example.article(77)
    source = (await asked_of(generator("theta1", ask), article=article)).source
    assert source == example.source(77)


async def test_a_rejected_question_is_asked_for_again_with_another_seed():
    ask, asked = scripted("Aspirin works.", "Why?", GOOD)
    (candidate,) = (await asked_of(generator("theta1", ask))).candidates
    assert candidate.question == GOOD
    assert candidate.attempts == 3
    assert len({request.seed for request in asked}) == 3
    assert (candidate.prompt_tokens, candidate.completion_tokens) == (300, 30)


async def test_after_the_last_attempt_the_candidate_is_recorded_as_rejected():
    cut = Completion(text="Does it", finished=False, prompt_tokens=1, completion_tokens=32)
    ask, asked = scripted("Aspirin works.", cut)
    (candidate,) = (await asked_of(generator("theta1", ask, attempts=2))).candidates
    assert len(asked) == 2
    assert (candidate.question, candidate.rejected) == (None, "no end in the token limit")


async def test_reprocessing_repeats_ids_and_seeds():
    runs = []
    for _ in range(2):
        ask, _ = scripted("Aspirin works.", GOOD)
        runs.append(await asked_of(generator("theta1", ask)))
    assert runs[0] == runs[1]


async def test_the_id_changes_with_the_generators_revision():
    ids = set()
    for revision in ("base", "dpo-1"):
        ask, _ = scripted(GOOD)
        ids.add((await asked_of(generator("theta1", ask, revision=revision))).id)
    assert len(ids) == 2


async def test_a_record_that_comes_back_with_its_mesh_is_another():
    ids = set()
    for mesh in ((), example.article().mesh):
        ask, _ = scripted(GOOD)
        ids.add((await asked_of(generator("theta1", ask), article=example.article(mesh=mesh))).id)
    assert len(ids) == 2


async def test_a_model_that_is_away_is_the_callers_to_retry():
    ask, _ = scripted(Transient("model away"))
    with pytest.raises(Transient):
        await asked_of(generator("theta1", ask))


async def test_no_generator_is_asked_on_for_a_record_that_another_fails():
    cancelled = asyncio.Event()

    async def endless(request: Prompted) -> Completion:
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    away, _ = scripted(Transient("model away"))
    with pytest.raises(Transient):
        await asked_of(generator("theta1", endless), generator("theta2", away))
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"corpus": True}, "corpus"),
        ({"sections": ()}, "no abstract"),
        ({"title": " "}, "no title"),
        ({"change": "text"}, None),
        ({"change": "mesh"}, "MeSH changed"),
        ({"change": "other"}, "other metadata changed"),
        ({"change": "reinstated"}, "reinstated"),
        ({"publication_types": (RETRACTED_PUBLICATION,)}, "retracted"),
        ({"corrections": (ERRATUM,)}, "erratum"),
        ({"corrections": (ERRATUM,), "change": "other"}, "other metadata changed"),
        ({"corrections": (ERRATUM,), "sections": ()}, "no abstract"),
        ({"corrections": (ERRATUM,), "corpus": True}, "corpus"),
    ],
)
def test_records_that_are_not_asked_about_have_a_reason(changes, reason):
    assert not_asked(example.article(**changes)) == reason


def test_what_stands_in_for_questions_says_why_there_are_none():
    article = example.article(1001, corrections=(ERRATUM,))
    questions = withheld(article, role="preference")
    assert questions.candidates == ()
    assert questions.source == example.source(1001, withheld="erratum")


async def test_it_is_another_record_than_that_of_the_questions():
    ask, _ = scripted(GOOD)
    asked = await asked_of(generator("theta1", ask))
    assert withheld(example.article(), role="preference").id != asked.id
