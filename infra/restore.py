"""`kailin restore DIR`: a backup into a deployment that is empty.

Its topics begin anew, on another broker than before, so every offset that is kept is put right:
those of consumer groups by what each message's was, those of the append stage, which the tables
keep, to before the beginning. The search index is not in a backup: the index stage fills it.
"""

import asyncio
import shutil
import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from aiokafka import TopicPartition
from rich.console import Console

from infra import mesh_edition, mlflow_copy, run_state, table_copy, topic_view
from infra.backup_manifest import BackupError, Manifest, damaged, read
from infra.cli_context import DONE, FAILED, say
from infra.consumer_groups import commit, groups
from infra.elastic import call, connect
from infra.kafka import BrokerUnreachable, Publisher
from infra.progress_bar import moving
from infra.restored_letters import ABOUT, Before, renumbered
from infra.settings import Settings
from infra.tables import SCHEMAS, STORE_ERRORS, one_line
from infra.topic_admin import TopicError, create_topics
from infra.topic_dump import load
from infra.topic_reader import TopicReader
from infra.training_data import policy
from streams.errors import Misconfigured, Transient
from streams.learning import Job
from streams.topics import JOBS, TOPICS, Topic
from trainers.triggers import OPEN

# Problems that are printed.
SHOWN = 10


def run(settings: Settings, directory: Path, console: Console) -> int:
    """Restore a backup; the exit status. Failures are printed, a line each."""
    try:
        asyncio.run(restore(settings, directory, console))
    except STORE_ERRORS as error:
        say(console, f"not restored: {one_line(error)}")
        return FAILED
    except (
        *(BackupError, BrokerUnreachable, Misconfigured, TopicError),
        *(Transient, sqlite3.Error, shutil.Error),
    ) as error:
        say(console, f"not restored: {error}")
        return FAILED
    except KeyboardInterrupt:
        say(console, "stopped; what was restored by now is not whole")
        return FAILED
    return DONE


async def restore(settings: Settings, directory: Path, console: Console) -> None:
    """Raises `BackupError` where the backup is not whole or the deployment is not empty."""
    manifest = read(directory)
    say(console, f"a backup of {manifest.made:%Y-%m-%d %H:%M} UTC; looking whether it is whole")
    if wrong := await asyncio.to_thread(lambda: list(damaged(directory, manifest))):
        raise BackupError(f"{directory}: damaged: {'; '.join(wrong[:SHOWN])}")
    topics = [topic for topic in TOPICS if topic.name in manifest.topics]
    _fits(manifest, topics)
    for difference in await create_topics(settings):
        say(console, str(difference))
    if there := await _there(settings):
        raise BackupError(f"this deployment is not empty: {'; '.join(there[:SHOWN])}")
    marker = run_state.restoring(settings.data)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{directory}\n")
    await asyncio.to_thread(_files, settings, directory, manifest, console)
    before: dict[str, dict[int, array[int]]] = {}
    for topic in topics:
        path = directory / "topics" / f"{topic.name}.parquet"
        change = None
        if topic in ABOUT:
            change = partial(renumbered, settings, topic, manifest.prefix, before)
        with moving(console, topic.name, manifest.topics[topic.name].messages) as told:
            before[topic.name] = await load(settings, topic, path, told, change)
        say(console, f"topic {topic.name}: {manifest.topics[topic.name].messages:,} messages")
    await _begin_anew(settings, manifest)
    for group, held in manifest.groups.items():
        offsets = _put_right(settings, held, before)
        if offsets:
            await commit(settings, settings.kafka.prefix + group, offsets)
    marker.unlink()
    say(console, "restored; the index is empty: let `kailin run index` fill it before the others")
    if not manifest.articles:
        say(console, "without articles: `kailin ingest` brings them in, and asks about them again")


def _fits(manifest: Manifest, topics: Sequence[Topic]) -> None:
    for topic in topics:
        if (had := manifest.topics[topic.name].partitions) != topic.partitions:
            raise BackupError(
                f"topic {topic.name}: had {had} partitions when it was backed up, and has "
                f"{topic.partitions} now: records of one PMID would change their partition"
            )


async def _there(settings: Settings) -> list[str]:
    """What a deployment holds already, a phrase each."""
    found = []
    async with TopicReader(settings, TOPICS, {}) as reader:
        ends = await reader.ends()
    if full := sorted({at.topic for at, end in ends.items() if end}):
        found.append(f"Kafka has had messages in {', '.join(full)}")
    held = await groups(settings)
    if busy := sorted(name for name, group in held.items() if group.members or group.offsets):
        found.append(f"consumer groups are there: {', '.join(busy)}")
    tables = [name for name in SCHEMAS if table_copy.is_there(settings, name)]
    if tables:
        found.append(f"tables at {settings.tables_uri}: {', '.join(tables)}")
    if mlflow_copy.directory(settings) and mlflow_copy.database(settings).exists():
        found.append(f"MLflow's {mlflow_copy.database(settings)}")
    if (mesh_edition.directory(settings) / "edition.json").exists():
        found.append("an edition of MeSH was chosen")
    async with connect(settings.elasticsearch) as client:
        # Offsets order its writes: against those of another broker, new ones would count as stale.
        alias = settings.elasticsearch.alias
        if await call(client.indices.exists_alias(name=alias)):
            found.append(f"Elasticsearch has an index behind the alias {alias}")
    if run_state.restoring(settings.data).exists():
        found.append("a restore was begun here and not finished: clear all of it away first")
    return found


def _files(settings: Settings, directory: Path, manifest: Manifest, console: Console) -> None:
    for name, held in manifest.tables.items():
        table_copy.restore(settings, name, directory / "tables" / name)
        say(console, f"table {name}: version {held.version}, {held.rows:,} rows")
    if manifest.mlflow:
        mlflow_copy.restore(settings, directory / "mlflow", Path(manifest.mlflow))
        say(console, "MLflow: runs and models")
    if manifest.mesh:
        place = mesh_edition.directory(settings)
        place.mkdir(parents=True, exist_ok=True)
        for path in sorted((directory / "mesh").iterdir()):
            shutil.copyfile(path, place / path.name)
        say(console, f"MeSH {manifest.mesh}")


async def _begin_anew(settings: Settings, manifest: Manifest) -> None:
    """Have jobs that had not ended begin anew, on the versions that the tables have now.

    What they had prepared and their checkpoints are not in a backup.
    """
    attempts = policy(settings).attempts
    async with Publisher(settings) as publisher:
        for job in (await topic_view.read(settings, JOBS, Job)).values():
            if job.table in manifest.tables and (
                job.state in OPEN or (job.state == "failed" and job.attempt < attempts)
            ):
                again = replace(
                    job,
                    state="failed",
                    attempt=0,
                    data_version=manifest.tables[job.table].version,
                    reason="a backup was restored: begun anew",
                    at=datetime.now(UTC),
                )
                await publisher.send(JOBS, again)


def _put_right(
    settings: Settings,
    held: Mapping[str, Mapping[int, int]],
    before: Before,
) -> dict[TopicPartition, int]:
    """Where a group goes on: after as many messages as it had taken of those that are there."""
    return {
        TopicPartition(settings.kafka.prefix + topic, partition): bisect_left(
            before[topic].get(partition, ()), offset
        )
        for topic, offsets in held.items()
        if topic in before
        for partition, offset in offsets.items()
    }
