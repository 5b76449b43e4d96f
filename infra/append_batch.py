"""A message of `preferences` or `ideal` as the tables take it: a row, or a dead letter."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import ConsumerRecord, TopicPartition

from consumers import spans
from consumers.append import Row, row
from consumers.dead_letters import dead_letter
from consumers.delivery import check_key
from infra.sink_table import Entry
from streams.at_hand import at_hand, place
from streams.codec import decode
from streams.errors import Invalid
from streams.records import DeadLetter, Ideal, Preference
from streams.topics import IDEAL, Topic

log = logging.getLogger(__name__)


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
    message = read.message
    with at_hand(**place(message)):
        log.warning(
            "%s: dead letter for %s partition %d offset %d: %s",
            *(stage, message.topic, message.partition, message.offset, read.error),
        )
    return dead_letter(
        read.error,
        stage=stage,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers,
        at=datetime.now(UTC),
    )


def trace(reads: Iterable[Read], stage: str, *, seconds: float) -> None:
    """A span in the trace of each record whose row is committed; it took so many seconds."""
    began = time.time() - seconds
    for each in reads if spans.on() else ():
        if each.is_new and each.entry.row is not None and each.entry.table is not None:
            pmid, arrived = each.entry.row["pmid"], each.entry.row["arrived"]
            spans.appended(stage, each.message, pmid, arrived, began=began, table=each.entry.table)


def _entry(message: ConsumerRecord, table: str | None = None, row: Row | None = None) -> Entry:
    return Entry(
        partition=TopicPartition(message.topic, message.partition),
        offset=message.offset,
        timestamp=message.timestamp,
        table=table,
        row=row,
    )
