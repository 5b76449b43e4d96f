"""Dead letters of a backup find their message again, and stand in the way of no new one."""

from array import array
from datetime import UTC, datetime

import pytest

from infra.restored_letters import OUT_OF_THE_WAY, renumbered
from infra.settings import Settings
from streams.codec import decode, encode
from streams.operations import Settled
from streams.records import DeadLetter
from streams.topics import ARTICLES, DEAD_LETTERS, QUESTIONS, SETTLED

AT = datetime(2026, 3, 7, tzinfo=UTC)
SETTINGS = Settings(kafka={"prefix": "new."})
# Of what was in partition 2, this is left, in this order.
BEFORE = {ARTICLES.name: {2: array("q", [3, 7, 9])}}


def letter(topic: str, offset: int) -> DeadLetter:
    return DeadLetter(
        stage="generate",
        reason="json",
        detail="",
        stack="",
        topic=f"old.{topic}",
        partition=2,
        offset=offset,
        key=None,
        value=None,
        headers=(),
        at=AT,
    )


def restored(record: DeadLetter | Settled) -> tuple[bytes, DeadLetter | Settled]:
    topic = DEAD_LETTERS if isinstance(record, DeadLetter) else SETTLED
    key, value = renumbered(SETTINGS, topic, "old.", BEFORE, topic.key(record), encode(record))
    return key, decode(type(record), value)


@pytest.mark.parametrize(("offset", "now"), [(3, 0), (7, 1), (9, 2)])
def test_a_letter_about_an_article_gets_the_offset_that_it_has_now(offset: int, now: int):
    key, found = restored(letter(ARTICLES.name, offset))
    assert (found.topic, found.partition, found.offset) == ("new.pubmed.articles", 2, now)
    assert key == DEAD_LETTERS.key(found)


def test_another_letter_and_what_was_done_about_it_stay_together_and_out_of_the_way():
    _, found = restored(letter(QUESTIONS.name, 5))
    settled = Settled(
        stage="generate",
        topic=f"old.{QUESTIONS.name}",
        partition=2,
        offset=5,
        letter=AT,
        how="dropped",
        who="a test",
        why="of no use",
        times=0,
        at=AT,
    )
    _, done = restored(settled)
    assert (found.topic, found.offset) == (done.topic, done.offset)
    assert (found.topic, found.offset) == ("new.questions", 5 - OUT_OF_THE_WAY)


def test_what_cannot_be_read_stays_as_it_is():
    assert renumbered(SETTINGS, DEAD_LETTERS, "old.", BEFORE, b"key", b"{") == (b"key", b"{")
