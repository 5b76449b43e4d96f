"""What the append stage says where a topic does not hold what the tables are to go on from."""

import logging
from collections.abc import Sequence

from aiokafka import TopicPartition

from infra.settings import Settings
from infra.sink_table import Position

log = logging.getLogger(__name__)


class OffsetsLost(Exception):
    """The topic is not the one that the tables were filled from; the message is one line."""


def lost(
    settings: Settings, partition: TopicPartition, held: Sequence[Position | None], found: str
) -> OffsetsLost:
    """The error where a partition is not the one whose offsets the tables hold, as `found`."""
    filled = max(at.offset if at else -1 for at in held)
    return OffsetsLost(
        f"topic {partition.topic} [{partition.partition}] {found}, but the tables at "
        f"{settings.tables_uri} were filled up to offset {filled}: the topic was made "
        "anew, or `kafka` in the settings names another broker than before; set `tables` to a "
        "new place, or bring the broker's data back, or name the former broker or another "
        "`kafka.prefix`, whose topics the tables do not know"
    )


def report_gap(partition: TopicPartition, first: int, end: int) -> None:
    """Say that messages were removed before they were appended."""
    log.error(
        "append: topic %s [%d] does not hold offsets %d to %d any more and they were never "
        "appended: see the retention of the topic",
        partition.topic,
        partition.partition,
        first,
        end - 1,
    )
