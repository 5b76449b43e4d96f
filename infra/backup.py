"""`kailin backup DIR`: what cannot be replayed, copied while the service runs.

In this order, so that no record falls between two copies. First the consumer groups: what they had
done by then has left its trace in the topics after it. Then the versions of the tables, for rows
leave `parked` only for a topic. Then the topics, the ingest's progress before the articles that it
tells of; of topics between two stages only what a group has still to take. What is copied twice for
that comes to the same: its id is in the tables. MLflow comes last, so it has every model that a
topic names.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from deltalake import DeltaTable
from rich.console import Console

from infra import mesh_edition, mlflow_copy
from infra.backup_manifest import (
    FORMAT,
    BackupError,
    Manifest,
    TableHeld,
    TopicHeld,
    described,
)
from infra.cli_context import DONE, FAILED, say
from infra.consumer_groups import Group, groups
from infra.kafka import BrokerUnreachable, client_arguments, group_name, start, topic_name
from infra.progress_bar import moving
from infra.settings import Settings
from infra.table_copy import copy_version
from infra.tables import SCHEMAS, STORE_ERRORS, TableError, one_line, open_table
from infra.topic_dump import dump
from streams.errors import Misconfigured, Transient
from streams.mesh import MeshError
from streams.topics import ARTICLES, PROGRESS, TOPICS, Topic

# Progress that tells of articles which are not there would have them passed over for ever.
ORDER = (PROGRESS, ARTICLES, *(topic for topic in TOPICS if topic not in (PROGRESS, ARTICLES)))


def run(settings: Settings, directory: Path, *, articles: bool, console: Console) -> int:
    """Make a backup in an empty directory; the exit status. Failures are printed as one line."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BackupError(f"{directory}: expected an empty directory")
        asyncio.run(backup(settings, directory, articles=articles, console=console))
    except STORE_ERRORS as error:
        say(console, f"not backed up: {one_line(error)}")
        return FAILED
    except (
        *(BackupError, BrokerUnreachable, MeshError, Misconfigured),
        *(Transient, sqlite3.Error, shutil.Error),
    ) as error:
        say(console, f"not backed up: {error}")
        return FAILED
    except KeyboardInterrupt:
        say(console, f"stopped; what is in {directory} is no backup")
        return FAILED
    return DONE


async def backup(settings: Settings, directory: Path, *, articles: bool, console: Console) -> None:
    """Raises `BackupError`, `BrokerUnreachable`, `Transient` and what the stores raise."""
    found = await groups(settings)
    cluster = await cluster_id(settings)
    tables = _pin(settings)
    topics = {}
    for topic in ORDER:
        # Without the articles, their progress would have them passed over.
        if articles or topic not in (ARTICLES, PROGRESS):
            topics[topic.name] = await _topic(settings, topic, found, directory, console)
    held = {}
    for name, delta in tables.items():
        say(console, f"table {name}: version {delta.version()}, {delta.count():,} rows")
        await asyncio.to_thread(copy_version, delta, directory / "tables" / name)
        held[name] = TableHeld(version=delta.version(), rows=delta.count())
    there = await asyncio.to_thread(mlflow_copy.copy, settings, directory / "mlflow")
    mlflow = mlflow_copy.directory(settings)
    if mlflow is None:
        say(console, "MLflow is a server: its runs and models are to be backed up there")
    mesh = _mesh(settings, directory)
    manifest = Manifest(
        format=FORMAT,
        made=datetime.now(UTC),
        cluster=cluster,
        prefix=settings.kafka.prefix,
        articles=articles,
        tables=held,
        topics=topics,
        groups=_offsets(settings, found),
        mlflow=str(mlflow) if there else None,
        mesh=mesh,
        files=await asyncio.to_thread(described, directory),
    )
    manifest.write(directory)
    size = sum(file.size for file in manifest.files.values())
    say(console, f"backed up to {directory}: {size / 1e6:,.1f} MB")


async def cluster_id(settings: Settings) -> str:
    """The id that Kafka's cluster was given when it was formatted. Raises `BrokerUnreachable`."""
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    await start(admin, settings)
    try:
        described = await admin.describe_cluster()
    finally:
        await admin.close()
    return str(described.get("cluster_id") or "")


def _pin(settings: Settings) -> dict[str, DeltaTable]:
    tables = {}
    for name in SCHEMAS:
        try:
            tables[name] = open_table(settings, name)
        except TableError:
            continue
    return tables


async def _topic(
    settings: Settings,
    topic: Topic,
    found: Mapping[str, Group],
    directory: Path,
    console: Console,
) -> TopicHeld:
    path = directory / "topics" / f"{topic.name}.parquet"
    path.parent.mkdir(exist_ok=True)
    at = {} if topic.compact else _to_take(topic_name(settings, topic), topic.partitions, found)
    with moving(console, topic.name, 0) as told:
        messages = await dump(settings, topic, at, path, told)
    say(console, f"topic {topic.name}: {messages:,} messages")
    return TopicHeld(partitions=topic.partitions, messages=messages)


def _to_take(name: str, partitions: int, found: Mapping[str, Group]) -> dict[TopicPartition, int]:
    """From where on the groups that read a topic have still to take its messages."""
    reading = [
        group.offsets
        for group in found.values()
        if any(partition.topic == name for partition in group.offsets)
    ]
    return {
        at: min(offsets.get(at, 0) for offsets in reading)
        for at in (TopicPartition(name, number) for number in range(partitions))
        if reading
    }


def _offsets(
    settings: Settings, found: Mapping[str, Group]
) -> dict[str, dict[str, dict[int, int]]]:
    prefix = settings.kafka.prefix
    made: dict[str, dict[str, dict[int, int]]] = {}
    for name, group in found.items():
        if name == group_name(settings, "index"):
            # What it has read is in an index that is not in the backup: it begins anew.
            continue
        for at, offset in group.offsets.items():
            topics = made.setdefault(name.removeprefix(prefix), {})
            topics.setdefault(at.topic.removeprefix(prefix), {})[at.partition] = offset
    return made


def _mesh(settings: Settings, directory: Path) -> str | None:
    """Copy the edition that was chosen; its name, None where the settings name it."""
    choice = mesh_edition.chosen(settings)
    if choice is None:
        return None
    place = mesh_edition.directory(settings)
    (directory / "mesh").mkdir()
    for name in (choice.file, "edition.json"):
        shutil.copyfile(place / name, directory / "mesh" / name)
    return choice.edition
