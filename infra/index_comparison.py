"""Whether an index that was filled anew may take the place of the one that serves.

Both are written from the same topic, so a record has the same fields in both where it has the same
version. The index stage may be behind: what it has not seen yet explains a difference.
"""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.partitioner import DefaultPartitioner
from elasticsearch import AsyncElasticsearch

from consumers.ports import Embed
from infra.elastic import ElasticSearch, call
from infra.index_versions import Version

# Records that are compared field by field, looked at in so many requests, and searched for.
SAMPLE, AT_ONCE, SEARCHED = 400, 100, 20
FOUND_WITHIN = 10
# Records that share a title crowd one another out, and vectors are searched for approximately.
LEAST_FOUND = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """Offsets by partition: where the new index is, the index stage, and the topic's end."""

    filled: Mapping[int, int]
    stage: Mapping[int, int]
    ends: Mapping[int, int]

    def behind(self, partition: int) -> int:
        """How many offsets the index stage may still have to see, of those in the new index."""
        return max(0, self.filled[partition] - self.stage.get(partition, 0))

    @property
    def apart(self) -> int:
        """How many messages may be in one of the indices only."""
        return sum(
            self.behind(at) + max(0, self.ends[at] - filled) for at, filled in self.filled.items()
        )


async def differences(
    client: AsyncElasticsearch, old: Version, new: Version, progress: Progress
) -> list[str]:
    """What speaks against the new index, a line each. Raises `Transient`."""
    found = []
    lacking = old.records - new.records
    if lacking > progress.apart:
        found.append(
            f"{new.name} holds {new.records:,} records and {old.name} {old.records:,}, and only "
            f"{progress.apart:,} messages may have reached one of them alone"
        )
    seen: set[str] = set()
    for of in (old, new):
        async for pmids in _sample(client, of):
            fresh = [pmid for pmid in pmids if pmid not in seen]
            seen.update(fresh)
            if fresh:
                held, made = [await _documents(client, each, fresh) for each in (old, new)]
                for pmid in fresh:
                    if line := _difference(pmid, held.get(pmid), made.get(pmid), progress):
                        found.append(f"PMID {pmid}: {line}")
    return found


async def unanswered(client: AsyncElasticsearch, new: Version, embed: Embed) -> list[str]:
    """What speaks against the new index when it is searched, a line each. Raises `Transient`."""
    search = ElasticSearch(client, new.name)
    titles: dict[str, str] = {}
    async for pmids in _sample(client, new, SEARCHED):
        found = await _documents(client, new, pmids)
        titles |= {pmid: one["title"] for pmid, one in found.items() if one["title"].strip()}
    words = near = 0
    for pmid, title in titles.items():
        hits = await search(title, await embed(title), mode="hybrid", depth=FOUND_WITHIN, exclude=0)
        words += any(hit.pmid == int(pmid) for hit in hits.bm25)
        near += bool(hits.dense)
    lines = []
    if words < LEAST_FOUND * len(titles):
        lines.append(f"of {len(titles)} records searched for by their title {words} were found")
    if near < len(titles):
        lines.append(f"of {len(titles)} searches by vector {near} found anything")
    return lines


def _difference(
    pmid: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, progress: Progress
) -> str | None:
    """What speaks against the new document, None where nothing does."""
    if old is None:
        return None
    partitions = sorted(progress.filled)
    partition = DefaultPartitioner()(pmid.encode(), partitions, partitions)
    if old["offset"] >= progress.filled[partition]:
        return None  # it came in after the replay
    if new is None:
        if progress.behind(partition):
            return None
        return f"is in the old index only, of offset {old['offset']}"
    if new["offset"] < old["offset"]:
        return f"is of offset {new['offset']} in the new index and {old['offset']} in the old"
    if new["offset"] > old["offset"]:
        return None
    unlike = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    return f"differs in {', '.join(unlike)}" if unlike else None


async def _sample(
    client: AsyncElasticsearch, of: Version, size: int = SAMPLE
) -> AsyncIterator[list[str]]:
    """PMIDs of an index from all over it, some at a time."""
    bounds = await call(
        client.search(
            index=of.name,
            size=0,
            aggregations={
                "first": {"min": {"field": "pmid"}},
                "last": {"max": {"field": "pmid"}},
            },
        )
    )
    first, last = (bounds["aggregations"][each]["value"] for each in ("first", "last"))
    if first is None:
        return
    for start in range(0, size, AT_ONCE):
        lines: list[dict[str, Any]] = []
        for _ in range(min(AT_ONCE, size - start)):
            at = random.randint(int(first), int(last))
            lines += [{}, {"size": 1, "sort": "pmid", "query": {"range": {"pmid": {"gte": at}}}}]
            lines[-1]["_source"] = False
        answer = await call(client.msearch(index=of.name, searches=lines))
        found = (one.get("hits", {}).get("hits", ()) for one in answer["responses"])
        yield list(dict.fromkeys(hit["_id"] for hits in found for hit in hits))


async def _documents(
    client: AsyncElasticsearch, of: Version, pmids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    answer = await call(client.mget(index=of.name, ids=list(pmids)))
    return {item["_id"]: item["_source"] for item in answer["docs"] if item.get("found")}
