"""Records as the append stage hands them to the tables."""

from aiokafka import TopicPartition

from consumers.append import row
from infra.sink_table import Entry
from streams.records import Ideal, Preference


def entry(
    offset: int, record: Preference | Ideal, partition: int = 0, *, timestamp: int = 0
) -> Entry:
    """A record at an offset of its topic, with the row that it makes."""
    table, columns = row(record)
    topic = "ideal" if isinstance(record, Ideal) else "preferences"
    return Entry(
        partition=TopicPartition(topic, partition),
        offset=offset,
        timestamp=timestamp,
        table=table,
        row=columns,
    )
