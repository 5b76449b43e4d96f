"""A record's text is data: put beside instructions, it must not be read as one of them.

Anyone may write a record. A chat template puts its text between marks that tokenizers know by
their spelling alone, so that a text which spells them ends its turn and begins another's.
"""

import re

# An angle bracket that opens such a mark: <|im_start|>, </s>, <start_of_turn>, <<SYS>>; DeepSeek's
# have full-width bars, and some tokenizers make full-width brackets plain ones.
_BRACKET = r"[<＜﹤](?=[|｜]|/?[A-Za-z_][\w.:-]*[>＞﹥])"
# Square brackets are common in prose, so their marks are listed.
_SQUARE = (
    r"\[(?=/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|"
    r"THINK|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX|ARGS|CALL_ID|[gs]?MASK|CLS|SEP|PAD|UNK)\])"
)
_MARK = re.compile(f"{_BRACKET}|{_SQUARE}")

_BREAK = r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]"
# How models without such marks are told whose turn it is.
_TURN = r"(?:system|user|assistant|human)[ \t]*:|#{2,}[ \t]*(?:instruction|input|response|system)"


def starting(openings: str) -> re.Pattern[str]:
    """Finds where a further line of a text starts with `openings`, its line break included."""
    return re.compile(rf"{_BREAK}\s*(?={openings})")


_TURN_LINE = starting(f"(?i:{_TURN})")


def inert(text: str) -> str:
    """`text` with the marks of chat templates broken by a space, and no line that takes a turn.

    Such a line is joined to the one before it. Any other text stays as it is.
    """
    return _TURN_LINE.sub(" ", _MARK.sub(r"\g<0> ", text))
