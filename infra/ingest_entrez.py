"""Records from PubMed through Entrez: what a query finds, what a list of PMIDs names.

A query is read in windows, each with a progress of its own, so that the count that esearch tells
is the sum of what became of the citations. What failed stays listed there and is read once more.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path

from infra.arrivals import Portion, portion
from infra.entrez import REACH, Answer, Entrez, Found, Span, Window, answers, windows
from infra.ingest import Session, Unit
from infra.ncbi_requests import RequestFailed
from infra.pubmed_xml import read_stream
from streams.records import Progress, Unread

# Before any record entered Entrez.
BEGINNING = date(1900, 1, 1)
# What an answer of efetch lacks; such a citation is listed, and can be asked for again.
NOT_GIVEN = "NCBI does not give it"


async def pmids(
    session: Session, entrez: Entrez, wanted: Sequence[int], what: str, *, corpus: bool
) -> None:
    """Citations by PMID, in units of 9,999; those done in an interrupted run are not read again."""
    units = [
        listed(entrez, wanted[start : start + REACH], f"{what} from {start + 1:,}", corpus)
        for start in range(0, len(wanted), REACH)
    ]
    await session.ready()
    left = [unit for unit in units if session.state(unit.id) != "done"]
    session.display.expect(len(left or units))
    for unit in left or units:
        await session.run(unit)


def listed(entrez: Entrez, wanted: Sequence[int], what: str, corpus: bool) -> Unit:
    async def read(_: int) -> AsyncIterator[Portion]:
        posted = await entrez.post(wanted)
        async for answer in answers(entrez, posted):
            yield await asyncio.to_thread(_portion, answer, what, corpus)

    digest = hashlib.blake2b(repr(tuple(wanted)).encode(), digest_size=8).hexdigest()
    return Unit(
        id=f"pmids:{_kind(corpus)}:{digest}",
        source="pmids",
        what=what,
        read=read,
        asked=tuple(wanted),
        announced=len(wanted),
        size=len(wanted),
    )


async def entrez(
    session: Session, client: Entrez, query: str, *, since: date | None, corpus: bool
) -> None:
    """All that a query finds, or what is new and changed since a day or since the last time.

    Some days are read again (`ncbi.overlap`), since NCBI may be late with a record's date.
    """
    id = f"poll:entrez:{query}"
    session.looks_at("entrez", id)
    writer = await session.ready()
    begun = datetime.now(UTC)
    last = writer.progress.get(id)
    first, interrupted = since or BEGINNING, None
    whole = last is None
    if last:
        left = date.fromordinal(last.position)
        if last.state == "running":
            interrupted = last.at
        else:
            left -= timedelta(days=session.settings.ncbi.overlap)
        # A later day than that would leave a gap for ever.
        first = min(since or left, left)
        whole = last.state == "running" or first < left
    poll = Progress(
        id=id,
        source="entrez",
        what=query,
        state="running",
        position=first.toordinal(),
        announced=None,
        counts={},
        at=interrupted or begun,
    )
    if whole:
        # More than what the next run would read of itself: if this one does not end, that one does.
        await session.publish(poll)
    failed = 0
    for progress in _failed(session, query):
        failed += await span_again(session, client, progress)
    spans = [Span(query, "edat", first, begun.date())]
    if first > BEGINNING:
        spans.append(Span(query, "mdat", first, begun.date()))
    read: set[int] = set()
    for span in spans:
        # What is known is read again only where it has changed.
        known = len(spans) > 1 and span.datetype == "edat"
        failed += await _span(
            session, client, span, corpus, read, pass_known=known, since=interrupted
        )
    await session.came_up_to_date(
        replace(
            poll,
            state="failed" if failed else "done",
            position=begun.date().toordinal(),
            reason=f"{failed} windows failed" if failed else None,
            at=begun,
        )
    )


async def _span(
    session: Session,
    client: Entrez,
    span: Span,
    corpus: bool,
    read: set[int],
    *,
    pass_known: bool = False,
    since: datetime | None = None,
) -> int:
    """Ingest a span, window by window; `read` are PMIDs not to be read again, and grows.

    Windows of days gone by that were read `since` then are passed over. Returns how many windows
    failed.
    """
    failed = 0
    async for window in windows(client, span):
        if isinstance(window, Window):
            before = session.writer.progress.get(_span_id(window.span, corpus))
            read_since = since and before and before.state == "done" and before.at >= since
            if since and read_since and window.span.last < since.date():
                continue
            passed = read.intersection(window.found.pmids)
            if pass_known:
                passed |= session.writer.held(window.found.pmids)
            progress = await session.run(_window(client, window, passed, corpus))
            if progress.state == "done":
                read.update(set(window.found.pmids) - passed)
        else:
            progress = await session.run(_unsearched(window.span, window.error, corpus))
        failed += progress.state == "failed"
    return failed


def _window(client: Entrez, window: Window, passed: Collection[int], corpus: bool) -> Unit:
    span, found = window.span, window.found

    async def read(_: int) -> AsyncIterator[Portion]:
        left = found
        if passed:
            yield Portion((), (), len(passed), passed=len(passed))
            wanted = [pmid for pmid in found.pmids if pmid not in passed]
            left = await client.post(wanted) if wanted else Found(0, (), "", "")
        async for answer in answers(client, left):
            yield await asyncio.to_thread(_portion, answer, f"entrez: {span.query}", corpus)

    return Unit(
        id=_span_id(span, corpus),
        source="entrez",
        what=_called(span),
        read=read,
        announced=found.count,
        size=found.count,
    )


def _unsearched(span: Span, error: RequestFailed, corpus: bool) -> Unit:
    async def read(_: int) -> AsyncIterator[Portion]:
        raise error
        yield

    return Unit(id=_span_id(span, corpus), source="entrez", what=_called(span), read=read)


def _called(span: Span) -> str:
    uids = f", PMIDs {span.uids[0]} to {span.uids[1]}" if span.uids else ""
    kind = "entered" if span.datetype == "edat" else "changed"
    return f"{span.query}, {kind} {span.first} to {span.last}{uids}"


async def span_again(session: Session, client: Entrez, progress: Progress) -> int:
    """Read a window that failed once more; returns how many windows fail now."""
    span = _span_of(progress.id)
    failed = await _span(session, client, span, is_corpus(progress), set())
    if session.writer.progress[progress.id] == progress:
        # It was split, and its parts have progress of their own now.
        await session.publish(replace(progress, state="done", reason=None, at=datetime.now(UTC)))
    return failed


def _span_id(span: Span, corpus: bool) -> str:
    return f"entrez:{_kind(corpus)}:{span.id}"


def _kind(corpus: bool) -> str:
    return "corpus" if corpus else "new"


def is_corpus(progress: Progress) -> bool:
    """Whether the citations of a window or list came as corpus."""
    return progress.id.split(":", 2)[1] == "corpus"


def _span_of(id: str) -> Span:
    """The span of a window's progress: the inverse of `_span_id`."""
    _, _, datetype, first, last, uids, query = id.split(":", 6)
    low, _, high = uids.partition("-")
    return Span(
        query,
        "edat" if datetype == "edat" else "mdat",
        date.fromisoformat(first),
        date.fromisoformat(last),
        (int(low), int(high)) if high else None,
    )


def _portion(answer: Answer, source: str, corpus: bool) -> Portion:
    """What an answer of efetch makes; the citations that it lacks are unread."""
    entries = read_stream(
        BytesIO(answer.xml), "efetch", corpus=corpus, source=source, arrived=datetime.now(UTC)
    )
    made = portion(entries)
    missing = tuple(Unread(pmid=pmid, reason=NOT_GIVEN) for pmid in answer.missing)
    return replace(made, unread=made.unread + missing, entries=len(answer.asked))


def _failed(session: Session, query: str) -> list[Progress]:
    """The windows of a query that failed."""
    return [
        progress
        for progress in session.writer.progress.values()
        if progress.state == "failed"
        and progress.id.startswith("entrez:")
        and _span_of(progress.id).query == query
    ]


async def ask_again(
    session: Session, client: Entrez, progress: Progress, wanted: Sequence[int]
) -> None:
    """Citations that were not given, into the progress that lists them."""
    for start in range(0, len(wanted), REACH):
        part = wanted[start : start + REACH]
        posted = await client.post(part)
        async for answer in answers(client, posted):
            made = _portion(answer, progress.what, is_corpus(progress))
            asked = set(answer.asked)
            open_ = tuple(u for u in progress.unread if u.pmid not in asked)
            failed = progress.counts.get("failed", 0) - len(asked)
            before = replace(
                progress,
                unread=open_,
                counts={**progress.counts, "failed": failed},
                position=progress.position - len(asked),
            )
            progress = await session.commit(made, before)
    session.failures += bool(progress.counts.get("failed"))


class PmidListError(Exception):
    """A list of PMIDs cannot be read; the message is one line."""


def read_pmids(path: Path) -> list[int]:
    """The PMIDs of a file: one a line, each once; blank lines and lines from # on are passed over.

    Raises `PmidListError`.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise PmidListError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PmidListError(f"{path}: expected a text file with one PMID a line") from None
    found: dict[int, None] = {}
    for number, line in enumerate(lines, start=1):
        word = line.partition("#")[0].strip()
        if word and not (word.isascii() and word.isdecimal() and 0 < int(word) < 10**10):
            raise PmidListError(f"{path}, line {number}: expected a PMID, found {word[:40]!r}")
        if word:
            found[int(word)] = None
    if not found:
        raise PmidListError(f"{path}: holds no PMID")
    return list(found)
