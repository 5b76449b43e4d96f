"""The server that stands for NCBI keeps NCBI's limits and error shapes."""

import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date
from typing import Any
from urllib.parse import urlencode

import pytest
from lxml import etree

from fakes.ncbi_server import CUT, Asked, Fault, NcbiServer, at_random, running_ncbi
from fakes.pubmed_records import Record, records

UNLIMITED = (10_000, 10_000)


@pytest.fixture
def ncbi() -> Iterator[NcbiServer]:
    with running_ncbi(records(12_000), limits=UNLIMITED) as server:
        yield server


def ask(server: NcbiServer, utility: str, **params: Any) -> tuple[int, bytes]:
    url = f"{server.eutils}/{utility}.fcgi?{urlencode({'db': 'pubmed', **params})}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def search(server: NcbiServer, term: str = "all[sb]", **params: Any) -> etree._Element:
    status, body = ask(server, "esearch", term=term, **params)
    assert status == 200
    return etree.fromstring(body)


def test_a_search_lists_9_999_hits_and_warns(ncbi: NcbiServer) -> None:
    found = search(ncbi, retmax=20_000)
    assert found.findtext("Count") == "12000"
    assert len(found.findall("IdList/Id")) == 9_999
    assert found.findtext("WarningList/OutputMessage", "").endswith("adjusted to 0, 9999")
    last = search(ncbi, retstart=9_998, retmax=2)
    assert len(last.findall("IdList/Id")) == 1
    beyond = search(ncbi, retstart=9_999)
    assert beyond.findtext("ERROR", "").startswith("Search Backend failed: Exception:")
    assert beyond.find("IdList") is None


def test_a_fetch_reaches_no_further_and_says_so_with_400(ncbi: NcbiServer) -> None:
    found = search(ncbi, usehistory="y", retmax=0)
    history = {"WebEnv": found.findtext("WebEnv"), "query_key": found.findtext("QueryKey")}
    status, body = ask(ncbi, "efetch", retstart=9_990, retmax=100, **history)
    assert (status, body.count(b"<PubmedArticle>")) == (200, 9)
    status, body = ask(ncbi, "efetch", retstart=9_999, retmax=100, **history)
    assert status == 400
    assert b"<ERROR>Search backend cannot retrieve history data." in body
    ncbi.expire()
    status, body = ask(ncbi, "efetch", retstart=0, retmax=100, **history)
    assert (status, b"<ERROR>Unable to obtain query #1</ERROR>" in body) == (200, True)


def test_a_search_by_words_dates_and_pmids(ncbi: NcbiServer) -> None:
    ncbi.holdings.put(Record(pmid=77, title="On gout.", mdat=date(2026, 5, 5)))
    may = {"datetype": "mdat", "mindate": "2026/05/01", "maxdate": "2026/05/31"}
    assert search(ncbi, "gout[ti]").findtext("Count") == "1"
    assert search(ncbi, **may).findtext("IdList/Id") == "77"
    assert search(ncbi, "asthma", **may).findtext("Count") == "0"
    assert search(ncbi, "(asthma) AND 70:79[UID]").findtext("Count") == "9"
    ncbi.holdings.delete(77)
    assert search(ncbi, "gout[ti]").findtext("Count") == "0"
    status, body = ask(ncbi, "efetch", id="76,77,78")
    assert (status, body.count(b"<PubmedArticle>")) == (200, 2)


def test_the_fourth_request_of_a_second_is_too_many() -> None:
    with running_ncbi() as server:
        statuses = [ask(server, "esearch", term="x")[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        body = json.loads(ask(server, "esearch", term="x")[1])
        assert body == {
            "error": "API rate limit exceeded",
            "api-key": "127.0.0.1",
            "count": "5",
            "limit": "3",
        }
        keyed = [ask(server, "esearch", term="x", api_key="k")[0] for _ in range(11)]
        assert keyed == [200] * 10 + [429]


def test_files_with_their_md5_and_from_an_offset() -> None:
    with running_ncbi() as server:
        content = server.publish("baseline", "pubmed26n0001.xml.gz", records(3), [(9, 2)])
        assert b'<PMID Version="2">9</PMID>' in gzip.decompress(content)
        address = f"{server.files}/baseline/pubmed26n0001.xml.gz"
        request = urllib.request.Request(address, headers={"Range": "bytes=10-"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert (answer.status, answer.read()) == (206, content[10:])
        server.withdraw("baseline", "pubmed26n0001.xml.gz")
        assert not server.tree


def test_faults_at_random_are_the_same_for_a_seed_and_never_go_on_for_long() -> None:
    def faults(seed: int) -> list[Fault | None]:
        script = at_random(seed, 0.9, in_a_row=2)
        return [script(Asked(1, "efetch", {}, 0.0)) for _ in range(200)]

    assert faults(1) == faults(1) != faults(2)
    row = 0
    for fault in faults(1):
        row = row + 1 if fault else 0
        assert row <= 2
    assert CUT in faults(1)
