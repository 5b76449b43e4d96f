"""Elasticsearch: the index of records, and the `Index`, `Search` and `Lookup` ports on it.

The index stands behind an alias, which is all that writers and searchers know. Only what a stock
Elasticsearch and the embedded node both have is used: no scripts, no retrievers, no `_reindex`.
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from elasticsearch import (
    ApiError,
    AsyncElasticsearch,
    BadRequestError,
    SSLError,
    TransportError,
)

from consumers.ports import Hit, Hits, Vector
from consumers.spans import step
from infra.batcher import Batcher
from infra.elastic_mapping import document, index_body, with_notes
from infra.settings import Elasticsearch, SettingsError
from infra.trust import trust
from streams.citation import Article
from streams.errors import Invalid, Transient
from streams.records import SearchMode

Answer = TypeVar("Answer")

# A record is at most 1 MiB on its topic, so a full bulk stays under the node's 100 MB limit.
BULK = 64
SEARCHES = 16
LOOKUPS = 64
# Records that are looked up in one request.
PMIDS = 1000
LINGER = 0.005

# Closer to exhaustive than `depth` alone: the graph search is approximate, and more so the fewer
# candidates it keeps.
CANDIDATES_PER_HIT = 2
LEAST_CANDIDATES = 100
MOST_CANDIDATES = 10_000


def connect(settings: Elasticsearch) -> AsyncElasticsearch:
    """A client that leaves retrying to its caller. To be closed by it, too.

    Raises `SettingsError` where the CA file cannot be used.
    """
    options: dict[str, Any] = {"request_timeout": 30.0, "max_retries": 0}
    if key := settings.api_key.get_secret_value():
        options["api_key"] = key
    elif settings.username:
        options["basic_auth"] = (settings.username, settings.password.get_secret_value())
    if settings.ca_file:
        options["ssl_context"] = trust(settings.ca_file, "elasticsearch.ca_file")
    return AsyncElasticsearch(settings.address, **options)


async def prepare(
    client: AsyncElasticsearch, alias: str, dimensions: int, encoder: str = "", shards: int = 1
) -> None:
    """Make the index `<alias>-000001` behind `alias`, or check the one that is there.

    An index that differs is left as it is; a new one has so many `shards`, and `encoder` noted.
    Raises `SettingsError` with what differs, and `Transient` while Elasticsearch is away.
    """
    if not await call(client.indices.exists_alias(name=alias)):
        body = with_notes(index_body(dimensions, shards), {"encoder": encoder})
        await _create(client, alias, body)
    await check(client, alias, dimensions)


async def check(client: AsyncElasticsearch, alias: str, dimensions: int) -> None:
    """See that the index behind `alias` is as this program makes it. Raises as `prepare` does."""
    held = await call(client.indices.get(index=alias))
    for name, index in held.items():
        _check(alias, name, index["mappings"], index_body(dimensions)["mappings"])


async def _create(client: AsyncElasticsearch, alias: str, body: Mapping[str, Any]) -> None:
    name = f"{alias}-000001"
    try:
        await call(
            client.indices.create(index=name, aliases={alias: {"is_write_index": True}}, **body)
        )
    except BadRequestError as error:
        if error.error == "resource_already_exists_exception":
            # Another worker was first, unless the alias is still missing.
            if await call(client.indices.exists_alias(name=alias)):
                return
            wrong = f"the index {name} is there, but the alias does not point to it"
        else:
            wrong = f"the index {name} cannot be made: {_reason(error.body)}"
        raise SettingsError(f"elasticsearch.alias = {alias}: {wrong}") from None


def _check(alias: str, name: str, held: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for path, value in _leaves(expected):
        found: Any = held
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        # The server gives some numbers and booleans back as strings.
        if str(found).lower() != str(value).lower():
            field = ".".join(path).removeprefix("properties.")
            raise SettingsError(
                f"elasticsearch.alias = {alias}: the mapping of {name} has {field} = {found}, "
                f"expected {value}: `kailin reindex` makes one as the settings have it"
            )


def _leaves(tree: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    return [
        leaf
        for key, value in tree.items()
        for leaf in (
            _leaves(value, (*at, key)) if isinstance(value, Mapping) else [((*at, key), value)]
        )
    ]


async def check_not_ahead(
    client: AsyncElasticsearch, alias: str, topic: str, end_offset: int
) -> None:
    """See that the index was filled from this topic, whose greatest end offset is given.

    Offsets order the writes: against an index that is ahead of the topic every one would be stale.
    Raises `SettingsError`, and `Transient` while Elasticsearch is away.
    """
    largest = {"largest": {"max": {"field": "offset"}}}
    answer = await call(
        client.search(index=alias, size=0, aggregations=largest, allow_partial_search_results=False)
    )
    held = answer["aggregations"]["largest"]["value"]
    if held is not None and held >= end_offset:
        raise SettingsError(
            f"elasticsearch.alias = {alias}: the index holds a record of offset {held:.0f}, but "
            f"topic {topic} ends before offset {end_offset}: the topic was made anew, or `kafka` "
            "in the settings names another broker than before; `kailin reindex --force` fills a "
            "new index from the topic, or choose another alias"
        )


async def count(client: AsyncElasticsearch, alias: str) -> int:
    """How many records can be searched; none before there is an index. Raises `Transient`."""
    answer = await call(client.count(index=alias, ignore_unavailable=True))
    return int(answer["count"])


@dataclass(frozen=True, slots=True)
class _Write:
    """`document` is None where the record is deleted."""

    pmid: int
    version: int
    document: dict[str, Any] | None


class ElasticIndex:
    """The `Index` port: concurrent calls share one bulk request."""

    def __init__(self, client: AsyncElasticsearch, alias: str) -> None:
        self._client = client
        self._alias = alias
        self._write: Batcher[_Write, bool] = Batcher(self._bulk, size=BULK, linger=LINGER)

    async def put(self, article: Article, vector: Vector, *, version: int) -> bool:
        return await self._write(_Write(article.pmid, version, document(article, vector, version)))

    async def delete(self, pmid: int, *, version: int) -> bool:
        return await self._write(_Write(pmid, version, None))

    async def _bulk(self, writes: Sequence[_Write]) -> list[bool | Exception]:
        try:
            return await self._request(writes)
        except ApiError as error:
            # Refused as a whole, for its size say: find what of it can be written.
            if len(writes) == 1:
                return [_failure(error.status_code, error.body, "index refused")]
        half = len(writes) // 2
        return await self._bulk(writes[:half]) + await self._bulk(writes[half:])

    async def _request(self, writes: Sequence[_Write]) -> list[bool | Exception]:
        lines: list[dict[str, Any]] = []
        for write in writes:
            place = {
                "_id": str(write.pmid),
                "version": write.version,
                "version_type": "external",
            }
            if write.document is None:
                lines.append({"delete": place})
            else:
                lines += [{"index": place}, write.document]
        # Without the alias a bulk would make an index of that name, of guessed types.
        answer = await call(
            self._client.bulk(index=self._alias, operations=lines, require_alias=True)
        )
        return [_outcome(outcome) for item in answer["items"] for outcome in item.values()]


def _outcome(item: Mapping[str, Any]) -> bool | Exception:
    """Whether one write of a bulk changed anything, or what became of it instead."""
    status = item["status"]
    if status in (200, 201):
        return True
    # 409: the version held is not below this one. A 404 without error is the deletion of a record
    # that was not there, which leaves its version behind all the same.
    if status == 409 or (status == 404 and "error" not in item):
        return False
    return _failure(status, item.get("error"), "index refused")


@dataclass(frozen=True, slots=True)
class _Query:
    question: str
    vector: Vector | None
    mode: SearchMode
    depth: int
    exclude: int


class ElasticSearch:
    """The `Search` port: concurrent calls share one msearch, of one or two searches each."""

    def __init__(self, client: AsyncElasticsearch, alias: str) -> None:
        self._client = client
        self._alias = alias
        self._search: Batcher[_Query, Hits] = Batcher(self._msearch, size=SEARCHES, linger=LINGER)

    async def __call__(
        self, question: str, vector: Vector | None, *, mode: SearchMode, depth: int, exclude: int
    ) -> Hits:
        with step("search", {"kailin.mode": mode, "kailin.depth": depth}):
            return await self._search(_Query(question, vector, mode, depth, exclude))

    async def _msearch(self, queries: Sequence[_Query]) -> list[Hits | Exception]:
        asked = [_bodies(query) for query in queries]
        lines: list[dict[str, Any]] = []
        for body in (body for bodies in asked for body in bodies):
            lines += [{"allow_partial_search_results": False}, body]
        answer = await call(self._client.msearch(index=self._alias, searches=lines))
        responses = iter(answer["responses"])
        return [
            _answered(query.mode, [next(responses) for _ in bodies])
            for query, bodies in zip(queries, asked, strict=True)
        ]


class ElasticLookup:
    """The `Lookup` port: concurrent calls share their requests, which see what was just written."""

    def __init__(self, client: AsyncElasticsearch, alias: str) -> None:
        self._client = client
        self._alias = alias
        self._look: Batcher[Sequence[int], dict[int, tuple[str, ...]]] = Batcher(
            self._mget, size=LOOKUPS, linger=LINGER
        )

    async def __call__(self, pmids: Sequence[int]) -> dict[int, tuple[str, ...]]:
        return await self._look(pmids) if pmids else {}

    async def _mget(
        self, asked: Sequence[Sequence[int]]
    ) -> Sequence[dict[int, tuple[str, ...]] | Exception]:
        found: dict[int, tuple[str, ...]] = {}
        pmids = [str(pmid) for pmid in sorted({pmid for some in asked for pmid in some})]
        for start in range(0, len(pmids), PMIDS):
            part = pmids[start : start + PMIDS]
            answer = await call(
                self._client.mget(index=self._alias, ids=part, source_includes=["mesh"])
            )
            for item in answer["docs"]:
                if "error" in item:
                    raise Transient("elasticsearch failing", _reason(item["error"]))
                if item["found"]:
                    found[int(item["_id"])] = tuple(item["_source"]["mesh"])
        return [{pmid: found[pmid] for pmid in some if pmid in found} for some in asked]


class ElasticVersions:
    """The `Versions` port."""

    def __init__(self, client: AsyncElasticsearch, alias: str) -> None:
        self._client = client
        self._alias = alias

    async def __call__(self, pmid: int) -> int | None:
        # A multi-get tells a record that is not there from an index that is not.
        answer = await call(self._client.mget(index=self._alias, ids=[str(pmid)], source=False))
        (item,) = answer["docs"]
        if "error" in item:
            raise Transient("elasticsearch failing", _reason(item["error"]))
        return int(item["_version"]) if item["found"] else None


def _answered(mode: SearchMode, answers: Sequence[Mapping[str, Any]]) -> Hits | Exception:
    for answer in answers:
        if "error" in answer:
            return _failure(answer["status"], answer["error"], "search refused")
        if answer["timed_out"] or answer["_shards"]["failed"]:
            return Transient("elasticsearch overloaded", "a search came back incomplete")
    return Hits(
        bm25=() if mode == "dense" else _hits(answers[0]),
        dense=() if mode == "bm25" else _hits(answers[-1]),
    )


def _bodies(query: _Query) -> list[dict[str, Any]]:
    others = {"bool": {"must_not": {"ids": {"values": [str(query.exclude)]}}}}
    shared = {"size": query.depth, "_source": ["title", "abstract", "mesh"]}
    words = {"query": query.question, "fields": ["title^2", "abstract"]}
    bm25 = {"query": {"bool": {"must": {"multi_match": words}, "filter": others}}}
    if query.mode == "bm25" or query.vector is None:
        return [shared | bm25]
    candidates = min(max(CANDIDATES_PER_HIT * query.depth, LEAST_CANDIDATES), MOST_CANDIDATES)
    dense = {
        "knn": {
            "field": "embedding",
            "query_vector": query.vector.tolist(),
            "k": query.depth,
            "num_candidates": candidates,
            "filter": others,
        }
    }
    return [shared | dense] if query.mode == "dense" else [shared | bm25, shared | dense]


def _hits(answer: Mapping[str, Any]) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            pmid=int(hit["_id"]),
            title=hit["_source"]["title"],
            abstract=hit["_source"]["abstract"],
            mesh=tuple(hit["_source"]["mesh"]),
        )
        for hit in answer["hits"]["hits"]
    )


async def call(request: Awaitable[Answer]) -> Answer:
    """The answer to a request as a whole; what failed within it is for the caller to see."""
    try:
        return await request
    except ApiError as error:
        if error.status_code in (400, 413):
            raise
        raise _failure(error.status_code, error.body, "") from None
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in error.message:
            raise Transient("elasticsearch away", error.message) from None
        raise SettingsError(
            f"elasticsearch.ca_file: the server's certificate is not trusted: {error.message}"
        ) from None
    except TransportError as error:
        raise Transient("elasticsearch away", str(error)) from None


def _failure(status: int, error: object, refused: str) -> Exception:
    """The verdict on an HTTP status, of a whole request or of one item of it."""
    detail = _reason(error)
    if status in (400, 413):
        return Invalid(refused, detail)
    if status in (401, 403) and "block" not in detail:
        return SettingsError(
            f"elasticsearch: the server refused (status {status}: {detail}); check api_key, or "
            "username and password, and the rights they carry"
        )
    # A write block, a missing index: nothing is lost by waiting until someone has put it right.
    reasons = {403: "index blocked", 404: "index missing", 429: "elasticsearch overloaded"}
    return Transient(reasons.get(status, "elasticsearch failing"), f"status {status}: {detail}")


def _reason(error: object) -> str:
    """The server's words for an error, with its cause's, from the body or part of one."""
    if not isinstance(error, Mapping):
        return str(error)
    inner = error.get("error", error)
    if not isinstance(inner, Mapping):
        return str(inner)
    causes = [inner, inner.get("caused_by")]
    return "; ".join(str(cause["reason"]) for cause in causes if cause and "reason" in cause)
