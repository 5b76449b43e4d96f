"""What no answer of a model may hold that is kept: traces of its prompt, marks, addresses.

A record's text may have talked the model into them, or the model may have come to them by itself.
"""

import re

from streams.injection import inert
from streams.prompts import TEMPLATES

# So many words in a row of a prompt's own are no chance.
_IN_A_ROW = 7
_WORD = re.compile(r"\w+")
_ADDRESS = re.compile(
    r"\b(?:https?|ftp)://|\bwww\.\w|\b(?:javascript|mailto):\S|\bdata:\w+/"
    r"|\w@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}",
    re.IGNORECASE,
)
_TO_A_MODEL = re.compile(
    r"\b(?:ignor|disregard|forget|overrid)\w*\s+(?:(?:all|any|of|the|my|your|these|those)\s+)*"
    r"(?:previous|prior|above|earlier|preceding|foregoing)\s+(?:\w+\s+)?"
    r"(?:instruction|prompt|rule|direction|command)s?\b"
    r"|\bas an? (?:ai|(?:ai |large )?language model|assistant)\b|\b(?:your|my) system prompt\b",
    re.IGNORECASE,
)


def unfit(text: str) -> str | None:
    """Why a model's text is not kept, as a fixed phrase, or None where it may be."""
    # What would be changed in a prompt would be in one, or in a training text, next.
    if inert(f"\n{text}") != f"\n{text}":
        return "special token"
    if _ADDRESS.search(text):
        return "address"
    if not _PROMPTS.isdisjoint(_runs(text)):
        return "repeats the prompt"
    if _TO_A_MODEL.search(text):
        return "speaks of instructions"
    return None


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[at : at + _IN_A_ROW]) for at in range(len(words) - _IN_A_ROW + 1)}


_PROMPTS = frozenset(
    run for prompt in TEMPLATES for own in re.split(r"\{\w+\}", prompt) for run in _runs(own)
)
