"""What all requests to NCBI share: one rate, one way to tell what went wrong, and the retries.

NCBI counts the requests of an address (or of an API key) as a whole, so everything that one
process asks of it goes through one `Requests`.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Literal, Self, TypeVar

import aiohttp
from yarl import URL

from infra.settings_ingest import Ncbi
from infra.trust import trust

log = logging.getLogger(__name__)

Outcome = Literal[
    "ok",
    "429",
    "server error",
    "time-out",
    "cut connection",
    "truncated XML",
    "HTML page",
    "error element",
    "history expired",
    "damaged file",
    "unexpected answer",
    "refused",
]
Count = Callable[[str, Outcome], None]
T = TypeVar("T")

# Requests leave this much further apart than the limit says: on their way they move closer.
MARGIN = 1.1
# A server that asks to wait longer than this, in seconds, is asked again after this.
LONGEST_WAIT = 3600.0
# Bytes of an answer that is kept in memory. 10,000 records of the usual size are some 200 MB.
LARGEST_ANSWER = 512 * 1024 * 1024
PAGE = re.compile(rb"<(!doctype\s+)?html\b", re.IGNORECASE)
ERROR = re.compile(rb"<ERROR>(.*?)</ERROR>", re.DOTALL)


class Failure(Exception):
    """One attempt failed. `wait` is what the server asked for, in seconds; `again` whether another
    attempt may succeed; `progress` whether this one brought a part of what was asked."""

    def __init__(
        self,
        outcome: Outcome,
        detail: str,
        *,
        wait: float = 0.0,
        again: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome = outcome
        self.detail = detail
        self.wait = wait
        self.again = again
        self.progress = progress


class RequestFailed(Exception):
    """A request failed at its last attempt; the message is one line. `kind` is the last outcome."""

    def __init__(self, endpoint: str, kind: Outcome, detail: str) -> None:
        super().__init__(f"{endpoint}: {kind}: {detail}")
        self.kind = kind
        self.detail = detail


class RateLimit:
    """Turns that are evenly spaced, at most `per_second` of them in any second."""

    def __init__(self, per_second: float) -> None:
        self._apart = MARGIN / per_second
        self._next = 0.0
        self._first_in_line = asyncio.Lock()

    async def turn(self) -> None:
        """Return when the next request may leave."""
        async with self._first_in_line:
            # The next turn counts from when this one came, however late that was; and while it
            # is waited for, a pause may put it off.
            while (left := self._next - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(left)
            self._next = time.monotonic() + self._apart

    def pause(self, seconds: float) -> None:
        """Let no turn begin for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


class Requests:
    """Sends requests while entered. `count` is told each attempt's endpoint and outcome.

    Raises `SettingsError` where the CA file cannot be used.
    """

    def __init__(self, ncbi: Ncbi, count: Count) -> None:
        self.ncbi = ncbi
        self._count = count
        self._limit = RateLimit(ncbi.rate)
        self._trust = trust(ncbi.ca_file, "ncbi.ca_file")

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._trust)
        headers = {"User-Agent": self.ncbi.tool}
        # A proxy in the environment is for the servers outside.
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, trust_env=True)
        # Length, ranges and MD5 of a file are those of its bytes as stored, gzip or not.
        self._files = aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            headers=headers,
            trust_env=True,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._files.close()
        await self._session.close()

    async def tried(self, endpoint: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, made again after a `Failure`, with backoff, jitter and the
        server's own Retry-After; each time when the rate allows.

        Raises `RequestFailed` after the last of `attempts`; one that brought a part of what was
        asked does not count.
        """
        tries = 0
        while True:
            await self._limit.turn()
            try:
                result = await attempt()
            except Failure as failure:
                self._count(endpoint, failure.outcome)
                tries += not failure.progress
                detail = self._scrubbed(failure.detail)
                if tries >= self.ncbi.attempts or not failure.again:
                    raise RequestFailed(endpoint, failure.outcome, detail) from None
                log.warning("%s: %s: %s; trying again", endpoint, failure.outcome, detail)
                rest = self._backoff(tries)
                # What the server says of waiting, and its limit, are of the address as a whole.
                # NCBI's own 429 comes without Retry-After.
                limited = failure.outcome == "429"
                self._limit.pause(max(failure.wait, rest) if limited else failure.wait)
                await asyncio.sleep(rest)
            else:
                self._count(endpoint, "ok")
                return result

    async def whole(self, url: str, data: bytes | None = None, *, page: bool = False) -> bytes:
        """One attempt at an answer that fits in memory: GET, or POST of form data.

        An HTML page is a failure unless `page` says that one is expected. Raises `Failure`;
        `timeout` is for the request from its beginning to its end.
        """
        body = bytearray()
        within = aiohttp.ClientTimeout(total=self.ncbi.timeout)
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if data else {}
        try:
            async with self._session.request(
                "POST" if data else "GET",
                URL(url, encoded=True),
                data=data,
                headers=headers,
                timeout=within,
            ) as response:
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > LARGEST_ANSWER:
                        raise Failure(
                            "unexpected answer",
                            f"more than {LARGEST_ANSWER:,} bytes",
                            again=False,
                        )
        except (TimeoutError, aiohttp.ClientError) as error:
            raise failure_of(error) from None
        check(response, body, page=page)
        return bytes(body)

    def file(
        self, url: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """One attempt at a file, which is read piece by piece; `timeout` is for each piece."""
        seconds = self.ncbi.timeout
        within = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        return self._files.get(URL(url, encoded=True), headers=headers, timeout=within)

    def _backoff(self, tries: int) -> float:
        doublings = min(max(tries - 1, 0), 30)
        longest = min(self.ncbi.retry_longest, self.ncbi.retry_first * 2.0**doublings)
        return longest * random.uniform(0.5, 1.0)

    def _scrubbed(self, text: str) -> str:
        key = self.ncbi.api_key.get_secret_value()
        return text.replace(key, "***") if key else text


def check(response: aiohttp.ClientResponse, body: bytes | bytearray, *, page: bool = False) -> None:
    """Raises `Failure` for an answer that says, by status or content, that something is wrong.

    NCBI's errors come with 400 and 5xx, and within a 200: as JSON, as a page, as an ERROR element.
    """
    status, said = response.status, _said(body)
    wait = retry_after(response.headers.get("Retry-After", ""))
    json = body[:1000].lstrip()[:1] == b"{"
    if status == 429 or (json and b"API rate limit exceeded" in body[:1000]):
        raise Failure("429", said, wait=wait)
    if status >= 500 or status == 408:
        raise Failure("server error", f"status {status}: {said}", wait=wait)
    if b"<ERROR>" in body[:1000]:
        raise Failure("error element", said)
    if status >= 400:
        raise Failure(
            "refused",
            f"status {status}: {said}; check the section ncbi of the settings",
            again=False,
        )
    if json:
        raise Failure("error element", said)
    if not page and PAGE.search(body[:1000]):
        raise Failure("HTML page", said)


def failure_of(error: TimeoutError | aiohttp.ClientError) -> Failure:
    """What it means that a request ended without a whole answer."""
    if isinstance(error, TimeoutError):
        return Failure("time-out", "no whole answer within the time-out")
    if isinstance(error, aiohttp.InvalidURL):
        return Failure("refused", f"not a URL: {error}", again=False)
    return Failure("cut connection", " ".join(str(error).split()) or type(error).__name__)


def retry_after(header: str) -> float:
    """Seconds to wait by a Retry-After header, which gives seconds or a date; 0 without one."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else 0.0


def _said(body: bytes | bytearray) -> str:
    """A line of what an answer says: its ERROR element, or the beginning of its text."""
    found = ERROR.search(body[:4000])
    text = found[1] if found else re.sub(rb"<[^>]*>", b" ", body[:1000])
    return " ".join(text.decode(errors="replace").split())[:300] or "nothing"
