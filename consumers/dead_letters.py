"""What every stage does with a message that it can never use: a dead letter, up to a limit.

A few damaged messages are set aside and the stream goes on. Many in a short time mean that the
stage itself is broken, and it must stop before it drains its topic into the dead letters.
"""

import base64
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

import orjson
from pydantic import TypeAdapter, ValidationError

from streams.citation import Int64
from streams.codec import encode
from streams.errors import Invalid
from streams.records import Cause, DeadLetter
from streams.topics import DEAD_LETTERS

# What is kept of the parts other than the value; they are small unless someone made them large.
DETAIL = 10_000
STACK = 20_000
PART = 64 << 10
# The same for all headers together, as JSON.
HEADERS = 96 << 10
# The envelope that Kafka puts round a message, generously.
ENVELOPE = 4 << 10
# The header of a message that was put back. One that is larger is none of ours.
REPLAY = "kailin-replay"
REPLAY_SIZE = 4 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """That a message was put back on its topic, for the `times`th time, and for which stage.

    The stage is that of the `first` cause; the others that read the topic have had the message.
    """

    first: Cause
    times: Int64


@cache
def _replays() -> TypeAdapter[Replay]:
    return TypeAdapter(Replay)


def replay_header(replay: Replay) -> tuple[str, bytes]:
    """The header that says so."""
    return REPLAY, orjson.dumps(replay)


def replayed(headers: Sequence[tuple[str, bytes | None]]) -> Replay | None:
    """What the headers of a message say of its being put back; None where they say nothing."""
    for name, value in headers:
        if name == REPLAY and value and len(value) <= REPLAY_SIZE:
            try:
                return _replays().validate_json(value, strict=True)
            except ValidationError:
                return None
    return None


def dead_letter(
    error: Exception,
    *,
    stage: str,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    at: datetime,
) -> DeadLetter:
    """The dead letter of one message of `topic`, for `error`; key, value, headers in base64.

    The whole always fits a message of the dead letters topic: what has to be cut for that is
    named, with its full length in bytes, in `cut` and at the end of `detail`. Of a message that
    was put back for this stage the first cause is kept.
    """
    cut: list[str] = []
    replay = replayed(headers)
    mine = replay if replay and replay.first.stage == stage else None
    letter = DeadLetter(
        stage=stage,
        reason=error.reason if isinstance(error, Invalid) else type(error).__name__,
        detail=_text(error.detail if isinstance(error, Invalid) else str(error))[:DETAIL],
        stack=_text("".join(traceback.format_exception(error)))[-STACK:],
        topic=topic,
        partition=partition,
        offset=offset,
        key=_base64("key", key, PART, cut),
        value=None,
        headers=_headers(headers, cut),
        first=mine.first if mine else None,
        replays=mine.times if mine else 0,
        at=at,
    )
    room = DEAD_LETTERS.max_message - len(encode(letter)) - ENVELOPE
    value_text = _base64("value", value, max(room, 0) // 4 * 3, cut)
    detail = "; ".join([letter.detail, *cut] if letter.detail else cut)
    return replace(letter, value=value_text, detail=detail, cut=tuple(cut))


class DeadLetterLimit:
    """At most `limit` dead letters in any `window` seconds."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._times: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Whether one more may be written at `now` (seconds of any clock that never goes back).

        False means that the stage must stop.
        """
        while self._times and self._times[0] <= now - self.window:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True


def _base64(name: str, data: bytes | None, room: int, cut: list[str]) -> str | None:
    if data is None:
        return None
    if len(data) > room:
        cut.append(f"{name} cut to {room} of {len(data)} bytes")
    return base64.b64encode(data[:room]).decode()


def _headers(
    headers: Sequence[tuple[str, bytes | None]], cut: list[str]
) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = []
    room = HEADERS
    for name, data in headers:
        header = _text(name), base64.b64encode(data or b"").decode()
        # As JSON, with the comma after it: a header without a name or value takes room as well.
        room -= len(orjson.dumps(header)) + 1
        if room < 0:
            cut.append(f"{len(kept)} of {len(headers)} headers kept")
            break
        kept.append(header)
    return tuple(kept)


def _text(text: str) -> str:
    """`text` as UTF-8 can carry it: a decoding error may quote lone surrogates."""
    return text.encode(errors="backslashreplace").decode()
