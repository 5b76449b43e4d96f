"""What each process does on Kafka: the table from which access control lists are made.

A process that is given a user of its own needs what its row says and nothing else. The names are
those of `kailin run` and of the ports; `supervisor` is `kailin up`, `operator` runs the commands
that look at the service and mend it, and `restore` the one that fills an empty deployment.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from infra.kafka import group_name, topic_name
from infra.settings import Settings
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
    Topic,
)

Resource: TypeAlias = Literal["topic", "group", "transactional-id"]
Operation: TypeAlias = Literal["read", "write", "describe", "create", "describe-configs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One process. To read or to write a topic or a group is also to describe it.

    `takes` are the topics of which it works on each message, which `reads` holds as well.
    `joins` are the consumer groups that it is a member of or whose offsets it sets, `watches` those
    that it looks at, and `transactions` the ids of its own, all without what stands before them.
    `makes` are topics that it creates where there are none, `compares` those whose settings it
    reads.
    """

    takes: tuple[Topic, ...] = ()
    reads: tuple[Topic, ...] = ()
    writes: tuple[Topic, ...] = ()
    joins: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    makes: tuple[Topic, ...] = ()
    compares: tuple[Topic, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One thing that a process may do, on a resource as the broker calls it."""

    resource: Resource
    name: str
    operation: Operation


def _stage(
    name: str,
    *takes: Topic,
    sink: Topic | None = None,
    reads: tuple[Topic, ...] = (),
    writes: tuple[Topic, ...] = (),
    watches: tuple[str, ...] = (),
) -> Access:
    return Access(
        takes=takes,
        reads=(*takes, CONTROL, *reads),
        writes=(*((sink,) if sink else ()), *writes, DEAD_LETTERS),
        joins=(name,),
        watches=watches,
    )


_INGESTED = (ARTICLES, RETRACTIONS, PROGRESS)

ACCESS: dict[str, Access] = {
    "index": _stage("index", ARTICLES),
    "generate": _stage("generate", ARTICLES, sink=QUESTIONS, reads=(SERVING,)),
    "retrieve": _stage("retrieve", QUESTIONS, sink=CONTEXTS),
    "score": _stage("score", CONTEXTS, sink=ALIGNMENTS),
    "prefer": _stage("prefer", ALIGNMENTS, sink=PREFERENCES),
    "answer": _stage("answer", ALIGNMENTS, sink=IDEAL, reads=(SPENDING,), writes=(SPENDING,)),
    # It also ends the wait of parked records that never get MeSH.
    "rescore": _stage("rescore", ARTICLES, sink=CONTEXTS, writes=(PREFERENCES, IDEAL)),
    # It lets live records go first, so it looks how far those two stages are.
    "backlog": _stage(
        "backlog",
        ARTICLES,
        sink=QUESTIONS,
        reads=(SERVING, ALIGNMENTS),
        watches=("generate", "answer"),
    ),
    # It removes no version of a table that a job is pinned to.
    "append": _stage("append", PREFERENCES, IDEAL, sink=TRAINING_DATA, reads=(RETRACTIONS, JOBS)),
    "ingest": Access(
        reads=(ARTICLES, PROGRESS, CONTROL),
        writes=_INGESTED,
        joins=("ingest",),
        transactions=("ingest",),
        makes=(*_INGESTED, CONTROL),
        compares=(*_INGESTED, CONTROL),
    ),
    # Its child `kailin models judge` writes the verdicts.
    "trainer": Access(
        reads=(TRAINING_DATA, JOBS, VERDICTS, SERVING, CONTROL),
        writes=(JOBS, VERDICTS),
        joins=("trainer",),
        transactions=("trainer",),
    ),
    "deployer": Access(reads=(SERVING,), writes=(SERVING,), joins=("deployer",)),
    "supervisor": Access(makes=TOPICS, compares=TOPICS),
}

# The topics that records go through, each with the stages that work on its messages.
TAKEN_BY: dict[Topic, tuple[str, ...]] = {
    topic: tuple(name for name, access in ACCESS.items() if topic in access.takes)
    for topic in dict.fromkeys(topic for access in ACCESS.values() for topic in access.takes)
}
_GROUPS = tuple(group for access in ACCESS.values() for group in access.joins)

# What was set aside is put back where it came from, and articles in the ingest's turn.
ACCESS["operator"] = Access(
    reads=TOPICS,
    writes=(*TAKEN_BY, SETTLED, CONTROL, JOBS),
    joins=("ingest",),
    watches=_GROUPS,
    transactions=("dlq", "ingest"),
    compares=TOPICS,
)
# `kailin restore`, into a deployment that is empty.
ACCESS["restore"] = Access(
    reads=TOPICS, writes=TOPICS, joins=_GROUPS, makes=TOPICS, compares=TOPICS
)


def rights(settings: Settings, process: str) -> tuple[Right, ...]:
    """What a process needs on the broker of these settings, in order, each once.

    Raises KeyError for an unknown process.
    """
    return tuple(sorted(set(_rights(settings, ACCESS[process]))))


def _rights(settings: Settings, access: Access) -> Iterator[Right]:
    known = {*access.reads, *access.writes}
    topics: dict[Operation, Iterable[Topic]] = {
        "read": access.reads,
        "write": access.writes,
        "create": access.makes,
        "describe-configs": access.compares,
        "describe": set(access.compares) - known,
    }
    for operation, some in topics.items():
        for topic in some:
            yield Right("topic", topic_name(settings, topic), operation)
    for group in access.joins:
        yield Right("group", group_name(settings, group), "read")
    for group in set(access.watches) - set(access.joins):
        yield Right("group", group_name(settings, group), "describe")
    for id in access.transactions:
        yield Right("transactional-id", group_name(settings, id), "write")
