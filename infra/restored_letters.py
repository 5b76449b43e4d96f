"""Dead letters, and what was done about them, as they are in a deployment whose topics begin anew.

A letter is known by the topic, partition and offset of its message. Offsets begin again, so those
of a backup are put out of the way of those to come; but where the message itself is restored, as
all of `pubmed.articles` is, the letter gets the offset that it has now.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

from consumers.delivery import key_and_value
from infra.kafka import topic_name
from infra.settings import Settings
from streams.codec import decode
from streams.errors import Invalid
from streams.operations import Settled
from streams.records import DeadLetter
from streams.topics import ARTICLES, DEAD_LETTERS, SETTLED, Topic

ABOUT = (DEAD_LETTERS, SETTLED)
# More than a partition ever has. A letter that is restored once more is moved by it once more.
OUT_OF_THE_WAY = 1 << 40

# By topic and partition, the offset that each message which is there now had before.
Before = Mapping[str, Mapping[int, Sequence[int]]]


def renumbered(
    settings: Settings, topic: Topic, prefix: str, before: Before, key: bytes, value: bytes
) -> tuple[bytes, bytes]:
    """A message of one of the topics `ABOUT`, from a deployment with this prefix, as it is here."""
    kind: type[DeadLetter | Settled] = DeadLetter if topic == DEAD_LETTERS else Settled
    try:
        record = decode(kind, value)
    except Invalid:
        return key, value
    of = record.topic.removeprefix(prefix)
    offset = record.offset - OUT_OF_THE_WAY
    if of == ARTICLES.name:
        offset = bisect_left(before.get(of, {}).get(record.partition, ()), record.offset)
    here = replace(record, topic=settings.kafka.prefix + of, offset=offset)
    return key_and_value(topic, here, topic_name(settings, topic))
