"""From a model's raw answer to yes, no or maybe, or the reason why it is none of them."""

import re
from dataclasses import dataclass
from typing import cast, get_args

from streams.output_filter import unfit
from streams.questions import NO_END
from streams.records import Decision

OPTIONS: tuple[str, ...] = get_args(Decision)
NO_OPTION = "no option"
SEVERAL = "several options"
NO_REASONS = "no explanation"

# What models put around an answer: quotes, brackets, Markdown.
_WRAPPING = "\"'“”‘’«»「」`*_#>()[]{} \t\r\n"
_LABEL = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+|chosen\s+)?(?:answer|option|response)\s*"
    r"(?:[*_]*:|\bis\b\s*:?)",
    re.IGNORECASE,
)
# Spelt out, for regardless of case an s is also a long one.
_FIRST = re.compile(r"(?:[Yy][Ee][Ss]|[Nn][Oo]|[Mm][Aa][Yy][Bb][Ee])(?!\w)")
# An option is one where it stands alone: "No." and "No, since", but not "No difference".
_ALONE = re.compile(r"[\"'”’»」`*_)\]} \t\r]*(?:[.,;:!\n]|[-\u2013\u2014]\s|$)")
_WORD = re.compile(r"[^\W\d_]+")
_CLAUSE = re.compile(r"[.,;:!?/|\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an answer says: exactly one of `decision` and `rejected` is set.

    `long` is the explanation, where one was asked for; `rejected` a fixed phrase.
    """

    decision: Decision | None = None
    long: str | None = None
    rejected: str | None = None


def gives_reasons(prompt: str) -> bool:
    """Whether the answer to a prompt, named as in `ANSWER_PROMPTS`, has an explanation."""
    return prompt.startswith("answer-long/")


def read_answer(raw: str, *, prompt: str, finished: bool = True) -> Reading:
    """The option that an answer to `prompt` begins with, read strictly.

    The first word must be yes, no or maybe and stand alone, in whatever case, quotes or Markdown; a
    label like "Answer:" may go before it. No other option may follow: as a word, or, where reasons
    were asked for, as a clause of its own. `finished` is False for a text that was cut at its token
    limit, whose last word may be half of another.
    """
    text = raw.strip(_WRAPPING)
    if label := _LABEL.match(text):
        text = text[label.end() :].strip(_WRAPPING)
    first = _FIRST.match(text)
    if not text:
        return Reading(rejected="empty" if finished else NO_END)
    if not first:
        return Reading(rejected=NO_OPTION)
    option, rest = first.group().lower(), text[first.end() :]
    others = set(OPTIONS) - {option}
    said = _CLAUSE.split(rest) if gives_reasons(prompt) else _WORD.findall(rest)
    if any(part.strip(_WRAPPING).lower() in others for part in said):
        return Reading(rejected=SEVERAL)
    if not _ALONE.match(rest):
        return Reading(rejected=NO_OPTION)
    if gives_reasons(prompt):
        return _explained(cast(Decision, option), rest, finished)
    if not finished and raw.endswith(first.group()):
        return Reading(rejected=NO_END)
    return Reading(decision=cast(Decision, option))


def _explained(decision: Decision, rest: str, finished: bool) -> Reading:
    reasons = rest.lstrip(_WRAPPING + ".,;:!-\u2013\u2014")
    if not finished:
        return Reading(rejected=NO_END)
    if not reasons:
        return Reading(rejected=NO_REASONS)
    if reason := unfit(reasons):
        return Reading(rejected=reason)
    return Reading(decision=decision, long=reasons)
