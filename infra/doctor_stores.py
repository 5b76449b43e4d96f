"""What `kailin doctor` looks at in Kafka, Elasticsearch, the tables, and MeSH."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from aiokafka.errors import KafkaError
from elasticsearch import AsyncElasticsearch
from elasticsearch import __version__ as client_version

from infra import elastic, mesh_edition
from infra.backup import cluster_id
from infra.consumer_groups import groups
from infra.finding import Finding, ok, problem, warning
from infra.index_versions import IndexVersions, Version
from infra.kafka import BrokerUnreachable, group_name
from infra.mesh_files import source_path
from infra.settings import Settings, SettingsError
from infra.tables import (
    SCHEMAS,
    STORE_ERRORS,
    TableError,
    check_columns,
    location,
    one_line,
    open_table,
    select,
)
from infra.topic_admin import TopicError, compare_topics
from streams.errors import Transient
from streams.mesh import MeshError
from streams.topics import TOPICS

# A log of so many files makes every commit slow, and says that nobody tidies the tables.
LOG_FILES = 20_000


async def kafka(settings: Settings) -> list[Finding]:
    """The broker, and its topics against the table of topics."""
    try:
        cluster = await cluster_id(settings)
        found = [ok("kafka", f"{settings.kafka.servers} answers, cluster {cluster}")]
        differences = await compare_topics(settings)
    except BrokerUnreachable as error:
        return [problem("kafka", str(error), "start it (`kailin up`), or mend the settings")]
    except (TopicError, KafkaError) as error:
        remedy = "does this user have the rights that `kailin acls operator` shows?"
        return [problem("kafka", f"topics cannot be described: {error}", remedy)]
    for difference in differences:
        said = (
            f"topic {difference.topic}: {difference.setting} is {difference.found}, "
            f"expected {difference.expected}"
        )
        found.append(warning("kafka", said, difference.remedy))
    if not differences:
        found.append(ok("kafka", f"{len(TOPICS)} topics as the table of topics has them"))
    return found


async def consumers(settings: Settings) -> list[Finding]:
    """Which stages have workers, and groups that nobody here knows."""
    try:
        held = await groups(settings)
    except BrokerUnreachable:
        return [warning("consumer groups", "not looked at: there is no broker", "see kafka")]
    except Transient as error:
        return [problem("consumer groups", str(error), "see kafka")]
    ours = (*settings.ports.stages, "ingest", "trainer", "deployer")
    known = {group_name(settings, stage) for stage in ours}
    working = [name for name in held if name in known and held[name].members]
    found = [ok("consumer groups", f"{len(working)} have workers")]
    for stage in settings.ports.stages:
        name = group_name(settings, stage)
        if name in held and not held[name].members:
            said = f"{name} has been at work, and has no worker now"
            found.append(warning("consumer groups", said, f"`kailin run {stage}` starts one"))
    for name in sorted(held.keys() - known):
        said = f"{name} is no group of a stage"
        remedy = "if nobody needs it: kafka-consumer-groups.sh --delete --group " + name
        found.append(warning("consumer groups", said, remedy))
    return found


async def elasticsearch(settings: Settings) -> list[Finding]:
    """The node's version, the index behind the alias, and what lies beside it."""
    of = settings.elasticsearch
    try:
        client = elastic.connect(of)
    except SettingsError as error:
        return [problem("elasticsearch", str(error), "mend the settings")]
    try:
        version = str((await elastic.call(client.info()))["version"]["number"])
        found = [_version(of.address, version)]
        found += await _health(client)
        held = await IndexVersions(client, settings).all()
        found += list(_indices(settings, held))
        if any(index.serves for index in held):
            await elastic.check(client, of.alias, settings.embedder.dimensions)
    except Transient as error:
        found = [problem("elasticsearch", f"{of.address}: {error}", "start it, or mend the url")]
    except SettingsError as error:
        found.append(problem("elasticsearch", str(error), "mend the settings, or reindex"))
    finally:
        await client.close()
    return found


def _version(address: str, version: str) -> Finding:
    ours = client_version[0]
    if int(version.split(".")[0]) != ours:
        said = f"{address} is version {version}, the client here is for {ours}"
        return problem("elasticsearch", said, f"use an Elasticsearch {ours}")
    return ok("elasticsearch", f"{address} answers, version {version}")


async def _health(client: AsyncElasticsearch) -> list[Finding]:
    health = await elastic.call(client.cluster.health())
    if health["status"] == "red":
        remedy = "see what Elasticsearch logs: a shard has no copy that can be read"
        return [problem("elasticsearch", "the cluster's status is red", remedy)]
    return []


def _indices(settings: Settings, held: list[Version]) -> Iterator[Finding]:
    alias = settings.elasticsearch.alias
    serving = [index for index in held if index.serves]
    if len(serving) != 1:
        said = f"alias {alias}: {len(serving)} indices stand behind it"
        yield warning("elasticsearch", said, "the index stage makes the first one when it starts")
    for index in held:
        said = f"{index.name}: {index.records:,} records, {index.size / 1e6:,.1f} MB"
        if index.serves and index.state == "swapped":
            yield problem(
                "elasticsearch",
                f"{said}; it lacks what came in while it was swapped in",
                "run `kailin reindex` once more",
            )
        elif index.serves and index.encoder not in ("", settings.embedder.name):
            yield problem(
                "elasticsearch",
                f"{said}; filled with the encoder {index.encoder}, and `embedder` names "
                f"{settings.embedder.name}",
                "`kailin reindex` fills one with the encoder of the settings",
            )
        elif index.serves:
            yield ok("elasticsearch", f"{said}; serves")
        elif index.next:
            remedy = f"`kailin reindex` goes on with it, `--remove {index.name}` gives it up"
            yield warning("elasticsearch", f"{said}; half-filled by a reindex", remedy)
        else:
            remedy = f"`kailin reindex --remove {index.name}` frees its place"
            yield warning("elasticsearch", f"{said}; serves nobody", remedy)


async def tables(settings: Settings) -> list[Finding]:
    """Each table: its columns, newest version, and whether it can be read."""
    return await asyncio.to_thread(lambda: [_table(settings, name) for name in SCHEMAS])


def _table(settings: Settings, name: str) -> Finding:
    where = location(settings, name)
    try:
        delta = open_table(settings, name)
        check_columns(name, delta)
        select(settings, name, "select id from rows limit 1")
        rows, version = delta.count(), delta.version()
        written = delta.history(1)[0].get("timestamp")
    except TableError as error:
        if "there is no table" in str(error):
            return ok("tables", f"{name}: not there yet, the append stage makes it")
        return problem("tables", str(error), "see the message")
    except STORE_ERRORS as error:
        return problem("tables", f"{where}: {one_line(error)}", "is the store of the tables there?")
    at = datetime.fromtimestamp(written / 1000, UTC) if written else None
    when = f", written {at:%Y-%m-%d %H:%M} UTC" if at else ""
    said = f"{name}: {rows:,} rows, version {version}{when}"
    log = Path(where) / "_delta_log"
    if "://" not in where and sum(1 for _ in log.iterdir()) > LOG_FILES:
        remedy = "`kailin tables maintain`; does the append stage run?"
        return warning("tables", f"{said}; its log is long, which makes commits slow", remedy)
    return ok("tables", said)


async def mesh(settings: Settings) -> list[Finding]:
    """The edition of MeSH in use, and whether its file is there."""
    try:
        used = mesh_edition.current(settings)
    except MeshError as error:
        return [problem("mesh", str(error), "choose an edition with `kailin mesh use PATH`")]
    said = f"MeSH {used.edition}, {used.source}"
    if used.source.startswith("pypi://"):
        return [ok("mesh", said)]
    path = source_path(used)
    if not path.is_file():
        remedy = "bring the file back, or choose an edition with `kailin mesh use PATH`"
        return [problem("mesh", f"{said}: there is no such file", remedy)]
    return [ok("mesh", said)]
