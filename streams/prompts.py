"""The papers' prompts, by name and version; a row records which one made it.

A wording that changes gets a new version beside the old, never in its place.

What a record says stands between the prompt's own words and is none of them: see `_said`.
"""

import re
from collections.abc import Sequence

from streams.injection import inert, starting
from streams.records import Passage

# KAILIN, Prompt 1 (Figure 9): what a question generator is asked.
_QUESTION_1 = """\
Please analyze the information in the title and context in the field of biomedical and generate a \
question for it:
Title: {title}
Context: {context}"""

QUESTION_PROMPTS = {"question/1": _QUESTION_1}

# KAILIN, Figure 3: what a static model θS is asked, and what PubMedQA is answered with.
_ANSWER_1 = """\
Your task is to evaluate a scientific question in the biomedical field based on the provided \
context:
{question}, {context}.
After analyzing the information, you must select one option from Yes / No / Maybe
Your response should only consist of the chosen option, with no additional explanation or \
reasoning."""

# The same, with the reasons that the paper's prompt forbids.
_ANSWER_LONG_1 = """\
Your task is to evaluate a scientific question in the biomedical field based on the provided \
context:
{question}, {context}.
After analyzing the information, you must select one option from Yes / No / Maybe
Your response should begin with the chosen option, alone on the first line, followed by the \
conclusion that supports it in a few sentences."""

ANSWER_PROMPTS = {"answer/1": _ANSWER_1, "answer-long/1": _ANSWER_LONG_1}

# KAILIN, Figure 4: a text of continued pre-training.
_PRETRAINING_1 = """\
To address the challenges for biomedical field, I reviewed the paper titled: {title}: {abstract}
Motivated by this study, I conducted a literature review to gather additional resources and \
contextualize its findings. During this process, I identified the following key materials: \
{context}.
Reflecting on these insights, I formulated the following research question: {question}"""

PRETRAINING_PROMPTS = {"pretraining/1": _PRETRAINING_1}

TEMPLATES = (*QUESTION_PROMPTS.values(), *ANSWER_PROMPTS.values(), *PRETRAINING_PROMPTS.values())

# What the lines of the prompts start with, up to the first thing that is put in.
_OPENINGS = {line.partition("{")[0].rstrip() for prompt in TEMPLATES for line in prompt.split("\n")}
_OWN_LINE = starting("|".join(sorted(re.escape(opening) for opening in _OPENINGS if opening)))

# In characters; such an abstract and its question fit in 2,048 tokens of the usual vocabularies.
LONGEST_CONTEXT = 5000


def question_prompt(name: str, *, title: str, abstract: str) -> str:
    """The text that asks for a question about one record; raises KeyError for an unknown name.

    A longer abstract than `LONGEST_CONTEXT` characters is cut after a word.
    """
    # One pass over the template: braces in a record's own text stay as they are.
    return QUESTION_PROMPTS[name].format(
        title=_said(title), context=cut(_said(abstract), LONGEST_CONTEXT)
    )


def answer_prompt(name: str, *, question: str, context: str) -> str:
    """The text that asks to answer a question given a context; raises KeyError for an unknown name.

    Without a context, the question stands alone (PubMedQA's question-only setting).
    """
    asked = ANSWER_PROMPTS[name]
    if not context:
        asked = asked.replace("{question}, {context}", "{question}")
    # A question starts a line of the prompt, which must not look like another of its lines.
    told = _said(f"\n{question}")
    told = told.removeprefix("\n") if told.startswith("\n") else f"…{told}"
    return asked.format(question=told, context=_said(context))


def pretraining_text(name: str, *, title: str, abstract: str, context: str, question: str) -> str:
    """One text of continued pre-training; raises KeyError for an unknown name."""
    told = {"title": title, "abstract": abstract, "context": context, "question": question}
    return PRETRAINING_PROMPTS[name].format(**{of: _said(text) for of, text in told.items()})


def context_text(passages: Sequence[Passage], longest: int = LONGEST_CONTEXT) -> str:
    """The passages c as one text, best first, titles before abstracts.

    Each has an equal part of `longest` characters, and is cut after a word.
    """
    share = longest // max(1, len(passages))
    return "\n\n".join(cut(f"{p.title} {p.abstract}".strip(), share) for p in passages)


def _said(text: str) -> str:
    """What a record says, so that it neither starts one of the prompts' lines nor takes a turn."""
    return _OWN_LINE.sub(" ", inert(text))


def cut(text: str, longest: int) -> str:
    """`text`, cut after a word where it is longer than so many characters."""
    if len(text) <= longest:
        return text
    return text[: longest + 1].rsplit(None, 1)[0][:longest]
