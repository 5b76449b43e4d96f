"""PubMed over NCBI's E-utilities: search by windows that are never cut, fetch by batches.

https://www.ncbi.nlm.nih.gov/books/NBK25499/. Biopython's `Bio.Entrez` builds the requests. It
does not send them: its functions have NCBI's address written in, wait for ever on a silent server,
keep a rate limit of their own that knows no other client, and sleep where they stand. Nor does it
read the answers: `Entrez.read` fetches DTDs that answers name.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from io import BytesIO
from typing import Any, Literal, cast
from urllib.request import Request

from Bio import Entrez as BioEntrez
from lxml import etree

from infra.ncbi_requests import Failure, RequestFailed, Requests
from infra.settings import SettingsError

# Hits of one query that PubMed's esearch lists, and records of a history that efetch reaches.
REACH = 9_999
# Above any PMID for decades; the range needs two ends.
HIGHEST_PMID = 99_999_999
NO_HISTORY = re.compile(r"query #\d|WebEnv|history", re.IGNORECASE)
PMID_PATHS = {"PubmedArticle": "MedlineCitation/PMID", "PubmedBookArticle": "BookDocument/PMID"}

DateType = Literal["edat", "mdat"]


class HistoryExpired(RequestFailed):
    """The server no longer has the search or post that a WebEnv stood for."""


@dataclass(frozen=True, slots=True)
class Span:
    """A query over days, both ends included, by when records entered Entrez (edat) or changed
    there (mdat); `uids` narrows it to PMIDs from one to another."""

    query: str
    datetype: DateType
    first: date
    last: date
    uids: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """The same for the same span, in every run."""
        uids = f"{self.uids[0]}-{self.uids[1]}" if self.uids else "all"
        return f"{self.datetype}:{self.first}:{self.last}:{uids}:{self.query}"

    @property
    def term(self) -> str:
        """The query as esearch takes it."""
        return f"({self.query}) AND {self.uids[0]}:{self.uids[1]}[UID]" if self.uids else self.query


@dataclass(frozen=True, slots=True)
class Found:
    """What a search or a post left in NCBI's history: `count` records, the first 9,999 of them as
    `pmids`, in the history's order."""

    count: int
    pmids: tuple[int, ...]
    web_env: str
    query_key: str

    @property
    def complete(self) -> bool:
        return len(self.pmids) == self.count


@dataclass(frozen=True, slots=True)
class Window:
    """A span of at most 9,999 hits, all of which `found` names."""

    span: Span
    found: Found


@dataclass(frozen=True, slots=True)
class Unread:
    """A span that could not be searched; it may be tried again as it is."""

    span: Span
    error: RequestFailed


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of efetch: the PMIDs asked for, those given, and a whole PubmedArticleSet."""

    asked: tuple[int, ...]
    given: frozenset[int]
    xml: bytes

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(pmid for pmid in self.asked if pmid not in self.given)


class Entrez:
    """esearch, epost and efetch on PubMed. All methods raise `RequestFailed`.

    Raises `SettingsError` without an e-mail address.
    """

    def __init__(self, requests: Requests) -> None:
        if not requests.ncbi.email:
            raise SettingsError(
                "ncbi.email: not set; NCBI wants an e-mail address in every request, to write to "
                "before it blocks the sender: give yours in kailin.toml or as KAILIN_NCBI__EMAIL"
            )
        self._requests = requests
        self._settings = requests.ncbi

    @property
    def batch(self) -> int:
        return self._settings.batch

    @property
    def attempts(self) -> int:
        return self._settings.attempts

    async def search(self, span: Span) -> Found:
        """The records of a span; `complete` unless there are more than 9,999."""
        request = self._built(
            "esearch",
            term=span.term,
            datetype=span.datetype,
            mindate=f"{span.first:%Y/%m/%d}",
            maxdate=f"{span.last:%Y/%m/%d}",
            retmax=REACH,
            usehistory="y",
        )

        async def attempt() -> Found:
            return _found(_tree(await self._send(request), "eSearchResult"))

        return await self._requests.tried("esearch", attempt)

    async def post(self, pmids: Sequence[int]) -> Found:
        """Put PMIDs, at most 9,999 and none twice, into a new history."""
        request = self._built("epost", post=True, id=",".join(map(str, pmids)))

        async def attempt() -> Found:
            tree = _tree(await self._send(request), "ePostResult")
            return Found(len(pmids), tuple(pmids), _text(tree, "WebEnv"), _text(tree, "QueryKey"))

        return await self._requests.tried("epost", attempt)

    async def fetch(self, found: Found, start: int, size: int) -> Answer:
        """`size` records of a history from `start` on. Raises `HistoryExpired`."""
        request = self._built(
            "efetch",
            WebEnv=found.web_env,
            query_key=found.query_key,
            retstart=start,
            retmax=size,
            retmode="xml",
        )
        try:
            return await self._fetch(request, found.pmids[start : start + size], history=True)
        except RequestFailed as failed:
            if failed.kind == "history expired":
                raise HistoryExpired("efetch", failed.kind, failed.detail) from None
            raise

    async def fetch_pmids(self, pmids: Sequence[int]) -> Answer:
        """The records of at most 10,000 PMIDs; those that NCBI does not hold are not given."""
        request = self._built("efetch", id=",".join(map(str, pmids)), retmode="xml")
        return await self._fetch(request, tuple(pmids))

    async def _fetch(
        self, request: Request, asked: tuple[int, ...], *, history: bool = False
    ) -> Answer:
        async def attempt() -> Answer:
            try:
                xml = await self._send(request)
                return Answer(asked, await asyncio.to_thread(_given, xml), xml)
            except Failure as failure:
                if history and NO_HISTORY.search(failure.detail):
                    raise Failure("history expired", failure.detail, again=False) from None
                raise

        return await self._requests.tried("efetch", attempt)

    def _built(self, utility: str, *, post: bool | None = None, **params: Any) -> Request:
        # Given with each request, since Biopython's own are variables of its module. It makes a
        # POST of what is too long for an address.
        params |= {
            "db": "pubmed",
            "tool": self._settings.tool,
            "email": self._settings.email,
            "api_key": self._settings.api_key.get_secret_value() or None,
        }
        cgi = f"{self._settings.eutils.rstrip('/')}/{utility}.fcgi"
        return cast(Request, BioEntrez._build_request(cgi, params, post))  # type: ignore[no-untyped-call]

    async def _send(self, request: Request) -> bytes:
        return await self._requests.whole(request.full_url, cast(bytes | None, request.data))


async def windows(entrez: Entrez, span: Span) -> AsyncIterator[Window | Unread]:
    """The span as windows of at most 9,999 hits, so that no search is cut; oldest first.

    Days are split in halves until each part has at most that many, and a single day by PMID. A part
    whose search fails at its last attempt comes as `Unread`, and the others follow.
    """
    # Each span with how many hits it must have at least: what both halves have together, less what
    # was found of the older one. Of more than a search reaches none need be made.
    left: list[tuple[Span, int]] = [(span, 0)]
    while left:
        span, count = left.pop()
        try:
            if count > REACH and span.first < span.last:
                older, newer = _halves(span, ())
            else:
                found = await entrez.search(span)
                if found.complete:
                    yield Window(span, found)
                    # Whatever is left is the newer half of a span that this one is in.
                    left = [(other, hits - found.count) for other, hits in left]
                    continue
                count = found.count
                older, newer = _halves(span, found.pmids)
        except RequestFailed as error:
            yield Unread(span, error)
        else:
            left += [(newer, count), (older, 0)]


async def answers(entrez: Entrez, found: Found, *, start: int = 0) -> AsyncIterator[Answer]:
    """All records of a complete search from the `start`th on, in batches; each PMID is asked for
    in exactly one of the answers.

    The source may change meanwhile. When the history expires, what remains is posted again. What
    an answer lacks is asked for once more by PMID and comes in an answer of its own: what that one
    is missing too, NCBI no longer gives. Raises `RequestFailed`, and goes no further.
    """
    pmids, history, base, at, expired = found.pmids, found, 0, start, 0
    while at < len(pmids):
        try:
            answer = await entrez.fetch(history, at - base, entrez.batch)
        except HistoryExpired:
            expired += 1
            if expired >= entrez.attempts:
                raise
            history, base = await entrez.post(pmids[at:]), at
            continue
        expired = 0
        at += len(answer.asked)
        if not answer.given <= set(answer.asked):
            # The server holds the history in another order than it told.
            answer = await entrez.fetch_pmids(answer.asked)
            yield answer
            continue
        missing = answer.missing
        if answer.given:
            yield replace(answer, asked=tuple(p for p in answer.asked if p in answer.given))
        if missing:
            yield await entrez.fetch_pmids(missing)


def _halves(span: Span, found: Sequence[int]) -> list[Span]:
    """Two spans that make up the one, the older first; `found` are PMIDs of a single day.

    Raises `RequestFailed`.
    """
    if span.first < span.last:
        middle = span.first + (span.last - span.first) // 2
        return [replace(span, last=middle), replace(span, first=middle + timedelta(days=1))]
    lowest, highest = span.uids or (1, HIGHEST_PMID)
    # In the middle of those found, since the PMIDs of a day lie close together.
    middle_pmid = sorted(found)[(len(found) - 1) // 2]
    if not lowest <= middle_pmid < highest:
        raise RequestFailed(
            "esearch",
            "unexpected answer",
            f"over {REACH:,} hits for PMIDs {lowest} to {highest}, {middle_pmid} among them",
        )
    uids = (lowest, middle_pmid), (middle_pmid + 1, highest)
    return [replace(span, uids=part) for part in uids]


def _found(tree: etree._Element) -> Found:
    pmids = tuple(dict.fromkeys(_number(element.text) for element in tree.iterfind("IdList/Id")))
    count = _number(_text(tree, "Count"))
    if len(pmids) != min(count, REACH):
        raise Failure("unexpected answer", f"{len(pmids):,} PMIDs for {count:,} hits")
    if not count:
        return Found(0, (), "", "")
    return Found(count, pmids, _text(tree, "WebEnv"), _text(tree, "QueryKey"))


def _given(xml: bytes) -> frozenset[int]:
    """The PMIDs in a whole PubmedArticleSet. Raises `Failure`."""
    pmids: set[int] = set()
    events = etree.iterparse(
        BytesIO(xml),
        tag=(*PMID_PATHS, "ERROR"),
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
    )
    try:
        for _, entry in events:
            if entry.tag == "ERROR":
                raise Failure("error element", entry.text or "")
            pmids.add(_number(entry.findtext(PMID_PATHS[entry.tag])))
            # What was read is dropped, so that memory does not grow with the answer.
            entry.clear()
            while entry.getprevious() is not None:
                del entry.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise Failure("truncated XML", str(error.msg)) from None
    _expect(events.root, "PubmedArticleSet")
    return frozenset(pmids)


def _tree(xml: bytes, root: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True)
    try:
        tree = etree.fromstring(xml, parser)
    except etree.XMLSyntaxError as error:
        raise Failure("truncated XML", str(error.msg)) from None
    _expect(tree, root)
    return tree


def _expect(tree: etree._Element, root: str) -> None:
    if tree.tag != root:
        raise Failure("unexpected answer", f"expected {root}, found {tree.tag}")
    if said := tree.findtext("ERROR"):
        raise Failure("error element", said)


def _text(tree: etree._Element, path: str) -> str:
    text = (tree.findtext(path) or "").strip()
    if not text:
        raise Failure("unexpected answer", f"{tree.tag} without {path}")
    return text


def _number(text: str | None) -> int:
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdecimal()):
        raise Failure("unexpected answer", f"expected a number, found {digits[:40]!r}")
    return int(digits)
