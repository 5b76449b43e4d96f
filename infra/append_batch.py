"""A message of `preferences` or `ideal` as the tables take it: a row, or a dead letter."""

from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import ConsumerRecord, TopicPartition

from consumers.append import Row, row
from consumers.dead_letters import dead_letter
from consumers.delivery import check_key
from infra.sink_table import Entry
from streams.codec import decode
from streams.errors import Invalid
from streams.records import DeadLetter, Ideal, Preference
from streams.topics import IDEAL, Topic


@dataclass(frozen=True, slots=True)
class Read:
    """A message and what the tables are to make of it; `error` where it has no row.

    `is_new` where no table's offset covers it. A dead letter is confirmed before any of them does.
    """

    message: ConsumerRecord
    entry: Entry
    is_new: bool
    error: Invalid | None = None

    @property
    def is_new_failure(self) -> bool:
        return self.is_new and self.error is not None


def read(topic: Topic, message: ConsumerRecord, *, is_new: bool) -> Read:
    """A message of a topic with its row, or with the reason why it has none."""
    kind: type[Preference | Ideal] = Ideal if topic == IDEAL else Preference
    try:
        if message.value is None:
            raise Invalid("no value", f"expected a record of topic {topic.name}, got a tombstone")
        record = decode(kind, message.value)
        check_key(topic, record, message.key)
        return Read(message, _entry(message, *row(record)), is_new)
    except Invalid as error:
        return Read(message, _entry(message), is_new, error)


def dead(read: Read, stage: str) -> DeadLetter:
    """The dead letter of a message that has no row."""
    assert read.error is not None  # noqa: S101
    return dead_letter(
        read.error,
        stage=stage,
        topic=read.message.topic,
        partition=read.message.partition,
        offset=read.message.offset,
        key=read.message.key,
        value=read.message.value,
        headers=read.message.headers,
        at=datetime.now(UTC),
    )


def _entry(message: ConsumerRecord, table: str | None = None, row: Row | None = None) -> Entry:
    return Entry(
        partition=TopicPartition(message.topic, message.partition),
        offset=message.offset,
        timestamp=message.timestamp,
        table=table,
        row=row,
    )
