"""The gate, who answers, and what becomes of an answer that cannot be read."""

from collections import Counter
from dataclasses import replace

import pytest

from consumers.answer import Answerer, answer, chosen
from consumers.ports import Completion
from fakes import records as example
from fakes.generate import FakeGenerate
from streams.errors import Invalid, Transient
from streams.records import Alignment, Alignments, Ideal


def answerer(ask: FakeGenerate, **changes) -> Answerer:
    usual = {
        "name": "teacher",
        "model": "teacher-70b",
        "revision": "base",
        "prompt": "answer/1",
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 200,
        "attempts": 3,
        "share": 1.0,
    }
    return Answerer(**{**usual, **changes}, ask=ask)


def aligned(alignment: Alignment | None = None, **changes) -> Alignments:
    held = (alignment or example.alignment("theta3", 0.6),)
    return example.alignments(**{"role": "ideal", "alignments": held, **changes})


async def answered(*answerers: Answerer, of: Alignments | None = None, floor: float = 0.2) -> Ideal:
    ideal = await answer(of or aligned(), floor=floor, answerers=answerers)
    assert ideal
    return ideal


async def test_a_question_that_passes_is_answered_from_its_context():
    model = FakeGenerate(["Yes."])
    taken = aligned(edition="2025", frequency="kailin")
    ideal = await answered(answerer(model), of=taken)
    assert (ideal.outcome, ideal.reason, ideal.floor) == ("ideal", None, 0.2)
    assert (ideal.id, ideal.source, ideal.alignments) == (taken.id, taken.source, taken.alignments)
    assert (ideal.edition, ideal.frequency) == ("2025", "kailin")
    assert ideal.answer
    assert (ideal.answer.decision, ideal.answer.long, ideal.answer.attempts) == ("yes", None, 1)
    (request,) = model.requests
    assert (ideal.answer.seed, ideal.answer.model) == (request.seed, request.model)
    retrieval = taken.alignments[0].retrieval
    assert retrieval.candidate.question in request.prompt
    assert all(
        p.title in request.prompt and p.abstract in request.prompt for p in retrieval.passages
    )
    # The answer is to come from the context, never from the record itself.
    assert taken.source.abstract not in request.prompt


async def test_what_was_compared_is_not_its_business():
    assert await answer(example.alignments(), floor=0.2, answerers=()) is None


@pytest.mark.parametrize(
    ("score", "outcome"), [(0.19999, "below the gate"), (0.2, "ideal"), (1.0, "ideal")]
)
async def test_the_gate_is_the_least_alignment_that_passes(score, outcome):
    model = FakeGenerate(["yes"])
    ideal = await answered(answerer(model), of=aligned(example.alignment("theta3", score)))
    assert ideal.outcome == outcome
    assert (ideal.answer is None) == (outcome != "ideal") == (model.requests == [])
    assert ideal.reason == (None if outcome == "ideal" else "low alignment")


@pytest.mark.parametrize(
    "reason", ["record without MeSH", "unknown descriptors", "candidate rejected"]
)
async def test_what_has_no_score_is_unscorable_for_that_reason_and_not_answered(reason):
    model = FakeGenerate([])
    of = aligned(example.unscored("theta3", reason))
    ideal = await answered(answerer(model), of=of, floor=0.0)
    assert (ideal.outcome, ideal.reason, ideal.answer) == ("unscorable", reason, None)
    assert ideal.alignments == of.alignments


async def test_what_was_withheld_has_the_reason_of_its_record():
    of = aligned(source=example.source(withheld="erratum"), alignments=())
    ideal = await answered(of=of)
    assert (ideal.outcome, ideal.reason, ideal.alignments) == ("unscorable", "erratum", ())


async def test_without_an_answerer_a_row_has_no_answer():
    ideal = await answered()
    assert (ideal.outcome, ideal.answer) == ("ideal", None)


async def test_an_answer_that_was_paid_for_is_not_asked_for_again():
    model = FakeGenerate([])
    kept = example.answer(decision="maybe")
    assert (await answered(answerer(model), of=aligned(answer=kept))).answer == kept


async def test_an_answer_that_cannot_be_read_is_asked_for_again_with_another_seed():
    model = FakeGenerate(["It depends.", "Yes or no", "Maybe"])
    ideal = await answered(answerer(model))
    assert ideal.answer
    assert (ideal.answer.decision, ideal.answer.attempts) == ("maybe", 3)
    assert len({request.seed for request in model.requests}) == 3
    assert ideal.answer.prompt_tokens == sum(len(r.prompt.split()) for r in model.requests)
    assert ideal.answer.completion_tokens == 2 + 3 + 1


async def test_after_the_last_attempt_the_row_is_there_with_the_reason():
    model = FakeGenerate(["It depends."] * 3)
    ideal = await answered(answerer(model))
    assert ideal.answer
    assert (ideal.outcome, ideal.reason) == ("ideal", None)
    assert (ideal.answer.decision, ideal.answer.rejected) == (None, "no option")


async def test_reasons_are_kept_where_the_prompt_asks_for_them():
    model = FakeGenerate(["Yes\nAggregation fell by half."])
    ideal = await answered(answerer(model, prompt="answer-long/1"))
    assert ideal.answer
    assert (ideal.answer.decision, ideal.answer.long) == ("yes", "Aggregation fell by half.")
    assert ideal.answer.prompt == "answer-long/1"


async def test_an_answer_cut_in_its_reasons_is_none():
    cut = Completion(text="Yes\nAggr", finished=False, prompt_tokens=9, completion_tokens=16)
    ideal = await answered(answerer(FakeGenerate([cut] * 3), prompt="answer-long/1"))
    assert ideal.answer
    assert ideal.answer.rejected == "no end in the token limit"


@pytest.mark.parametrize("error", [Transient("budget spent"), Invalid("model refused")])
async def test_what_the_port_raises_is_the_callers_to_settle(error):
    with pytest.raises(type(error)):
        await answered(answerer(FakeGenerate([error])))


async def test_reprocessing_asks_the_same_of_the_same_model():
    runs = []
    for _ in range(2):
        models = {name: FakeGenerate(["No"]) for name in ("one", "two")}
        await answered(*(answerer(ask, name=name) for name, ask in models.items()))
        runs.append({name: model.requests for name, model in models.items()})
    assert runs[0] == runs[1]


def test_questions_are_shared_by_weight_and_by_nothing_but_the_id():
    one = answerer(FakeGenerate([]), name="one", share=3.0)
    two = answerer(FakeGenerate([]), name="two", share=1.0)
    taken = Counter(chosen([one, two], f"{n:032x}").name for n in range(4000))
    assert 2880 < taken["one"] < 3120
    alone = replace(one, share=0.001)
    assert all(chosen([alone], f"{n:032x}") is alone for n in range(100))
