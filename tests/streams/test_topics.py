"""The table of topics agrees with the records and with itself."""

from datetime import UTC, datetime

import pytest

from fakes import records as example
from streams.operations import Control, Settled
from streams.records import (
    DeadLetter,
    Progress,
    Retraction,
    type_names,
)
from streams.topics import (
    ALIGNMENTS,
    ARTICLES,
    CONTEXTS,
    CONTROL,
    DEAD_LETTERS,
    IDEAL,
    JOBS,
    PREFERENCES,
    PROGRESS,
    QUESTIONS,
    RETRACTIONS,
    SERVING,
    SETTLED,
    SPENDING,
    TOPICS,
    TRAINING_DATA,
    VERDICTS,
)

STREAM = (QUESTIONS, CONTEXTS, ALIGNMENTS, PREFERENCES, IDEAL)


def test_every_record_has_its_topic_and_every_topic_its_own_name():
    assert {topic.record for topic in TOPICS} == set(type_names)
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


@pytest.mark.parametrize(
    ("topic", "record"),
    [
        (ARTICLES, example.article(42)),
        (QUESTIONS, example.questions(42)),
        (CONTEXTS, example.contexts(42)),
        (ALIGNMENTS, example.alignments(42)),
        (PREFERENCES, example.preference(42)),
        (IDEAL, example.ideal(42)),
    ],
)
def test_a_record_is_keyed_by_its_pmid_from_first_to_last(topic, record):
    assert topic.key(record) == b"42"
    assert topic.partitions == ARTICLES.partitions


def test_a_dead_letter_is_keyed_by_where_it_came_from():
    letter = DeadLetter(
        stage="score",
        reason="field",
        detail="",
        stack="",
        topic="contexts",
        partition=2,
        offset=40,
        key=None,
        value=None,
        headers=(),
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert DEAD_LETTERS.key(letter) == b"contexts/2/40"


def test_what_was_done_about_a_letter_is_keyed_by_its_message_and_stage_and_outlasts_it():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    settled = Settled(
        stage="score",
        topic="contexts",
        partition=2,
        offset=40,
        letter=at,
        how="dropped",
        who="ana",
        why="a test",
        times=0,
        at=at,
    )
    assert SETTLED.key(settled) == b"score:contexts/2/40"
    assert (SETTLED.retention or 0) > (DEAD_LETTERS.retention or 0)


def test_a_pause_is_keyed_by_its_stage():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    control = Control(stage="score", paused=True, who="ana", why="", at=at)
    assert CONTROL.key(control) == b"score"


def test_articles_are_kept_for_ever_and_compacted():
    assert ARTICLES.compact
    assert ARTICLES.retention is None


def test_a_stage_has_as_long_to_see_each_state_of_an_article_as_for_other_messages():
    assert ARTICLES.compaction_lag >= max(
        topic.retention or 0 for topic in STREAM if topic is not ALIGNMENTS
    )


def test_retractions_go_by_pmid_and_progress_by_what_was_read():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert RETRACTIONS.key(Retraction(pmid=42, reason="deleted", at=at)) == b"42"
    progress = Progress(
        id="nlm:x",
        source="nlm",
        what="x",
        state="done",
        position=0,
        announced=None,
        counts={},
        at=at,
    )
    assert PROGRESS.key(progress) == b"nlm:x"
    assert PROGRESS.partitions == 1


@pytest.mark.parametrize(
    ("topic", "record", "key"),
    [
        (TRAINING_DATA, example.training_data("ideal"), b"ideal"),
        (JOBS, example.job("00ff"), b"00ff"),
        (VERDICTS, example.verdict("00ff"), b"00ff"),
        (SERVING, example.serving("theta3"), b"theta3"),
        (SPENDING, example.spending("host-1"), b"2026-03/teacher-70b/host-1"),
    ],
)
def test_the_learning_loop_is_keyed_by_what_a_message_is_about(topic, record, key):
    assert topic.key(record) == key


@pytest.mark.parametrize("topic", [JOBS, SERVING, SPENDING, CONTROL])
def test_who_reads_what_is_followed_to_its_end_knows_all(topic):
    assert (topic.compact, topic.partitions, topic.retention) == (True, 1, None)


def test_a_dead_letter_has_room_for_any_message_in_base64():
    largest = max(topic.max_message for topic in TOPICS if topic is not DEAD_LETTERS)
    assert DEAD_LETTERS.max_message > largest * 4 / 3 * 1.2
