"""What is kept of a model's answer, and the reason given where nothing is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.questions import NO_END, Limits, extract, rejection

TITLE = "Dimerization of papain induced by mercuric chloride."
GOOD = "Does thiol attachment to papain result in a highly stable dimer?"


@pytest.mark.parametrize(
    "raw",
    [
        GOOD,
        f"  {GOOD}\n",
        f'"{GOOD}"',
        f"**{GOOD}**",
        f"Question: {GOOD}",
        f"**Question:** {GOOD}",
        f"Research question 1: {GOOD}",
        f"1. {GOOD}",
        f"- {GOOD}",
        f"Sure! Here is a question about it:\n\n{GOOD}\n\nAnswer: yes.",
        f"Here's a question: {GOOD} This asks about dimers.",
        GOOD.replace(" result", "  \t result"),
    ],
)
def test_the_question_is_found_in_the_answer(raw):
    assert extract(raw) == GOOD


def test_a_colon_inside_the_question_stays():
    question = "Which is stronger: mercuric chloride or the bifunctional mercurial?"
    assert extract(question) == question


@pytest.mark.parametrize(
    ("question", "finished", "reason"),
    [
        (GOOD, True, None),
        (GOOD, False, None),
        ("", True, "empty"),
        ("", False, NO_END),
        ("Papain dimerizes in mercuric chloride.", True, "not a question"),
        ("Does papain dimerize in the presence of", False, NO_END),
        ("Is papain stable?", True, "too short"),
        ("Does " + "very " * 60 + "long papain dimerize?", True, "too long"),
        (f"{TITLE[:-1]}?", True, "copied title"),
        (f"What about the {TITLE[:-1].lower()}?", True, "copied title"),
        ("What did the study find about papain dimers?", True, "refers to an unnamed study"),
        ("What is the aim of this paper on papain?", True, "refers to an unnamed study"),
        ("How did the present study measure papain?", True, "refers to an unnamed study"),
        ("Which enzyme do the authors describe as stable?", True, "refers to an unnamed study"),
        ("What role has papain in the study of thiol chemistry?", True, None),
        ("What did the Framingham study show about papain?", True, None),
    ],
)
def test_a_question_is_kept_or_has_a_reason(question, finished, reason):
    assert rejection(question, title=TITLE, finished=finished, limits=Limits()) == reason


def test_the_limits_are_in_words_and_inclusive():
    limits = Limits(min_words=3, max_words=5)
    for words, reason in ((2, "too short"), (3, None), (5, None), (6, "too long")):
        question = " ".join(["papain"] * words) + "?"
        assert rejection(question, title=TITLE, finished=True, limits=limits) == reason


@given(st.text(), st.text(), st.booleans())
def test_any_answer_is_kept_as_a_question_or_rejected(raw, title, finished):
    question = extract(raw)
    assert "\n" not in question
    if rejection(question, title=title, finished=finished, limits=Limits()) is None:
        assert question.endswith("?")
