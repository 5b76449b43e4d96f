"""What operators tell the service: what became of a dead letter, and which stages stand still."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from streams.citation import Int64


def letter_id(stage: str, topic: str, partition: int, offset: int) -> str:
    """What the dead letters of one message and stage are known by."""
    return f"{stage}:{topic}/{partition}/{offset}"


# Put back on its topic; given up; not put back, since its topic says something newer by now.
Settling = Literal["replayed", "dropped", "superseded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was done about the dead letters of one message and stage, by `who` and `why`.

    `stage`, `topic`, `partition` and `offset` are those of the letter, and `letter` its time: one
    that was written later is open again. `times` is how often the message has been replayed.
    """

    stage: str
    topic: str
    partition: Int64
    offset: Int64
    letter: datetime
    how: Settling
    who: str
    why: str
    times: Int64
    at: datetime

    @property
    def id(self) -> str:
        """The one of its letters."""
        return letter_id(self.stage, self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Whether a stage is to stand still, in all its workers: since `at`, by `who` and `why`."""

    stage: str
    paused: bool
    who: str
    why: str
    at: datetime
