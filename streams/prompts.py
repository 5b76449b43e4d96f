"""The papers' prompts, by name and version; a row records which one made it.

A wording that changes gets a new version beside the old, never in its place.
"""

# KAILIN, Prompt 1 (Figure 9): what a question generator is asked.
_QUESTION_1 = """\
Please analyze the information in the title and context in the field of biomedical and generate a \
question for it:
Title: {title}
Context: {context}"""

QUESTION_PROMPTS = {"question/1": _QUESTION_1}

# In characters; such an abstract and its question fit in 2,048 tokens of the usual vocabularies.
LONGEST_CONTEXT = 5000


def question_prompt(name: str, *, title: str, abstract: str) -> str:
    """The text that asks for a question about one record; raises KeyError for an unknown name.

    A longer abstract than `LONGEST_CONTEXT` characters is cut after a word.
    """
    context = abstract
    if len(context) > LONGEST_CONTEXT:
        context = context[: LONGEST_CONTEXT + 1].rsplit(None, 1)[0]
    # One pass over the template: braces in a record's own text stay as they are.
    return QUESTION_PROMPTS[name].format(title=title, context=context[:LONGEST_CONTEXT])
