"""Prompt 1 says what the paper says, whatever is in the record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.prompts import LONGEST_CONTEXT, question_prompt


def test_prompt_1_is_the_papers():
    assert question_prompt("question/1", title="A title", abstract="An abstract.") == (
        "Please analyze the information in the title and context in the field of biomedical and "
        "generate a question for it:\nTitle: A title\nContext: An abstract."
    )


@given(st.text("{}title context", max_size=40), st.text("{}title context", max_size=200))
def test_braces_in_a_record_are_only_text(title, abstract):
    prompt = question_prompt("question/1", title=title, abstract=abstract)
    assert prompt.endswith(f"Title: {title}\nContext: {abstract}")


@pytest.mark.parametrize("abstract", ["word " * 5000, "x" * 20_000])
def test_a_long_abstract_is_cut_after_a_word(abstract):
    context = question_prompt("question/1", title="T", abstract=abstract).split("Context: ")[1]
    assert LONGEST_CONTEXT - 5 <= len(context) <= LONGEST_CONTEXT
    assert abstract.startswith(context)
    assert context[-1] in "dx"


def test_an_unknown_prompt_is_a_key_error():
    with pytest.raises(KeyError):
        question_prompt("question/0", title="T", abstract="A")
