"""`kailin reindex`: a new index beside the one that serves, and then in its place, in full flight.

The new one is filled from `pubmed.articles`, which is compacted by PMID and holds every record, by
the index stage's own handler. Offsets order the writes, so it does no harm that a message is
written twice, by the replay and by the index stage. The swap is one step of Elasticsearch. What the
index stage wrote to the old index until then lies before the end that the topic has after the swap,
so the replay goes on up to there, and nothing is missing.

Killed at any point, the same command goes on: the index says how far it is filled.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from elasticsearch import AsyncElasticsearch
from rich.console import Console

from consumers.ports import Embed
from infra import consumer_groups
from infra.article_replay import ArticleReplay
from infra.cli_context import DONE, FAILED, say
from infra.consumer_groups import Group
from infra.elastic import connect
from infra.file_lock import alone
from infra.index_comparison import Progress, differences, unanswered
from infra.index_versions import IndexVersions, ReindexError, Version
from infra.kafka import BrokerUnreachable, group_name, reach, topic_name
from infra.settings import Settings
from infra.stages import embedder
from infra.topic_reader import TopicReader
from streams.errors import Invalid, Misconfigured, Transient
from streams.topics import ARTICLES

# A replay that has come so close is compared; the rest is caught up with after the swap.
CLOSE = 500
# Differences that are printed.
SHOWN = 10
# The stages that know an encoder: with another one, none of them may be at work at the swap.
ENCODING = ("index", "retrieve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`force` swaps whatever the comparison says; `keep` leaves the new index unswapped."""

    force: bool = False
    keep: bool = False
    remove_old: bool = False


def run(settings: Settings, options: Options, console: Console) -> int:
    """Make the index anew; the exit status. The reason of a failure is printed as one line."""
    try:
        return asyncio.run(_run(settings, options, console))
    except (BrokerUnreachable, Invalid, Misconfigured, ReindexError, Transient, OSError) as error:
        say(console, str(error))
    except KeyboardInterrupt:
        say(console, "stopped; the same command goes on from here")
    return FAILED


def remove(settings: Settings, name: str, console: Console) -> int:
    """Delete an index that does not serve; the exit status."""

    async def gone() -> Version:
        async with connect(settings.elasticsearch) as client:
            return await IndexVersions(client, settings).remove(name)

    try:
        old = asyncio.run(gone())
    except (Misconfigured, ReindexError, Transient) as error:
        say(console, str(error))
        return FAILED
    say(console, f"{name} is removed: {old.records:,} records, {old.size / 1e6:,.1f} MB")
    return DONE


async def _run(settings: Settings, options: Options, console: Console) -> int:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(alone(settings.data / "run" / "reindex.lock"))
        client = await stack.enter_async_context(connect(settings.elasticsearch))
        versions = IndexVersions(client, settings)
        # Once it is at work, it waits for a broker that is away.
        await reach(settings)
        old, new = await _place(versions)
        embed = await stack.enter_async_context(embedder(settings))
        replay = ArticleReplay(settings, client, new, embed, console)
        if new.serves:
            say(console, f"{new.name} serves already; what came in around its swap follows")
        else:
            how = "going on with" if new.filled else "filling"
            say(console, f"{how} {new.name}, beside {old.name}, which serves")
            await replay.run(versions.next_alias, during="filling", after="filling", close=CLOSE)
            if options.keep:
                say(console, f"{new.name} is filled; without --keep it is compared and swapped in")
                return DONE
            if not await _agree(settings, client, old, new, embed, options, console):
                return FAILED
            # Noted first: killed in between, it is only compared and swapped in once more.
            await replay.note("swapped")
            await versions.swap(old, new)
            say(console, f"{new.name} serves now, in place of {old.name}")
        await replay.run(versions.alias, during="swapped", after="whole")
        if replay.refused:
            say(console, f"{replay.refused:,} messages cannot be used: see the dead letters")
        await _leave(versions, old, new, options, console)
    return DONE


async def _place(versions: IndexVersions) -> tuple[Version, Version]:
    """The index that serves and the one that is to, or those of a swap that was not finished.

    Raises `ReindexError`.
    """
    held = await versions.all()
    serving = [version for version in held if version.serves]
    if len(serving) != 1:
        raise ReindexError(
            f"elasticsearch.alias = {versions.alias}: expected one index {versions.alias}-NNNNNN "
            f"behind it, there are {len(serving)}: the index stage makes the first (`kailin up`)"
        )
    (now,) = serving
    if now.state == "swapped":
        before = [version for version in held if version.name < now.name]
        return (before or [now])[-1], now
    begun = [version for version in held if version.next]
    if not begun:
        return now, await versions.make_next(held[-1].name)
    await versions.check_next(begun[-1])
    return now, begun[-1]


async def _agree(
    settings: Settings,
    client: AsyncElasticsearch,
    old: Version,
    new: Version,
    embed: Embed,
    options: Options,
    console: Console,
) -> bool:
    """Compare the two, and print what differs; whether they may be swapped. Raises `Transient`."""
    held = {version.name: version for version in await IndexVersions(client, settings).all()}
    old, new = held[old.name], held[new.name]
    groups = await consumer_groups.groups(settings)
    progress = await _progress(settings, new, groups)
    say(
        console,
        f"{new.records:,} records in {new.name}, {old.records:,} in {old.name}; {progress.apart:,} "
        "messages may have reached one of them only",
    )
    found = await differences(client, old, new, progress)
    found += await unanswered(client, new, embed)
    for line in found[:SHOWN]:
        say(console, line)
    if found and not options.force:
        say(
            console,
            f"not swapped, for {len(found)} reasons: --force swaps all the same, "
            f"`kailin reindex --remove {new.name}` gives the new one up",
        )
        return False
    # An index that notes no encoder was made by an earlier version of this program.
    if old.encoder not in ("", new.encoder):
        names = [group_name(settings, each) for each in ENCODING]
        if busy := consumer_groups.at_work(groups, names):
            say(
                console,
                f"not swapped: {' and '.join(busy)} work with the encoder {old.encoder}: stop them "
                "and run this again, then start them with these settings",
            )
            return False
    return True


async def _progress(settings: Settings, new: Version, groups: dict[str, Group]) -> Progress:
    topic = topic_name(settings, ARTICLES)
    stage = groups.get(group_name(settings, "index"))
    offsets = stage.offsets if stage else {}
    async with TopicReader(settings, [ARTICLES], offsets) as reader:
        ends = await reader.ends()
    return Progress(
        filled=new.filled,
        stage={at.partition: next for at, next in offsets.items() if at.topic == topic},
        ends={at.partition: end for at, end in ends.items()},
    )


async def _leave(
    versions: IndexVersions, old: Version, new: Version, options: Options, console: Console
) -> None:
    if old.name == new.name:
        return
    if options.remove_old:
        await versions.remove(old.name)
        say(console, f"{old.name} is removed")
    else:
        freed = f"{old.size / 1e6:,.1f} MB"
        say(console, f"{old.name} stays; `kailin reindex --remove {old.name}` frees {freed}")
