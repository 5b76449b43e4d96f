"""The topics: one table, from which they are created and against which a broker is checked."""

from collections.abc import Callable
from dataclasses import dataclass

from streams.citation import Article
from streams.learning import Job, Serving, Spending, TrainingData, Verdict
from streams.operations import Control, Settled
from streams.records import (
    Alignments,
    Contexts,
    DeadLetter,
    Ideal,
    Preference,
    Progress,
    Questions,
    Record,
    Retraction,
)

DAY = 24 * 3600
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One row of the table. `retention` is in seconds, None keeps for ever; sizes in bytes.

    `compaction_lag`, in seconds, is how long every state of a compacted topic is kept at least.
    """

    name: str
    record: type[Record]
    key: Callable[[Record], bytes]
    partitions: int
    compact: bool = False
    compaction_lag: int = 0
    retention: int | None = None
    max_message: int = MIB


def _pmid(record: Record) -> bytes:
    if isinstance(record, Article | Retraction):
        return b"%d" % record.pmid
    if isinstance(record, Questions | Contexts | Alignments | Preference | Ideal):
        return b"%d" % record.source.pmid
    raise TypeError(f"{type(record).__name__} is not keyed by PMID")


def _origin(record: Record) -> bytes:
    if not isinstance(record, DeadLetter):
        raise TypeError(f"{type(record).__name__} is not a dead letter")
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


def _told(record: Record) -> bytes:
    """What an operator's word is about."""
    if isinstance(record, Settled):
        return record.id.encode()
    if isinstance(record, Control):
        return record.stage.encode()
    raise TypeError(f"{type(record).__name__} is not an operator's word")


def _id(record: Record) -> bytes:
    if not isinstance(record, Progress | Job):
        raise TypeError(f"{type(record).__name__} has no key of its own")
    return record.id.encode()


def _about(record: Record) -> bytes:
    """What a message of the learning loop is about."""
    if isinstance(record, TrainingData):
        return record.table.encode()
    if isinstance(record, Verdict):
        return record.job.encode()
    if isinstance(record, Serving):
        return record.generator.encode()
    if isinstance(record, Spending):
        return f"{record.month}/{record.model}/{record.worker}".encode()
    raise TypeError(f"{type(record).__name__} is not of the learning loop")


# A state says what is new in it, so a stage must see each one: it has as long for that as it has
# for the messages of the other topics.
ARTICLES = Topic(
    name="pubmed.articles",
    record=Article,
    key=_pmid,
    partitions=6,
    compact=True,
    compaction_lag=30 * DAY,
)
QUESTIONS = Topic(name="questions", record=Questions, key=_pmid, partitions=6, retention=30 * DAY)
CONTEXTS = Topic(name="contexts", record=Contexts, key=_pmid, partitions=6, retention=30 * DAY)
# Answering may wait here for the next month's budget, and for more than one of them.
ALIGNMENTS = Topic(
    name="alignments", record=Alignments, key=_pmid, partitions=6, retention=365 * DAY
)
PREFERENCES = Topic(
    name="preferences", record=Preference, key=_pmid, partitions=6, retention=30 * DAY
)
IDEAL = Topic(name="ideal", record=Ideal, key=_pmid, partitions=6, retention=30 * DAY)
# A dead letter holds another topic's message in base64, so it is given room for one.
DEAD_LETTERS = Topic(
    name="dead.letters",
    record=DeadLetter,
    key=_origin,
    partitions=1,
    retention=90 * DAY,
    max_message=2 * MIB,
)
# Written after its letters, and kept until the broker has removed the last of them.
SETTLED = Topic(
    name="dead.letters.settled", record=Settled, key=_told, partitions=1, retention=180 * DAY
)
CONTROL = Topic(name="stage.control", record=Control, key=_told, partitions=1, compact=True)

RETRACTIONS = Topic(name="retractions", record=Retraction, key=_pmid, partitions=1, compact=True)
# One partition: who reads it to its end knows all that was committed before.
PROGRESS = Topic(name="ingest.progress", record=Progress, key=_id, partitions=1, compact=True)

# The learning loop. What is compacted has one partition: who reads it to its end knows all.
TRAINING_DATA = Topic(
    name="training.data", record=TrainingData, key=_about, partitions=1, retention=30 * DAY
)
JOBS = Topic(name="training.jobs", record=Job, key=_id, partitions=1, compact=True)
VERDICTS = Topic(name="gate.verdicts", record=Verdict, key=_about, partitions=1)
SERVING = Topic(name="serving.models", record=Serving, key=_about, partitions=1, compact=True)
SPENDING = Topic(name="spending", record=Spending, key=_about, partitions=1, compact=True)

TOPICS = (
    ARTICLES,
    QUESTIONS,
    CONTEXTS,
    ALIGNMENTS,
    PREFERENCES,
    IDEAL,
    DEAD_LETTERS,
    SETTLED,
    CONTROL,
    RETRACTIONS,
    PROGRESS,
    TRAINING_DATA,
    JOBS,
    VERDICTS,
    SERVING,
    SPENDING,
)
