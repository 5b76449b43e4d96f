"""What became of one record, as the topics, the tables and the index have it now."""

import asyncio
import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import pyarrow as pa
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from deltalake import QueryBuilder

from infra import topic_view
from infra.access import TAKEN_BY
from infra.consumer_groups import groups
from infra.elastic import call, connect
from infra.kafka import BrokerUnreachable, group_name
from infra.pause import line, paused_in
from infra.record_events import Event, of_letter, of_message, of_row
from infra.record_messages import Partitions, Told, partitions
from infra.settings import Settings, SettingsError
from infra.tables import SCHEMAS, STORE_ERRORS, TableError, one_line, open_table
from streams.codec import decode
from streams.errors import Invalid, Transient
from streams.operations import Control, Settled
from streams.records import DeadLetter
from streams.topics import (
    CONTROL,
    DEAD_LETTERS,
    RETRACTIONS,
    SETTLED,
    Topic,
)

# As many messages are read in a few seconds; of more, only those since the record is known of.
QUICKLY_READ = 200_000
# What was written in this time before a record's arrival is looked at too: clocks differ.
SLACK = timedelta(hours=1)
# How many commits of a table are looked through for the one that brought a row.
COMMITS = 1000
INDEXED = ("version", "offset", "corpus", "arrived")

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message of the record that a stage has not done with.

    `before` is how many offsets come before it from where the stage has committed, None where it
    has committed nothing. `paused` says who has paused the stage.
    """

    stage: str
    where: str
    before: int | None
    paused: str | None


@dataclass(kw_only=True)
class History:
    """`unseen` has a line for each part that could not be looked at, and why.

    `index` is what the search index holds of the record, None where it does not, or was not asked.
    `since` is where reading began, None for the beginning of all topics.
    """

    pmid: int
    events: list[Event] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    index: Mapping[str, Any] | None = None
    unseen: list[str] = field(default_factory=list)
    since: datetime | None = None

    @property
    def known(self) -> bool:
        return bool(self.events or self.index)


async def history(settings: Settings, pmid: int, since: datetime | None, told: Told) -> History:
    """All that is known of a record, its events in the order of time.

    `since` bounds what is read of the topics. A component that is away is named in `unseen`.
    """
    found = History(pmid=pmid, since=since)
    arrivals = [
        *await asyncio.to_thread(_rows, settings, found),
        *await _indexed(settings, found),
    ]
    try:
        await _messages(settings, found, arrivals, told)
    except (BrokerUnreachable, Transient, KafkaError, SettingsError) as error:
        found.unseen.append(f"topics: {error}")
    found.events.sort(key=lambda event: event.at)
    return found


def _rows(settings: Settings, found: History) -> list[datetime]:
    """Add the rows of a record; returns when what they are made of arrived."""
    arrivals = []
    for table in SCHEMAS:
        try:
            delta = open_table(settings, table)
            query = f"select * from rows where pmid = {found.pmid}"  # noqa: S608
            rows = pa.table(QueryBuilder().register("rows", delta).execute(query)).to_pylist()
            commits = delta.history(COMMITS) if rows else []
        except TableError:
            continue  # nothing was ever appended
        except STORE_ERRORS as error:
            found.unseen.append(f"table {table}: {one_line(error)}")
            continue
        found.events += [of_row(table, row, _version(row, commits)) for row in rows]
        arrivals += [row["arrived"] for row in rows]
    return arrivals


def _version(row: Row, commits: Iterable[Mapping[str, Any]]) -> int | None:
    """The version of a table that first had a row; None where its commit is not known any more."""
    appended = int(row["appended"].timestamp() * 1000)
    after = None
    for commit in commits:  # newest first
        if commit["timestamp"] < appended:
            return after
        after = commit["version"]
    return None


async def _indexed(settings: Settings, found: History) -> list[datetime]:
    """Add what the index holds of a record; returns when that arrived."""
    try:
        async with connect(settings.elasticsearch) as client:
            request = client.mget(
                index=settings.elasticsearch.alias, ids=[str(found.pmid)], source_includes=INDEXED
            )
            (item,) = (await call(request))["docs"]
    except (Transient, SettingsError) as error:
        found.unseen.append(f"index: {error}")
        return []
    if "error" in item:
        found.unseen.append(f"index: {item['error'].get('reason', item['error'])}")
    elif item["found"]:
        found.index = item["_source"]
        return [datetime.fromisoformat(item["_source"]["arrived"])]
    return []


async def _messages(
    settings: Settings, found: History, arrivals: Sequence[datetime], told: Told
) -> None:
    """Add what the topics say of a record, and which stages have not done with it."""
    key = b"%d" % found.pmid
    keys: dict[Topic, bytes | None] = dict.fromkeys((*TAKEN_BY, RETRACTIONS), key)
    keys |= dict.fromkeys((DEAD_LETTERS, SETTLED))
    held: list[tuple[Topic, ConsumerRecord]] = []
    async with partitions(settings, keys) as there:
        if found.since is None:
            found.since = await _begin(there, arrivals)
        mark = b'"key":"%s"' % base64.b64encode(key)
        async for topic, message in there.messages(found.since, told):
            if topic != DEAD_LETTERS or mark in (message.value or b""):
                held.append((topic, message))
    settled = dict(_settled(held))
    found.events += [of_message(topic, m) for topic, m in held if keys[topic] is not None]
    for message, letter in _letters(held):
        found.events.append(of_letter(letter, message, settled.get(letter.id)))
    told_to_wait = paused_in(await topic_view.read(settings, CONTROL, Control))
    paused = {control.stage: control for control in told_to_wait}
    held_by = await groups(settings)
    committed = {
        stage: group.offsets if (group := held_by.get(group_name(settings, stage))) else {}
        for stage in settings.ports.stages
    }
    found.waiting = [
        each
        for topic, message in held
        for stage in TAKEN_BY.get(topic, ())
        if (each := _waiting(stage, message, committed[stage], paused.get(stage)))
    ]


async def _begin(there: Partitions, arrivals: Sequence[datetime]) -> datetime | None:
    """From when the topics are read: from the beginning, where they are short."""
    if not arrivals or await there.size() <= QUICKLY_READ:
        return None
    return min(arrivals) - SLACK


def _settled(held: Iterable[tuple[Topic, ConsumerRecord]]) -> Iterator[tuple[str, Settled]]:
    for topic, message in held:
        if topic == SETTLED and message.value is not None:
            with suppress(Invalid):
                settled = decode(Settled, message.value)
                yield settled.id, settled


def _letters(
    held: Iterable[tuple[Topic, ConsumerRecord]],
) -> Iterator[tuple[ConsumerRecord, DeadLetter]]:
    for topic, message in held:
        if topic == DEAD_LETTERS:
            with suppress(Invalid):
                yield message, decode(DeadLetter, message.value)


def _waiting(
    stage: str,
    message: ConsumerRecord,
    committed: Mapping[TopicPartition, int],
    paused: Control | None,
) -> Waiting | None:
    coming = committed.get(TopicPartition(message.topic, message.partition))
    if coming is not None and coming > message.offset:
        return None
    if stage == "backlog" and coming is None:
        return None  # it begins when theta3 serves
    return Waiting(
        stage=stage,
        where=f"{message.topic} [{message.partition}] offset {message.offset}",
        before=None if coming is None else message.offset - coming,
        paused=line(paused) if paused else None,
    )
