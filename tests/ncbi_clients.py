"""The clients of NCBI as tests use them: quick, their outcomes counted, and what they brought."""

import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fakes.ncbi_server import NcbiServer
from infra.entrez import Answer, Entrez, Span, Unread, Window, answers, windows
from infra.ncbi_requests import Requests
from infra.nlm_files import NlmFiles
from infra.pubmed_xml import read_stream
from infra.settings_ingest import Ncbi
from streams.citation import Article

DAY = date(2026, 1, 1)
# For a server whose limit is not what is tested.
UNLIMITED = (10_000, 10_000)


def configured(server: NcbiServer, **changes: Any) -> Ncbi:
    """Settings for the server, with no rate to speak of and hardly any backoff."""
    quick = {
        "email": "someone@example.org",
        "eutils": server.eutils,
        "files": server.files,
        "requests_per_second": 2000,
        "timeout": 10.0,
        "attempts": 5,
        "retry_first": 0.001,
        "retry_longest": 0.002,
    }
    return Ncbi(**{**quick, **changes})


@dataclass(frozen=True)
class Clients:
    """`outcomes` counts attempts by endpoint and outcome."""

    entrez: Entrez
    files: NlmFiles
    outcomes: Counter[tuple[str, str]]

    @property
    def faults(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.outcomes.items() if key[1] != "ok"}

    async def windows(self, span: Span) -> list[Window]:
        found = [window async for window in windows(self.entrez, span)]
        assert not [window for window in found if isinstance(window, Unread)]
        return [window for window in found if isinstance(window, Window)]

    async def all(self, span: Span) -> list[Answer]:
        return [
            answer
            for window in await self.windows(span)
            async for answer in answers(self.entrez, window.found)
        ]


@asynccontextmanager
async def clients(server: NcbiServer, **changes: Any) -> AsyncIterator[Clients]:
    outcomes: Counter[tuple[str, str]] = Counter()

    def count(endpoint: str, outcome: str) -> None:
        outcomes[endpoint, outcome] += 1

    async with Requests(configured(server, **changes), count) as requests:
        yield Clients(Entrez(requests), NlmFiles(requests), outcomes)


def span(query: str = "all[sb]", days: int = 1, first: date = DAY) -> Span:
    """A span by date of entry."""
    return Span(query, "edat", first, first + timedelta(days=days - 1))


def articles(answer: Answer) -> list[Article]:
    stream = io.BytesIO(answer.xml)
    entries = read_stream(
        stream, "answer", corpus=False, source="entrez", arrived=datetime.now(UTC)
    )
    return [entry for entry in entries if isinstance(entry, Article)]


def pmids(got: Iterable[Answer]) -> list[int]:
    """The PMIDs of all records that came."""
    return [article.pmid for answer in got for article in articles(answer)]


def assert_whole(got: list[Answer], server: NcbiServer) -> None:
    """Everything that the server holds was asked for once and given once."""
    asked = Counter(pmid for answer in got for pmid in answer.asked)
    assert asked == Counter(server.holdings.all.keys())
    assert Counter(pmids(got)) == asked
