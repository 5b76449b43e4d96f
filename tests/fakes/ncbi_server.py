"""A server that behaves like NCBI: the E-utilities and NLM's files over HTTP, faults by script.

    with running_ncbi(records(25_000)) as ncbi:
        ... ncbi.eutils, ncbi.files               # addresses for [ncbi] in the settings
        ncbi.holdings.put(...)                    # the source changes while it is read
        ncbi.publish("updatefiles", "pubmed26n1335.xml.gz", holds, deletions)
        ncbi.script = lambda asked: SERVER_ERROR if asked.number % 3 == 0 else None
        ... ncbi.asked                            # every request, with the time of its arrival

The rate limit is NCBI's: so many requests in any second of one API key, or of one address that
gives none, and 429 for those above it. The file tree has none.
"""

import asyncio
import hashlib
import json
import random
import re
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from aiohttp import web

from fakes.ncbi_eutils import FETCH_DTD, Eutils, Holdings
from fakes.pubmed_records import Record, nlm_file


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the `number`th of all, counting from 1; `endpoint` is esearch, epost, efetch,
    or the path of a file under /pubmed."""

    number: int
    endpoint: str
    params: Mapping[str, str]
    at: float
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request.

    `body` None is the answer that it would have got: `cut` closes the connection in its middle,
    `truncated` sends its first half as if it were whole, `damaged` changes a byte of it. `hang` is
    seconds of silence before it, and `expired` forgets every history first.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/xml"
    cut: bool = False
    truncated: bool = False
    damaged: bool = False
    hang: float = 0.0
    expired: bool = False


Script = Callable[[Asked], Fault | None]

TOO_MANY = Fault(
    status=429,
    body=b'{"error":"API rate limit exceeded","api-key":"127.0.0.1","count":"4","limit":"3"}\n',
    headers={"Retry-After": "1"},
    content_type="application/json",
)
# NCBI's front end has also been met to answer so with 200.
TOO_MANY_IN_200 = replace(TOO_MANY, status=200, headers={})
SERVER_ERROR = Fault(
    status=500,
    body=b"<html><head><title>NCBI/eutils202 - WWW Error 500 Diagnostic</title></head>"
    b"<body><h1>Server Error</h1></body></html>",
    content_type="text/html",
)
BAD_GATEWAY = replace(SERVER_ERROR, status=502, body=b"error forwarding request")
AWAY = replace(SERVER_ERROR, status=503, body=b"Service Unavailable")
HTML_PAGE = Fault(
    body=b'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 '
    b'Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n<html '
    b'xmlns="http://www.w3.org/1999/xhtml"><head><title>Error</title></head><body>Under '
    b"maintenance.</body></html>",
    content_type="text/html",
)
ERROR_ELEMENT = Fault(
    body=f'<?xml version="1.0" encoding="UTF-8" ?>\n{FETCH_DTD}<eFetchResult>\n\t<ERROR>Error: '
    "External viewer error: Empty Response. Bytes read: 0 Status: Timeout</ERROR>\n"
    "</eFetchResult>".encode()
)
# The same comes as a 400 as well.
ERROR_ELEMENT_400 = replace(ERROR_ELEMENT, status=400)
CUT = Fault(cut=True)
TRUNCATED = Fault(truncated=True)
DAMAGED = Fault(damaged=True)
HISTORY_EXPIRED = Fault(expired=True)
HANG = Fault(hang=3600.0)

EUTILS_FAULTS = (
    TOO_MANY,
    TOO_MANY_IN_200,
    SERVER_ERROR,
    BAD_GATEWAY,
    AWAY,
    HTML_PAGE,
    ERROR_ELEMENT,
    ERROR_ELEMENT_400,
    CUT,
    TRUNCATED,
    HISTORY_EXPIRED,
    HANG,
)
FILE_FAULTS = (TOO_MANY, SERVER_ERROR, BAD_GATEWAY, AWAY, HTML_PAGE, CUT, TRUNCATED, HANG)

FOLDERS = ("baseline/", "updatefiles/")


def ordinary(asked: Asked) -> Fault | None:
    return None


def in_turn(*faults: Fault | None, endpoint: str = "") -> Script:
    """Gives `faults` in turn to the requests whose endpoint ends so, then none."""
    left = list(faults)
    return lambda asked: left.pop(0) if left and asked.endpoint.endswith(endpoint) else None


def at_random(seed: int, share: float, *, in_a_row: int = 3, wait: float | None = None) -> Script:
    """A fault of any kind to a `share` of all requests, at most `in_a_row` without a break.

    `wait`, in seconds, replaces what 429 asks to wait.
    """
    chance, row = random.Random(seed), 0

    def script(asked: Asked) -> Fault | None:
        nonlocal row
        if row >= in_a_row or chance.random() >= share:
            row = 0
            return None
        row += 1
        kinds = FILE_FAULTS if "/" in asked.endpoint else EUTILS_FAULTS
        if asked.endpoint.endswith(".gz"):
            kinds = (*FILE_FAULTS, DAMAGED)
        fault = chance.choice(kinds)
        if wait is not None and "Retry-After" in fault.headers:
            return replace(fault, headers={"Retry-After": f"{wait:g}"})
        return fault

    return script


class NcbiServer:
    """Serves while entered. `limits` are requests a second without and with an API key; `ranges`
    whether files can be had from an offset, `compressed` whether the utilities answer in gzip."""

    def __init__(
        self,
        records: Iterable[Record] = (),
        script: Script = ordinary,
        *,
        port: int = 0,
        limits: tuple[int, int] = (3, 10),
        ranges: bool = True,
        compressed: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.holdings = Holdings(records)
        self.script = script
        self.limits = limits
        self.ranges = ranges
        self.compressed = compressed
        self._tls = tls
        self.asked: list[Asked] = []
        self.tree: dict[str, bytes] = {}
        self._utilities = Eutils(self.holdings)
        self._arrivals: dict[str, deque[float]] = defaultdict(deque)
        self._port = port

    @property
    def eutils(self) -> str:
        return f"{self._address}/entrez/eutils"

    @property
    def files(self) -> str:
        return f"{self._address}/pubmed"

    @property
    def _address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def expire(self) -> None:
        """Forget every history."""
        self._utilities.expire()

    def publish(
        self,
        folder: str,
        name: str,
        holds: Sequence[Record] = (),
        deletions: Iterable[tuple[int, int]] = (),
        *,
        content: bytes | None = None,
    ) -> bytes:
        """Put a file and its .md5 into `baseline` or `updatefiles`; what it holds, or `content`."""
        if content is None:
            content = nlm_file(holds, deletions)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.tree = self.tree | {
            f"{folder}/{name}": content,
            f"{folder}/{name}.md5": f"MD5({name})= {digest}\n".encode(),
        }
        return content

    def withdraw(self, folder: str, name: str) -> None:
        """Take a file and its .md5 away."""
        self.tree = {path: c for path, c in self.tree.items() if f"{folder}/{name}" not in path}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        for utility in self._utilities.answer:
            app.router.add_route("*", f"/entrez/eutils/{utility}.fcgi", self._utility)
        app.router.add_get("/pubmed/{path:.*}", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _utility(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.path.rsplit("/", 1)[1].removesuffix(".fcgi")
        params = {**request.query, **{k: str(v) for k, v in (await request.post()).items()}}
        asked = self._take(endpoint, params)
        if over := self._over_limit(params.get("api_key"), request.remote or ""):
            return await _send(request, over, b"")
        fault = self.script(asked) or Fault()
        if fault.expired:
            self.expire()
        answer = self._utilities.answer[endpoint](params)
        if answer.status != 200 and fault.body is None:
            fault = replace(fault, status=answer.status)
        return await _send(request, fault, answer.body, compressed=self.compressed)

    def _over_limit(self, key: str | None, address: str) -> Fault | None:
        limit = self.limits[1 if key else 0]
        arrivals = self._arrivals[key or address]
        now = time.monotonic()
        arrivals.append(now)
        while arrivals[0] <= now - 1.0:
            arrivals.popleft()
        if len(arrivals) <= limit:
            return None
        body = {
            "error": "API rate limit exceeded",
            "api-key": key or address,
            "count": str(len(arrivals)),
            "limit": str(limit),
        }
        remaining = {"X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": "0"}
        return replace(
            TOO_MANY,
            body=json.dumps(body, separators=(",", ":")).encode(),
            headers={"Retry-After": "1", **remaining},
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        offset = int(match[1]) if match and self.ranges else 0
        fault = self.script(self._take(path, request.query, offset)) or Fault()
        if path in FOLDERS:
            return await _send(request, replace(fault, content_type="text/html"), self._index(path))
        content = self.tree.get(path)
        if content is None:
            return web.Response(status=404, text="<html><h1>Not Found</h1></html>")
        if offset and offset >= len(content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"', **fault.headers}
        if fault.body is None:
            fault = replace(fault, content_type="application/x-gzip")
            if self.ranges:
                headers["Accept-Ranges"] = "bytes"
            if offset:
                end = f"{len(content) - 1}/{len(content)}"
                headers["Content-Range"] = f"bytes {offset}-{end}"
                fault = replace(fault, status=206)
        return await _send(request, replace(fault, headers=headers), content[offset:])

    def _index(self, folder: str) -> bytes:
        names = sorted(path.removeprefix(folder) for path in self.tree if path.startswith(folder))
        rows = "".join(f'<a href="{name}">{name}</a>   2026-01-29 14:48   19M\n' for name in names)
        title = f"Index of /pubmed/{folder.rstrip('/')}"
        return (
            f"<!DOCTYPE HTML>\n<html>\n<head><title>{title}</title></head>\n<body>\n"
            f"<h1>{title}</h1>\n<pre>Name                     Last modified      Size  <hr>"
            f'<a href="/pubmed/">Parent Directory</a>   -\n{rows}<hr></pre>\n</body></html>\n'
        ).encode()

    def _take(self, endpoint: str, params: Mapping[str, str], offset: int = 0) -> Asked:
        number = len(self.asked) + 1
        self.asked.append(Asked(number, endpoint, dict(params), time.monotonic(), offset))
        return self.asked[-1]


async def _send(
    request: web.Request, fault: Fault, ordinary: bytes, *, compressed: bool = False
) -> web.StreamResponse:
    await asyncio.sleep(fault.hang)
    body = ordinary if fault.body is None else fault.body
    if fault.truncated:
        body = body[: len(body) // 2]
    if fault.damaged and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
    if not fault.cut:
        whole = web.Response(
            body=body,
            status=fault.status,
            headers=fault.headers,
            content_type=fault.content_type,
        )
        if compressed:
            whole.enable_compression()
        return whole
    half = web.StreamResponse(status=fault.status, headers=fault.headers)
    half.content_type, half.content_length = fault.content_type, len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    # What was written leaves before the connection breaks.
    await asyncio.sleep(0.01)
    assert request.transport is not None
    request.transport.abort()
    return half


@contextmanager
def running_ncbi(
    records: Iterable[Record] = (), script: Script = ordinary, **options: object
) -> Iterator[NcbiServer]:
    """The server in a thread of its own; what it holds and its script may change at any time."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = NcbiServer(records, script, **options)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: NcbiServer) -> None:
    await server.__aexit__(None, None, None)
    # What hangs by script would hang on.
    hanging = asyncio.all_tasks() - {asyncio.current_task()}
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
