"""What the Elasticsearch adapter makes of a server's answers, given over real HTTP."""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from elasticsearch import AsyncElasticsearch

from consumers.ports import Vector
from fakes.records import article
from infra.elastic import ElasticIndex, ElasticSearch, check_not_ahead, connect, prepare
from infra.settings import Elasticsearch, SettingsError
from streams.errors import Invalid, Transient

LOOPBACK = ipaddress.ip_address("127.0.0.1")
VECTOR: Vector = np.array([1, 0, 0, 0], dtype=np.float32)


def reply(body: object, status: int = 200) -> web.Response:
    """An answer as Elasticsearch's: its client looks for the header."""
    headers = {"X-Elastic-Product": "Elasticsearch"}
    return web.json_response(body, status=status, headers=headers)


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[..., Any]]:
    """`await scripted(answer)`: a client of a server that gives `answer(lines)` to each request."""
    closing: list[Callable[[], Any]] = []

    async def serve(
        answer: Callable[[list[Any]], web.Response],
        expect: str = "",
        certificate: Path | None = None,
        **settings: Any,
    ) -> AsyncElasticsearch:
        async def handle(request: web.Request) -> web.Response:
            if request.headers.get("Authorization", "") != expect:
                return reply({"error": {"reason": "who are you?"}}, 401)
            return answer([json.loads(line) for line in (await request.text()).splitlines()])

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        tls = None
        if certificate:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(certificate)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "https" if certificate else "http"
        url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        client = connect(Elasticsearch(url=url, **settings))
        closing.extend([client.close, runner.cleanup])
        return client

    yield serve
    for close in closing:
        await close()


def refusal(status: int, reason: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": "scripted", "reason": reason}}


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_an_overloaded_server_is_transient(scripted: Callable[..., Any], status: int) -> None:
    client = await scripted(lambda lines: reply({"error": {"reason": "busy"}}, status))

    with pytest.raises(Transient, match="busy"):
        await ElasticIndex(client, "a").put(article(10), VECTOR, version=1)
    with pytest.raises(Transient, match="busy"):
        await ElasticSearch(client, "a")("aspirin", VECTOR, mode="hybrid", depth=5, exclude=1)
    with pytest.raises(Transient, match=f"status {status}"):
        await prepare(client, "a", 4)


async def test_each_write_of_a_bulk_has_its_own_outcome(scripted: Callable[..., Any]) -> None:
    outcomes = {
        "10": {"status": 201},
        "11": refusal(409, "version conflict"),
        "12": refusal(400, "failed to parse"),
        "13": refusal(429, "queue is full"),
        "14": refusal(503, "primary shard is not active"),
        "15": {"status": 200},
    }

    def answer(lines: list[Any]) -> web.Response:
        ids = [line["index"]["_id"] for line in lines if "index" in line]
        return reply({"errors": True, "items": [{"index": outcomes[id]} for id in ids]})

    index = ElasticIndex(await scripted(answer), "a")

    done = await asyncio.gather(
        *(index.put(article(pmid), VECTOR, version=1) for pmid in range(10, 16)),
        return_exceptions=True,
    )

    put, stale, refused, full, inactive, again = done
    assert (put, stale, again) == (True, False, True)
    assert isinstance(refused, Invalid)
    assert (refused.reason, refused.detail) == ("index refused", "failed to parse")
    assert isinstance(full, Transient)
    assert "queue is full" in full.detail
    assert isinstance(inactive, Transient)


async def test_each_search_of_an_msearch_has_its_own_outcome(
    scripted: Callable[..., Any],
) -> None:
    found: dict[str, Any] = {
        "timed_out": False,
        "_shards": {"failed": 0},
        "hits": {"hits": [{"_id": "7", "_source": {"title": "T", "abstract": "", "mesh": []}}]},
    }
    outcomes = {
        "good": found,
        "bad": refusal(400, "no such field"),
        "full": refusal(429, "queue is full"),
        "slow": found | {"timed_out": True},
        "partial": found | {"_shards": {"failed": 1}},
    }

    def answer(lines: list[Any]) -> web.Response:
        words = [line["query"]["bool"]["must"]["multi_match"]["query"] for line in lines[1::2]]
        return reply({"responses": [outcomes[word] for word in words]})

    search = ElasticSearch(await scripted(answer), "a")

    good, bad, full, slow, partial = await asyncio.gather(
        *(search(word, None, mode="bm25", depth=5, exclude=1) for word in outcomes),
        return_exceptions=True,
    )

    assert [hit.pmid for hit in good.bm25] == [7]  # type: ignore[union-attr]
    assert isinstance(bad, Invalid)
    assert (bad.reason, bad.detail) == ("search refused", "no such field")
    assert [type(outcome) for outcome in (full, slow, partial)] == [Transient] * 3


async def test_concurrent_calls_share_requests(scripted: Callable[..., Any]) -> None:
    bulks: list[int] = []

    def answer(lines: list[Any]) -> web.Response:
        bulks.append(len(lines) // 2)
        return reply({"items": [{"index": {"status": 201}}] * (len(lines) // 2)})

    index = ElasticIndex(await scripted(answer), "a")
    await asyncio.gather(*(index.put(article(pmid), VECTOR, version=1) for pmid in range(1, 129)))

    assert bulks == [64, 64]


@pytest.mark.parametrize("status", [400, 413])
async def test_a_bulk_that_is_refused_as_a_whole_is_halved(
    scripted: Callable[..., Any], status: int
) -> None:
    """As by a proxy, which limits a body's size and knows nothing of records."""

    def answer(lines: list[Any]) -> web.Response:
        ids = [line["index"]["_id"] for line in lines[::2]]
        if len(ids) > 3 or "13" in ids:
            return web.Response(text="<html>too large</html>", status=status)
        return reply({"items": [{"index": {"status": 201}} for _ in ids]})

    index = ElasticIndex(await scripted(answer), "a")

    done = await asyncio.gather(
        *(index.put(article(pmid), VECTOR, version=1) for pmid in range(10, 20)),
        return_exceptions=True,
    )

    refused = done.pop(3)
    assert isinstance(refused, Invalid)
    assert refused.reason == "index refused"
    assert done == [True] * 9


async def test_an_index_as_far_as_its_topic_or_behind_is_sound(
    scripted: Callable[..., Any],
) -> None:
    for largest in (None, 41.0):
        answer = index_of(largest)
        await check_not_ahead(await scripted(lambda lines: reply(answer)), "a", "t", 42)  # noqa: B023


async def test_an_index_ahead_of_its_topic_is_told(scripted: Callable[..., Any]) -> None:
    client = await scripted(lambda lines: reply(index_of(42.0)))

    with pytest.raises(SettingsError) as raised:
        await check_not_ahead(client, "library", "pubmed.articles", 42)

    assert str(raised.value) == (
        "elasticsearch.alias = library: the index holds a record of offset 42, but topic "
        "pubmed.articles ends before offset 42: the topic was made anew, or `kafka` in the "
        "settings names another broker than before; `kailin reindex --force` fills a new index "
        "from the topic, or choose another alias"
    )


def index_of(largest: float | None) -> dict[str, Any]:
    return {"aggregations": {"largest": {"value": largest}}}


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ({"api_key": "a2V5"}, "ApiKey a2V5"),
        ({"username": "ada", "password": "open"}, "Basic YWRhOm9wZW4="),
    ],
)
async def test_credentials_are_sent_and_never_shown(
    scripted: Callable[..., Any], credentials: dict[str, str], header: str
) -> None:
    client = await scripted(
        lambda lines: reply({"items": [{"index": {"status": 201}}]}), expect=header, **credentials
    )
    assert await ElasticIndex(client, "a").put(article(10), VECTOR, version=1)

    stranger = await scripted(lambda lines: reply({}), expect="ApiKey other", **credentials)
    with pytest.raises(SettingsError, match=r"status 401: who are you\?.*check api_key") as raised:
        await ElasticIndex(stranger, "a").put(article(10), VECTOR, version=1)
    assert "\n" not in str(raised.value)
    assert not any(secret in str(raised.value) for secret in ("a2V5", "open", "YWRhOm9wZW4"))


async def test_nobody_listening_is_transient() -> None:
    client = connect(Elasticsearch(url="http://127.0.0.1:9"))
    try:
        with pytest.raises(Transient, match="elasticsearch away"):
            await ElasticSearch(client, "a")("aspirin", None, mode="bm25", depth=5, exclude=1)
    finally:
        await client.close()


async def test_a_server_that_is_silent_is_transient(scripted: Callable[..., Any]) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    client = connect(Elasticsearch(url=f"http://127.0.0.1:{port}")).options(request_timeout=0.2)
    try:
        with pytest.raises(Transient, match="elasticsearch away"):
            await ElasticSearch(client, "a")("aspirin", None, mode="bm25", depth=5, exclude=1)
    finally:
        await client.close()
        silent.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A PEM file of a key and a certificate of 127.0.0.1 that only itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "node.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + signed.public_bytes(pem)
    )
    return file


async def test_a_server_over_tls_is_trusted_by_its_ca_alone(
    scripted: Callable[..., Any], certificate: Path
) -> None:
    def answer(lines: list[Any]) -> web.Response:
        return reply({"items": [{"index": {"status": 201}}]})

    trusting = await scripted(answer, certificate=certificate, ca_file=certificate)
    assert await ElasticIndex(trusting, "a").put(article(10), VECTOR, version=1)

    wary = await scripted(answer, certificate=certificate)
    with pytest.raises(SettingsError, match=r"^elasticsearch\.ca_file: .*not trusted"):
        await ElasticIndex(wary, "a").put(article(10), VECTOR, version=1)
