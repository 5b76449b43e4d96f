"""The lines of a log: JSON for programs, text for a person, and from the first to the second.

A JSON line has `time` (ISO 8601, UTC), `level`, `stage` (or another process's name), `logger`,
`message`, and where they are known `pmid`, `topic`, `partition`, `offset` and `exception`. Neither
form carries a secret of the settings, nor more than a part of a long text: a message may quote what
a server said, and that may quote the record.
"""

import logging
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import orjson

from streams.at_hand import fields

# Characters that are kept of what a line quotes, of a message, and of a stack's frames.
QUOTED, MESSAGE, STACK = 800, 2000, 6000
# A shorter secret is left alone: its letters would be found in ordinary words.
LEAST_SECRET = 6
# What stands before the message in a line of text.
LEAD = re.compile(r"^[\d-]+[T ][\d:.,]+Z? [A-Z]+ [\w.]+: ")
SET = "***"

# Addresses may carry secrets of their own: a password before the host, a key after the path.
_PASSWORD = re.compile(r"(?<=://)[^/?#\s]*@")
_KEY = re.compile(
    r"(?<=[?&;\s])([\w.-]*(?:key|token|secret|password|passwd|signature|sig)=)[^&;#\s]+",
    re.IGNORECASE,
)

Form: TypeAlias = Literal["auto", "json", "text"]


def formatter(form: Form, stage: str, secrets: Collection[str] = ()) -> logging.Formatter:
    """Of the lines on stderr: "auto" is text on a terminal, else JSON.

    `stage` is what the lines name this process by; no line holds one of the `secrets`.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    return (TextLine if text else JsonLine)(stage, secrets)


class _Line(logging.Formatter):
    def __init__(self, stage: str, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self.stage = stage
        longest_first = sorted((s for s in secrets if len(s) >= LEAST_SECRET), key=len)[::-1]
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def clean(self, text: str, longest: int) -> str:
        """`text` without secrets, and not longer than that."""
        return cut(without_secrets(self._secrets.sub(SET, text)), longest)

    def message(self, record: logging.LogRecord) -> str:
        """What the line says; each value that was put into it is cut by itself."""
        text = str(record.msg)
        if record.args:
            values = record.args
            if isinstance(values, Mapping):
                text = text % {name: _shown(value) for name, value in values.items()}
            else:
                text = text % tuple(map(_shown, values))
        elif isinstance(record.msg, BaseException):
            text = cut(text, QUOTED)
        return self.clean(text, MESSAGE)

    def exception(self, record: logging.LogRecord) -> str | None:
        """The stack of the exception that a line is about."""
        error = record.exc_info[1] if record.exc_info else None
        return self.clean("".join(_stack(error)), MESSAGE + STACK) if error else None


class JsonLine(_Line):
    """A line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "stage": self.stage,
            "logger": record.name,
            "message": self.message(record),
            **fields(),
            "exception": self.exception(record),
        }
        known = {name: value for name, value in line.items() if value is not None}
        return orjson.dumps(known, default=str).decode()


class TextLine(_Line):
    """The same line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        return _text(
            _time(record),
            record.levelname,
            record.name,
            self.message(record),
            dict(fields()),
            self.exception(record),
        )


class _Cut:
    """A value that a line quotes, however it is asked for: %s or %r."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return cut(str(self._value), QUOTED)

    def __repr__(self) -> str:
        return cut(repr(self._value), QUOTED)


def _shown(value: object) -> object:
    """A value for a format: numbers as they are, since a format may ask for one."""
    return value if isinstance(value, int | float) else _Cut(value)


def cut(text: str, longest: int) -> str:
    """The beginning of a text, and how much is left out."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} more)"


def readable(line: str) -> str:
    """A line of a log as a person reads it; one that is not JSON of ours as it is."""
    with suppress(orjson.JSONDecodeError):
        found = orjson.loads(line)
        if isinstance(found, dict) and {"time", "level", "logger", "message"} <= found.keys():
            place = {
                name: value
                for name in ("pmid", "topic", "partition", "offset")
                if (value := found.get(name)) is not None
            }
            return _text(
                str(found["time"]),
                str(found["level"]),
                str(found["logger"]),
                str(found["message"]),
                place,
                found.get("exception"),
            )
    return line


def said(line: str) -> str:
    """The message of a line of a log, without what stands before it."""
    return LEAD.sub("", readable(line))


def without_secrets(text: str) -> str:
    """A text with the passwords and keys of the addresses in it left out."""
    return _KEY.sub(rf"\g<1>{SET}", _PASSWORD.sub(f"{SET}@", text))


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(
    time: str,
    level: str,
    logger: str,
    message: str,
    about: dict[str, str | int],
    exception: str | None,
) -> str:
    place = " ".join(f"{name}={value}" for name, value in about.items())
    line = f"{time} {level} {logger}: {message}"
    return "".join(
        (line, f" [{place}]" if place else "", f"\n{exception.rstrip()}" if exception else "")
    )


def _stack(error: BaseException) -> Iterator[str]:
    """The stack of an exception, after those of its causes, each message cut by itself."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _stack(cause)
        yield "\nand then\n\n"
    if error.__traceback__:
        frames = "".join(traceback.format_tb(error.__traceback__))
        yield f"Traceback (most recent call last):\n{frames[-STACK:]}"
    notes = "".join(f"\n{cut(note, QUOTED)}" for note in getattr(error, "__notes__", ()))
    yield f"{type(error).__qualname__}: {cut(str(error), QUOTED)}{notes}\n"
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _stack(part)
