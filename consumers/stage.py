"""What a stage is: from which topic, through which handler, to which topic."""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from streams.citation import Article
from streams.records import Alignments, Contexts, Ideal, Preference, Questions, Record
from streams.topics import Topic

R = TypeVar("R", bound=Record)

# Exit statuses of a stage's worker: told to stop; failed, start it again; settings to be put right
# first; broken, do not start it again.
DONE, FAILED, MISCONFIGURED, TOO_MANY_DEAD_LETTERS = 0, 1, 2, 3
# How old what a worker's consumer knows of topics and partitions may grow, in milliseconds.
METADATA_MS = 30_000


class TooManyDeadLetters(Exception):
    """The stage sets aside so much that it must itself be broken."""


@dataclass(frozen=True, slots=True)
class Message(Generic[R]):
    """A message of the stage's source; `record` is None for a tombstone."""

    record: R | None
    key: bytes | None
    topic: str
    partition: int
    offset: int


def arrival(record: Record) -> datetime | None:
    """When what a record is about arrived; without a zone it is taken as UTC. Some have none."""
    if isinstance(record, Article):
        arrived = record.arrived
    elif isinstance(record, Questions | Contexts | Alignments | Preference | Ideal):
        arrived = record.source.arrived
    else:
        return None
    return arrived.replace(tzinfo=arrived.tzinfo or UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[R]):
    """A stage: from which topic, through which handler, to which topic.

    `handle` raises `Transient` to be called again later, `Invalid` to have the message set aside.
    It sees tombstones only if `tombstones` is set, and what was put back for another stage only if
    `states` is: what it makes follows from the newest message of a key, which that may be.
    `window` is how many messages it takes at once, where that is not the policy's. `observe` is
    called with a message and what the handler made of it once the broker has that, for the stage's
    own metrics.
    """

    name: str
    source: Topic
    sink: Topic | None
    handle: Callable[[Message[R]], Awaitable[Sequence[Record]]]
    observe: Callable[[Message[R], Sequence[Record]], None] | None = None
    tombstones: bool = False
    states: bool = False
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka:
    """How the broker is reached: `client` as aiokafka's clients take it, names as it has them."""

    client: Mapping[str, Any]
    group: str
    topic_name: Callable[[Topic], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`window` messages are worked on at once; times in seconds.

    `dead_letter_limit` dead letters within `dead_letter_window` are borne, one more stops the
    stage.
    """

    window: int = 64
    retry_first: float = 0.5
    retry_longest: float = 30.0
    dead_letter_limit: int = 100
    dead_letter_window: float = 60.0

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further attempt: doubling up to a bound, with jitter."""
        pause = self.retry_first
        while True:
            yield pause * random.uniform(0.5, 1.0)
            pause = min(pause * 2, self.retry_longest)
