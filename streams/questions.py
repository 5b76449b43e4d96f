"""From a model's raw answer to a question worth keeping, or the reason why it is not."""

import re
from dataclasses import dataclass

from streams.output_filter import unfit

NO_END = "no end in the token limit"

# Characters of a word on the average, beyond which a question is none.
_LONG_WORDS = 20
_LABEL = re.compile(r"^.{0,80}?\bquestion\b[^:?]{0,80}:\s*", re.IGNORECASE)
_LIST_MARK = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+")
_QUOTES = "\"'“”‘’«»`*_ \t"
_WORD = re.compile(r"\w+")
_UNNAMED_STUDY = re.compile(
    r"\b(?:the|this|these|that|present|current|given|above)\s+"
    r"(?:(?:present|current|given|above|following|provided|aforementioned)\s+)?"
    r"(?:study|studies|paper|article|abstract|authors?|researchers|investigators|text|passage|"
    r"context|title|document|report|manuscript)\b(?!\s+of\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Lengths of a question, in words."""

    min_words: int = 4
    max_words: int = 60


def extract(raw: str) -> str:
    """The question in a model's answer: the first line that asks one, without label and quotes.

    Where no line holds a question mark the first line is returned, for `rejection` to name why.
    """
    lines = [line.strip() for line in raw.splitlines() if line.strip()]
    asking = next((line for line in lines if "?" in line), lines[0] if lines else "")
    if "?" in asking:
        asking = asking[: asking.rindex("?") + 1]
    asking = _LIST_MARK.sub("", asking.strip(_QUOTES))
    return " ".join(_LABEL.sub("", asking).strip(_QUOTES).split())


def rejection(question: str, *, title: str, finished: bool, limits: Limits) -> str | None:
    """Why `question` is not kept, as a fixed phrase, or None where it is.

    `finished` is False when the model was cut at its token limit; a question that had ended by
    then is kept all the same.
    """
    if not question:
        return "empty" if finished else NO_END
    if not question.endswith("?"):
        return "not a question" if finished else NO_END
    words = _words(question)
    if len(words) < limits.min_words:
        return "too short"
    if len(words) > limits.max_words or len(question) > _LONG_WORDS * limits.max_words:
        return "too long"
    if reason := unfit(question):
        return reason
    if _copies(words, _words(title)):
        return "copied title"
    if _UNNAMED_STUDY.search(question):
        return "refers to an unnamed study"
    return None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _copies(question: list[str], title: list[str]) -> bool:
    """Whether the title stands in the question with at most three words around it."""
    if not title or len(question) > len(title) + 3:
        return False
    return any(
        question[start : start + len(title)] == title
        for start in range(len(question) - len(title) + 1)
    )
