"""What can go wrong with a request to NCBI, over HTTP; the rate of requests, and waiting."""

import asyncio
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from fakes.ncbi_server import (
    AWAY,
    BAD_GATEWAY,
    CUT,
    ERROR_ELEMENT,
    ERROR_ELEMENT_400,
    HANG,
    HTML_PAGE,
    SERVER_ERROR,
    TOO_MANY,
    TOO_MANY_IN_200,
    TRUNCATED,
    Fault,
    NcbiServer,
    at_random,
    in_turn,
    running_ncbi,
)
from fakes.pubmed_records import records
from infra.ncbi_requests import RateLimit, RequestFailed, Requests, retry_after
from infra.settings import SettingsError
from infra.settings_ingest import Ncbi
from ncbi_clients import UNLIMITED, articles, assert_whole, clients, span
from secured_engine import authority

pytestmark = pytest.mark.slow

FAULTS = [
    (TOO_MANY, "429"),
    (TOO_MANY_IN_200, "429"),
    (SERVER_ERROR, "server error"),
    (BAD_GATEWAY, "server error"),
    (AWAY, "server error"),
    (HANG, "time-out"),
    (CUT, "cut connection"),
    (TRUNCATED, "truncated XML"),
    (Fault(body=b""), "truncated XML"),
    (HTML_PAGE, "HTML page"),
    (ERROR_ELEMENT, "error element"),
    (ERROR_ELEMENT_400, "error element"),
    (Fault(body=b'{"error":"error forwarding request"}'), "error element"),
    (Fault(body=b"<eInfoResult/>"), "unexpected answer"),
]


@pytest.mark.parametrize("endpoint", ["esearch", "efetch", "epost"])
@pytest.mark.parametrize(("fault", "kind"), FAULTS)
async def test_each_fault_is_recognised_counted_and_got_over(
    endpoint: str, fault: Fault, kind: str
) -> None:
    quiet = replace(fault, headers={})
    with running_ncbi(records(20), limits=UNLIMITED) as server:
        server.script = in_turn(quiet, quiet, endpoint=endpoint)
        async with clients(server, timeout=0.1 if fault.hang else 10.0) as ncbi:
            (window,) = await ncbi.windows(span())
            posted = await ncbi.entrez.post(window.found.pmids)
            answer = await ncbi.entrez.fetch(posted, 0, 20)
    assert len(articles(answer)) == 20
    assert ncbi.faults == {(endpoint, kind): 2}
    assert sum(n for key, n in ncbi.outcomes.items() if key[1] == "ok") == 3


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
async def test_after_the_last_attempt_the_request_has_failed(fault: Fault, kind: str) -> None:
    with running_ncbi(records(20), limits=UNLIMITED) as server:
        server.script = lambda asked: replace(fault, headers={})
        async with clients(server, attempts=3, timeout=0.1 if fault.hang else 10.0) as ncbi:
            with pytest.raises(RequestFailed) as failed:
                await ncbi.entrez.search(span())
        assert len(server.asked) == 3
    assert failed.value.kind == kind
    assert "\n" not in str(failed.value)


async def test_what_no_attempt_can_mend_is_not_tried_again_and_tells_no_key() -> None:
    body = b'{"error":"API key invalid","api-key":"0123abc","type":"api-key-invalid"}'
    with running_ncbi(records(20)) as server:
        server.script = lambda asked: Fault(status=400, body=body)
        async with clients(server, api_key="0123abc") as ncbi:
            with pytest.raises(RequestFailed) as failed:
                await ncbi.entrez.search(span())
        assert len(server.asked) == 1
        assert server.asked[0].params["api_key"] == "0123abc"
    assert failed.value.kind == "refused"
    assert "API key invalid" in str(failed.value)
    assert "0123abc" not in str(failed.value)


async def test_a_server_that_is_away_is_told_without_the_key() -> None:
    server = NcbiServer(port=1)  # where nobody listens
    async with clients(server, api_key="0123abc", attempts=2) as ncbi:
        with pytest.raises(RequestFailed) as failed:
            await ncbi.entrez.search(span())
    assert failed.value.kind == "cut connection"
    assert "0123abc" not in str(failed.value)


async def test_what_is_logged_of_a_fault_tells_no_key(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"error":"API rate limit exceeded","api-key":"0123abc"}'
    with running_ncbi(records(2)) as server:
        server.script = in_turn(Fault(status=429, body=body))
        async with clients(server, api_key="0123abc") as ncbi:
            await ncbi.windows(span())
    assert "esearch: 429: " in caplog.text
    assert "0123abc" not in caplog.text


async def test_a_server_is_trusted_by_the_ca_file_and_not_without(tmp_path: Path) -> None:
    signed = authority(tmp_path)
    certificate, key = signed.issue("ncbi")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with running_ncbi(records(2), limits=UNLIMITED, tls=tls) as server:
        async with clients(server, ca_file=signed.ca) as ncbi:
            assert_whole(await ncbi.all(span()), server)
        async with clients(server, attempts=1) as ncbi:
            with pytest.raises(RequestFailed, match="certificate verify failed"):
                await ncbi.entrez.search(span())


def test_a_ca_file_that_is_not_there_names_itself(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ca\.pem': expected a PEM file"):
        Requests(Ncbi(ca_file=tmp_path / "ca.pem"), lambda endpoint, outcome: None)


async def test_entities_of_an_answer_are_not_expanded() -> None:
    bomb = (
        b'<!DOCTYPE PubmedArticleSet [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        b"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>&a;</PMID></MedlineCitation>"
        b"</PubmedArticle></PubmedArticleSet>"
    )
    with running_ncbi(records(1), limits=UNLIMITED) as server:
        server.script = lambda asked: Fault(body=bomb)
        async with clients(server, attempts=1) as ncbi:
            with pytest.raises(RequestFailed) as failed:
                await ncbi.entrez.fetch_pmids([1])
    assert "root:" not in str(failed.value)


@pytest.mark.parametrize("seed", range(3))
async def test_every_fault_at_random_for_a_whole_run_loses_nothing(seed: int) -> None:
    script = at_random(seed, 0.4, in_a_row=3, wait=0.01)
    with running_ncbi(records(2000, days=30), script, limits=UNLIMITED) as server:
        async with clients(server, batch=50, timeout=0.5, attempts=5) as ncbi:
            assert_whole(await ncbi.all(span(days=30)), server)
    assert len({kind for _, kind in ncbi.outcomes}) >= 6


# The rate, and waiting.


async def test_the_rate_of_ncbi_is_never_exceeded() -> None:
    with running_ncbi(records(1000)) as server:
        async with clients(server, requests_per_second=None, batch=100) as ncbi:
            assert ncbi.entrez._settings.rate == 3
            fetches = [ncbi.entrez.fetch_pmids(range(n, n + 100)) for n in range(1, 1000, 100)]
            await asyncio.gather(*fetches)
        arrivals = [asked.at for asked in server.asked]
    assert len(arrivals) == 10
    assert ncbi.outcomes == {("efetch", "ok"): 10}
    for fourth, first in zip(arrivals[3:], arrivals, strict=False):
        assert fourth - first > 1.0
    assert arrivals[-1] - arrivals[0] < 9 * 0.5


def test_a_key_makes_it_ten_requests_a_second() -> None:
    assert Ncbi(api_key="abc").rate == 10
    assert Ncbi().rate == 3
    assert Ncbi(api_key="abc", requests_per_second=1).rate == 1


async def test_a_client_that_asks_too_fast_gets_everything_all_the_same() -> None:
    with running_ncbi(records(1000), limits=(20, 20)) as server:
        async with clients(server, requests_per_second=200, batch=40) as ncbi:
            assert_whole(await ncbi.all(span()), server)
    assert ncbi.outcomes["efetch", "429"] >= 1


async def test_an_end_of_the_program_waits_for_no_answer() -> None:
    with running_ncbi(records(2), lambda asked: HANG, limits=UNLIMITED) as server:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), clients(server, timeout=60.0) as ncbi:
                await ncbi.entrez.search(span())
    assert time.monotonic() - started < 5.0


async def test_turns_that_wait_together_are_spaced_too() -> None:
    limit, times = RateLimit(100), []

    async def take() -> None:
        await limit.turn()
        times.append(time.monotonic())

    await asyncio.gather(*(take() for _ in range(12)))
    assert times[-1] - times[0] > 11 * 0.010
    assert times == sorted(times)


async def test_a_pause_puts_off_the_turn_that_is_waited_for() -> None:
    limit = RateLimit(5)
    await limit.turn()
    started = time.monotonic()
    waiting = asyncio.create_task(limit.turn())
    await asyncio.sleep(0.01)
    limit.pause(0.6)
    await waiting
    assert time.monotonic() - started >= 0.6


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(form: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=2)
    header = "1" if form == "seconds" else format_datetime(at, usegmt=True)
    with running_ncbi(records(5), limits=UNLIMITED) as server:
        server.script = in_turn(replace(TOO_MANY, headers={"Retry-After": header}))
        async with clients(server) as ncbi:
            await ncbi.windows(span())
            first, second = server.asked
    waited = second.at - first.at
    assert waited >= (1.0 if form == "seconds" else 0.5)
    assert waited < 4.0


def test_a_retry_after_that_says_nothing_useful_is_no_wait() -> None:
    assert [retry_after(header) for header in ("", "soon", "-5", "nan")] == [0, 0, 0, 0]
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("1e9") == 3600
