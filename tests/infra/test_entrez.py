"""The Entrez client against a server that behaves like NCBI, over HTTP."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any
from urllib.request import Request, urlopen

import pytest
from Bio import Entrez as BioEntrez
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.ncbi_server import AWAY, HISTORY_EXPIRED, Asked, Fault, in_turn, running_ncbi
from fakes.pubmed_records import Record, records
from infra.entrez import Entrez, HistoryExpired, Span, Unread, Window, answers, windows
from infra.ncbi_requests import Requests
from infra.settings import SettingsError
from infra.settings_ingest import Ncbi
from ncbi_clients import DAY, UNLIMITED, assert_whole, clients, pmids, span

pytestmark = pytest.mark.slow

# Windows.


async def test_25_000_records_of_one_query_come_each_once_and_oldest_first() -> None:
    with running_ncbi(records(25_000, days=365), limits=UNLIMITED) as server:
        async with clients(server, batch=5000) as ncbi:
            found = await ncbi.windows(span(days=365))
            got = [a for w in found async for a in answers(ncbi.entrez, w.found)]
            assert_whole(got, server)
    assert sum(window.found.count for window in found) == 25_000
    assert max(window.found.count for window in found) <= 9_999
    for before, after in pairwise(found):
        assert after.span.first == before.span.last + timedelta(days=1)
    assert (found[0].span.first, found[-1].span.last) == (DAY, DAY + timedelta(days=364))
    assert len({window.span.id for window in found}) == len(found)


async def test_a_day_with_12_000_records_is_split_by_pmid() -> None:
    held = records(12_000, first_pmid=41_000_000)
    with running_ncbi(held, limits=UNLIMITED) as server:
        async with clients(server, batch=6000) as ncbi:
            found = await ncbi.windows(span())
            got = [a for w in found async for a in answers(ncbi.entrez, w.found)]
            assert_whole(got, server)
        searches = [asked for asked in server.asked if asked.endpoint == "esearch"]
    assert len(found) == 2
    assert len(searches) == 3, "one that was too large, and one a part"
    (first, middle), (after, last) = (window.span.uids for window in found)
    assert (first, last) == (1, 99_999_999)
    assert after == middle + 1


@settings(max_examples=25)
@given(
    days=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=12),
    reach=st.integers(2, 12),
)
def test_windows_partition_any_spread_of_records(days: list[tuple[int, int]], reach: int) -> None:
    held, pmid = [], 0
    for day, many in days:
        for _ in range(many):
            pmid += 7
            when = DAY + timedelta(days=day)
            held.append(Record(pmid=pmid, edat=when, mdat=when))
    with pytest.MonkeyPatch.context() as patch, running_ncbi(held, limits=UNLIMITED) as server:
        patch.setattr("infra.entrez.REACH", reach)
        patch.setattr("fakes.ncbi_eutils.REACH", reach)

        async def search() -> list[Window]:
            async with clients(server) as ncbi:
                return await ncbi.windows(span(days=21))

        found = asyncio.run(search())
    listed = [pmid for window in found for pmid in window.found.pmids]
    assert sorted(listed) == sorted(record.pmid for record in held)
    assert max(window.found.count for window in found) <= reach


async def test_what_was_found_by_a_query_and_by_the_date_of_change() -> None:
    held = records(10, days=10)
    changed = replace(held[0], title="On gout.", version=2, mdat=date(2026, 3, 1))
    with running_ncbi([*held[1:], changed], limits=UNLIMITED) as server:
        async with clients(server) as ncbi:
            march = Span("all[sb]", "mdat", date(2026, 2, 1), date(2026, 3, 31))
            assert pmids(await ncbi.all(march)) == [changed.pmid]
            assert pmids(await ncbi.all(span("gout[ti]", days=10))) == [changed.pmid]
            assert pmids(await ncbi.all(span("nothing", days=10))) == []


async def test_a_part_that_cannot_be_searched_is_told_and_the_others_follow() -> None:
    def script(asked: Asked) -> Fault | None:
        return AWAY if asked.params.get("mindate") == "2026/01/01" else None

    with running_ncbi(records(12_000, days=2), limits=UNLIMITED) as server:
        async with clients(server, attempts=2) as ncbi:
            whole = span(days=2)
            (first,) = [part async for part in windows(ncbi.entrez, whole)][:1]
            assert isinstance(first, Window)
            server.script = script
            (unread,) = [part async for part in windows(ncbi.entrez, whole)]
            assert isinstance(unread, Unread)
            assert unread.span == whole
            assert unread.error.kind == "server error"
            server.script = lambda asked: (
                AWAY if asked.params.get("maxdate") == "2026/01/01" else None
            )
            failed, read = [part async for part in windows(ncbi.entrez, whole)]
    assert isinstance(failed, Unread)
    assert isinstance(read, Window)
    assert read.found.count == 6_000


# Answers.


async def test_a_history_that_expires_half_way_is_posted_again() -> None:
    with running_ncbi(records(1000), limits=UNLIMITED) as server:
        server.script = in_turn(
            None, None, HISTORY_EXPIRED, None, HISTORY_EXPIRED, endpoint="efetch"
        )
        async with clients(server, batch=100) as ncbi:
            assert_whole(await ncbi.all(span()), server)
        posts = [asked for asked in server.asked if asked.endpoint == "epost"]
    assert [asked.params["id"].count(",") + 1 for asked in posts] == [800, 700]
    assert ncbi.outcomes["efetch", "history expired"] == 2


async def test_a_history_that_always_expires_fails_in_the_end() -> None:
    with running_ncbi(records(10), limits=UNLIMITED) as server:
        server.script = lambda asked: HISTORY_EXPIRED if asked.endpoint == "efetch" else None
        async with clients(server, attempts=3) as ncbi:
            with pytest.raises(HistoryExpired, match="Unable to obtain query #1"):
                await ncbi.all(span())


async def test_a_lost_history_is_no_verdict_on_a_request_that_has_none() -> None:
    """NCBI says so to searches too, when its history server fails."""
    lost = Fault(body=b"<eSearchResult><ERROR>Unable to obtain query #1</ERROR></eSearchResult>")
    with running_ncbi(records(10), in_turn(lost, lost), limits=UNLIMITED) as server:
        async with clients(server) as ncbi:
            assert_whole(await ncbi.all(span()), server)
            server.script = in_turn(lost)
            assert (await ncbi.entrez.fetch_pmids([1, 2])).given == {1, 2}
    assert ncbi.faults == {("esearch", "error element"): 2, ("efetch", "error element"): 1}


async def test_reading_may_begin_again_where_it_was_left() -> None:
    with running_ncbi(records(100), limits=UNLIMITED) as server:
        async with clients(server, batch=30) as ncbi:
            (window,) = await ncbi.windows(span())
            rest = [a async for a in answers(ncbi.entrez, window.found, start=60)]
    assert [pmid for answer in rest for pmid in answer.asked] == list(window.found.pmids[60:])


async def test_a_source_that_changes_while_it_is_read() -> None:
    """Records come, change and go between any two requests; each PMID found is accounted for."""
    with running_ncbi(records(400, days=4), limits=UNLIMITED) as server:
        gone: set[int] = set()

        def script(asked: Asked) -> None:
            number = asked.number
            server.holdings.put(Record(pmid=10_000 + number, edat=DAY, mdat=DAY))
            server.holdings.put(replace(server.holdings.all[400 - number], version=2))
            server.holdings.delete(number * 10)
            gone.add(number * 10)

        server.script = script
        async with clients(server, batch=50) as ncbi:
            (window,) = await ncbi.windows(span(days=4))
            got = [answer async for answer in answers(ncbi.entrez, window.found)]
    asked = [pmid for answer in got for pmid in answer.asked]
    assert Counter(asked) == Counter(window.found.pmids)
    missing = {pmid for answer in got for pmid in answer.missing}
    assert missing
    assert missing <= gone
    assert set(pmids(got)) == set(asked) - missing


async def test_a_history_in_another_order_is_asked_by_pmid() -> None:
    with running_ncbi(records(40), limits=UNLIMITED) as server:
        async with clients(server, batch=10) as ncbi:
            (window,) = await ncbi.windows(span())
            shuffled = replace(window.found, pmids=window.found.pmids[::-1])
            got = [answer async for answer in answers(ncbi.entrez, shuffled)]
            assert_whole(got, server)


async def test_answers_in_gzip() -> None:
    with running_ncbi(records(40), limits=UNLIMITED, compressed=True) as server:
        async with clients(server) as ncbi:
            assert_whole(await ncbi.all(span()), server)


# Biopython, settings.


def test_without_an_e_mail_address_it_refuses_and_says_why() -> None:
    with pytest.raises(SettingsError, match=r"ncbi\.email: not set; NCBI wants .* blocks"):
        Entrez(Requests(Ncbi(), lambda endpoint, outcome: None))


def opened(request: Request) -> None:
    urlopen(request, timeout=10).close()  # noqa: S310


async def test_requests_are_those_that_biopython_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the address: its own functions, with what they would send taken down."""
    sent: list[Request] = []
    monkeypatch.setattr(BioEntrez, "_open", sent.append)
    monkeypatch.setattr(BioEntrez, "email", "someone@example.org")
    monkeypatch.setattr(BioEntrez, "tool", "kailin-stream")
    dates = {"datetype": "edat", "mindate": "2026/01/01", "maxdate": "2026/01/01"}
    BioEntrez.esearch("pubmed", "all[sb]", retmax=9999, usehistory="y", **dates)
    BioEntrez.epost("pubmed", id="1,2")
    BioEntrez.efetch("pubmed", id=list(range(1, 301)), retmode="xml")
    with running_ncbi(records(300), limits=UNLIMITED) as server:
        async with clients(server) as ncbi:
            await ncbi.windows(span())
            await ncbi.entrez.post([1, 2])
            await ncbi.entrez.fetch_pmids(range(1, 301))
        ours = [asked.params for asked in server.asked]
        server.asked.clear()
        for request in sent:
            request.full_url = request.full_url.replace(
                "https://eutils.ncbi.nlm.nih.gov/entrez/eutils", server.eutils
            )
            await asyncio.to_thread(opened, request)
        assert ours == [asked.params for asked in server.asked]


def test_biopython_itself_understands_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_ncbi(records(30), limits=UNLIMITED) as server:

        def local(request: Request) -> Any:
            request.full_url = request.full_url.replace(
                "https://eutils.ncbi.nlm.nih.gov/entrez/eutils", server.eutils
            )
            return urlopen(request, timeout=10)  # noqa: S310

        monkeypatch.setattr(BioEntrez, "urlopen", local)
        monkeypatch.setattr(BioEntrez, "email", "someone@example.org")
        found = BioEntrez.read(
            BioEntrez.esearch("pubmed", "asthma", retmax=10, usehistory="y"), validate=True
        )
        assert (found["Count"], len(found["IdList"])) == ("30", 10)
        posted = BioEntrez.read(BioEntrez.epost("pubmed", id="5,6"))
        fetched = BioEntrez.efetch(
            "pubmed", webenv=None, WebEnv=posted["WebEnv"], query_key=posted["QueryKey"]
        )
        assert b'<PMID Version="1">5</PMID>' in fetched.read()
        with pytest.raises(RuntimeError, match="retstart"):
            BioEntrez.read(BioEntrez.esearch("pubmed", "asthma", retstart=9999))
