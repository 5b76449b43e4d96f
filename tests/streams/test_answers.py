"""Answers are read strictly: one option, first and alone, or a reason why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.answers import OPTIONS, Reading, read_answer
from streams.prompts import ANSWER_PROMPTS

SHORT, LONG = "answer/1", "answer-long/1"

options = st.sampled_from(OPTIONS)
cased = options.flatmap(lambda o: st.sampled_from([o, o.upper(), o.capitalize()]))


@pytest.mark.parametrize(
    ("raw", "decision"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        (" MAYBE!\n", "maybe"),
        ('"Yes"', "yes"),
        ("**No**", "no"),
        ("「Maybe」", "maybe"),
        ("(yes)", "yes"),
        ("Answer: yes", "yes"),
        ("**Answer:** No.", "no"),
        ("The final answer is maybe.", "maybe"),
        ("Answer: **Yes**", "yes"),
        ("Yes, since aggregation fell by half.", "yes"),
        ("Yes\n\nAggregation fell by half.", "yes"),
        ("Yes - aggregation fell.", "yes"),
        ("No, no such effect was found.", "no"),
    ],
)
def test_one_option_that_comes_first_is_the_answer(raw, decision):
    assert read_answer(raw, prompt=SHORT) == Reading(decision=decision)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty"),
        ("  **  ", "empty"),
        ("Answer:", "empty"),
        ("Aspirin lowers aggregation.", "no option"),
        ("No significant difference was found.", "no option"),
        ("Nobody knows.", "no option"),
        ("Yes-like", "no option"),
        ("Yesterday", "no option"),
        ("It depends: yes", "no option"),
        ("y", "no option"),
        ("Yes / No / Maybe", "several options"),
        ("yes or no", "several options"),
        ("Yes. No.", "several options"),
        ("Yes, there is no doubt.", "several options"),
        ("Maybe\nYes", "several options"),
    ],
)
def test_anything_else_is_none_and_says_why(raw, reason):
    assert read_answer(raw, prompt=SHORT) == Reading(rejected=reason)


@pytest.mark.parametrize("raw", ["no", "No", "Answer: no"])
def test_a_word_cut_at_the_token_limit_may_be_half_of_another(raw):
    assert read_answer(raw, prompt=SHORT, finished=False).rejected == "no end in the token limit"


@pytest.mark.parametrize("raw", ["no\n", "No.", "No, since in this tri"])
def test_a_word_that_ended_before_the_token_limit_is_whole(raw):
    assert read_answer(raw, prompt=SHORT, finished=False).decision == "no"


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        ("Yes\nAggregation fell by half.", "Aggregation fell by half."),
        ("**Yes**\n\nThere was no bleeding.", "There was no bleeding."),
        ("Yes. There was no bleeding, yes.", "There was no bleeding, yes."),
        ("Answer: Yes\n- It fell.", "It fell."),
    ],
)
def test_reasons_that_were_asked_for_are_kept_and_may_hold_any_word(raw, reasons):
    assert read_answer(raw, prompt=LONG) == Reading(decision="yes", long=reasons)


@pytest.mark.parametrize(
    ("raw", "finished", "reason"),
    [
        ("Yes", True, "no explanation"),
        ("Yes.", True, "no explanation"),
        ("Yes", False, "no end in the token limit"),
        ("Yes\nAggregation fell by", False, "no end in the token limit"),
        ("Yes\nNo\nMaybe", True, "several options"),
        ("Yes, no, it is open.", True, "several options"),
        ("Yes / No", True, "several options"),
        ("No difference was found.", True, "no option"),
    ],
)
def test_reasons_that_are_missing_cut_or_of_another_option_are_none(raw, finished, reason):
    assert read_answer(raw, prompt=LONG, finished=finished) == Reading(rejected=reason)


@given(st.text() | st.lists(options | st.text(max_size=3)).map(" ".join), st.booleans())
def test_any_text_is_a_decision_or_a_rejection(raw, finished):
    for prompt in ANSWER_PROMPTS:
        reading = read_answer(raw, prompt=prompt, finished=finished)
        assert (reading.decision is None) != (reading.rejected is None)
        assert reading.long is None or reading.decision


@given(
    cased,
    st.sampled_from(["", "Answer: ", "Final answer: ", "**", '"', " \n", "> "]),
    st.sampled_from(["", ".", "!", "**", '"', "\n", ", I think.", ". It is so."]),
)
def test_an_option_is_read_whatever_is_around_it(option, before, after):
    assert read_answer(before + option + after, prompt=SHORT).decision == option.lower()


@given(cased, st.text(st.characters(categories=["L", "Z", "P"]), max_size=20), cased)
def test_two_options_are_never_an_answer_of_one(first, between, second):
    reading = read_answer(f"{first} {between} {second}", prompt=SHORT)
    assert reading.decision is None or first.lower() == second.lower()
