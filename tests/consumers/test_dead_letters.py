"""Dead letters keep the message byte for byte, fit their topic, and are limited."""

import base64
from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumers.dead_letters import (
    DeadLetterLimit,
    Replay,
    dead_letter,
    replay_header,
    replayed,
)
from consumers.delivery import key_and_value
from streams.codec import decode, encode
from streams.errors import Invalid
from streams.records import Cause, DeadLetter
from streams.topics import DEAD_LETTERS

AT = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)
WHERE = {"stage": "score", "topic": "contexts", "partition": 2, "offset": 17, "at": AT}


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@given(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.text(), st.binary())),
    st.text(st.characters()),
)
def test_a_message_is_kept_byte_for_byte(key, value, headers, detail):
    letter = dead_letter(
        raised(Invalid("field", detail)), **WHERE, key=key, value=value, headers=headers
    )
    read = decode(DeadLetter, encode(letter))
    assert read == letter
    assert (None if read.key is None else base64.b64decode(read.key)) == key
    assert (None if read.value is None else base64.b64decode(read.value)) == value
    assert [base64.b64decode(data) for _, data in read.headers] == [data for _, data in headers]


def test_the_reason_is_that_of_the_error():
    letter = dead_letter(
        raised(Invalid("not JSON", "line 1")), **WHERE, key=b"7", value=b"{", headers=()
    )
    assert (letter.reason, letter.detail) == ("not JSON", "line 1")
    assert "Invalid: not JSON: line 1" in letter.stack
    assert (letter.stage, letter.topic, letter.partition, letter.offset) == (
        "score",
        "contexts",
        2,
        17,
    )


def test_an_error_that_quotes_half_a_character_can_be_written():
    letter = dead_letter(ValueError("\ud800"), **WHERE, key=None, value=None, headers=())
    assert decode(DeadLetter, encode(letter)).detail == "\\ud800"
    assert letter.reason == "ValueError"


def test_what_does_not_fit_the_topic_is_cut_and_said_so():
    value = bytes(range(256)) * (DEAD_LETTERS.max_message // 256)
    letter = dead_letter(
        raised(Invalid("field", "x" * 50_000)),
        **WHERE,
        key=b"k" * 500_000,
        value=value,
        headers=[("h", b"v" * 100_000)],
    )
    assert 0.9 * DEAD_LETTERS.max_message < len(encode(letter)) < DEAD_LETTERS.max_message
    assert letter.value is not None
    kept = base64.b64decode(letter.value)
    assert value.startswith(kept)
    assert f"value cut to {len(kept)} of {len(value)} bytes" in letter.detail
    assert "key cut to 65536 of 500000 bytes" in letter.detail
    assert "0 of 1 headers kept" in letter.detail
    assert letter.detail.endswith("; ".join(letter.cut))
    assert len(letter.cut) == 3


@given(
    key=st.none() | st.integers(0, 3 << 20).map(lambda size: b"k" * size),
    value=st.none() | st.integers(0, 3 << 20).map(lambda size: b"v" * size),
    name=st.sampled_from(["", "h", "\0" * 20, "\U0001f600" * 20]),
    data=st.sampled_from([None, b"", b"d", b"d" * 100]),
    count=st.sampled_from([0, 1, 1_000, 400_000]),
    text=st.sampled_from(["", "\0" * 50_000, "\U0001f600" * 50_000, "\ud800" * 50_000]),
)
@example(key=None, value=b"v" * (1 << 20), name="", data=None, count=400_000, text="")
@settings(max_examples=40, deadline=None)
def test_a_letter_always_fits_its_topic(key, value, name, data, count, text):
    letter = dead_letter(
        raised(Invalid("field", text)),
        **WHERE,
        key=key,
        value=value,
        headers=[(name, data)] * count,
    )
    key_and_value(DEAD_LETTERS, letter, "dead.letters")
    if len(letter.headers) < count:
        assert f"{len(letter.headers)} of {count} headers kept" in letter.detail


def test_the_limit_counts_within_its_window():
    limit = DeadLetterLimit(3, window=60)
    assert [limit.admit(now) for now in (0, 10, 20)] == [True] * 3
    assert not limit.admit(59)
    assert limit.admit(60)
    assert not limit.admit(69)
    assert limit.admit(70)


def replayed_for(stage: str, reason: str = "model refused") -> tuple[str, bytes]:
    first = Cause(stage=stage, reason=reason, topic="contexts", partition=2, offset=3, at=AT)
    return replay_header(Replay(first=first, times=2))


def test_one_that_was_put_back_keeps_its_first_cause():
    header = replayed_for("score")
    letter = dead_letter(Invalid("field"), **WHERE, key=b"7", value=b"{", headers=[header])
    assert letter.replays == 2
    assert letter.first == Cause(
        stage="score", reason="model refused", topic="contexts", partition=2, offset=3, at=AT
    )
    assert decode(DeadLetter, encode(letter)) == letter


def test_what_was_put_back_for_another_stage_begins_anew():
    header = replayed_for("prefer")
    letter = dead_letter(Invalid("field"), **WHERE, key=b"7", value=b"{", headers=[header])
    assert (letter.first, letter.replays) == (None, 0)


@given(st.binary(max_size=300))
def test_a_header_that_is_not_ours_says_nothing(value):
    assert replayed([("kailin-replay", value)]) is None


def test_a_header_as_large_as_a_message_says_nothing():
    header = replayed_for("score", reason="x" * 1_000_000)
    letter = dead_letter(Invalid("field"), **WHERE, key=b"7", value=b"{", headers=[header])
    assert letter.first is None
    key_and_value(DEAD_LETTERS, letter, "dead.letters")
