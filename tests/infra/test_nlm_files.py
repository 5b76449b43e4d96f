"""NLM's files from a server that behaves like NLM's, over HTTP."""

import asyncio
import gzip
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.ncbi_server import (
    AWAY,
    CUT,
    DAMAGED,
    HANG,
    HTML_PAGE,
    SERVER_ERROR,
    TOO_MANY,
    TRUNCATED,
    Asked,
    Fault,
    NcbiServer,
    at_random,
    in_turn,
    running_ncbi,
)
from fakes.pubmed_records import records
from infra.ncbi_requests import RequestFailed
from infra.nlm_files import NlmFile, file_order, gaps
from infra.pubmed_xml import Deletion, read_file
from ncbi_clients import clients

pytestmark = pytest.mark.slow

NAME = "pubmed26n0001.xml.gz"
FILE = NlmFile("baseline", NAME)
# Gzip enough for a server, and of a size that takes many pieces.
LARGE = b"\x1f\x8b" + random.Random(0).randbytes(3_000_000)


def published(server: NcbiServer, content: bytes | None = LARGE) -> bytes:
    return server.publish("baseline", NAME, records(20), content=content)


def requests_of(server: NcbiServer, name: str = NAME) -> list[Asked]:
    return [asked for asked in server.asked if asked.endpoint == f"baseline/{name}"]


def lying(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The order and the gaps of names.


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("pubmed26n1402.xml.gz", 261402),
        ("pubmed07n0001.xml.gz", 70001),
        ("pubmed26n1402.xml.gz.md5", None),
        ("pubmed26n1402_stats.html", None),
        ("../pubmed26n1402.xml.gz", None),
        ("README.txt", None),
    ],
)
def test_the_order_of_a_file(name: str, order: int | None) -> None:
    assert file_order(name) == order


@given(st.sets(st.integers(0, 99_9999), min_size=2))
def test_a_later_year_comes_after_every_file_of_an_earlier(orders: set[int]) -> None:
    names = sorted(f"pubmed{order // 10_000:02}n{order % 10_000:04}.xml.gz" for order in orders)
    assert all(file_order(a) < file_order(b) for a, b in pairwise(names))


def test_what_is_missing_from_a_sequence() -> None:
    names = [f"pubmed26n{number:04}.xml.gz" for number in (3, 4, 7)]
    five, six = "pubmed26n0005.xml.gz", "pubmed26n0006.xml.gz"
    assert gaps(names) == [five, six]
    assert gaps(reversed(names), first=2) == ["pubmed26n0002.xml.gz", five, six]
    assert gaps([*names, "pubmed27n0001.xml.gz", "README.txt"]) == [five, six]
    assert gaps([]) == []


# Listing.


async def test_the_files_of_a_folder_in_their_order() -> None:
    with running_ncbi() as server:
        for number in (1336, 1335):
            server.publish("updatefiles", f"pubmed26n{number}.xml.gz", records(1))
        server.publish("updatefiles", "pubmed27n0001.xml.gz", records(1))
        server.publish("updatefiles", "pubmed27n0001_stats.html", content=b"<html>")
        async with clients(server) as ncbi:
            found = await ncbi.files.listing("updatefiles")
            assert await ncbi.files.listing("baseline") == []
    assert found == [
        NlmFile("updatefiles", f"pubmed{name}.xml.gz") for name in ("26n1335", "26n1336", "27n0001")
    ]
    assert [file.order for file in found] == [261335, 261336, 270001]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (HTML_PAGE, "HTML page"),
        (TRUNCATED, "cut connection"),
        (CUT, "cut connection"),
        (AWAY, "server error"),
        (TOO_MANY, "429"),
        (HANG, "time-out"),
    ],
)
async def test_a_listing_that_is_none_is_asked_for_again(fault: Fault, kind: str) -> None:
    with running_ncbi() as server:
        for number in range(1, 30):
            server.publish("baseline", f"pubmed26n{number:04}.xml.gz", content=b"\x1f\x8b")
        server.script = in_turn(replace(fault, headers={}))
        async with clients(server, timeout=0.3 if fault.hang else 10.0) as ncbi:
            assert len(await ncbi.files.listing("baseline")) == 29
    assert ncbi.outcomes == {("listing", kind): 1, ("listing", "ok"): 1}


# Downloads.


async def test_a_downloaded_file_is_read_like_any_other(tmp_path: Path) -> None:
    with running_ncbi() as server:
        server.publish("updatefiles", "pubmed26n1335.xml.gz", records(20), [(7, 1)])
        async with clients(server) as ncbi:
            (file,) = await ncbi.files.listing("updatefiles")
            path = await ncbi.files.download(file, tmp_path)
    entries = list(read_file(path, corpus=False, arrived=None))
    assert len(entries) == 21
    assert entries[-1] == Deletion(7, 1)
    assert set(lying(tmp_path)) == {"pubmed26n1335.xml.gz"}


async def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    with running_ncbi() as server:
        content = published(server)
        async with clients(server) as ncbi:
            await ncbi.files.download(FILE, tmp_path)
            await ncbi.files.download(FILE, tmp_path)
            assert len(requests_of(server)) == 1
            (tmp_path / NAME).write_bytes(b"something else")
            await ncbi.files.download(FILE, tmp_path)
        assert len(requests_of(server)) == 2
    assert (tmp_path / NAME).read_bytes() == content


async def test_a_cut_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with running_ncbi() as server:
        content = published(server)
        # More cuts than attempts, each of which brought a part.
        server.script = in_turn(CUT, CUT, CUT, endpoint=".gz")
        async with clients(server, attempts=2) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
        offsets = [asked.offset for asked in requests_of(server)]
    assert path.read_bytes() == content
    assert offsets[0] == 0
    assert len(offsets) == 4
    assert all(0 < a < b for a, b in pairwise(offsets[1:]))
    assert ncbi.outcomes["file", "cut connection"] == 3


async def test_a_download_goes_on_after_the_program_was_killed(tmp_path: Path) -> None:
    with running_ncbi() as server:
        content = published(server)
        (tmp_path / f"{NAME}.part").write_bytes(content[:1_000_000])
        async with clients(server) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
        assert [asked.offset for asked in requests_of(server)] == [1_000_000]
    assert path.read_bytes() == content


@pytest.mark.parametrize("left", [b"", LARGE, LARGE + b"more", b"\x1f\x8b of another file"])
async def test_whatever_lies_there_already(tmp_path: Path, left: bytes) -> None:
    """Nothing, all of it, more than all, or the beginning of something else."""
    (tmp_path / f"{NAME}.part").write_bytes(left)
    with running_ncbi() as server:
        content = published(server)
        async with clients(server) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
    assert path == tmp_path / NAME
    assert lying(tmp_path) == {NAME: content}


async def test_a_server_without_ranges_begins_anew(tmp_path: Path) -> None:
    with running_ncbi(ranges=False) as server:
        content = published(server)
        (tmp_path / f"{NAME}.part").write_bytes(content[:1_000_000])
        async with clients(server) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (DAMAGED, "damaged file"),
        (TRUNCATED, "damaged file"),
        (HTML_PAGE, "HTML page"),
        (Fault(body=b"maintenance"), "damaged file"),
        (Fault(body=b""), "damaged file"),
        (SERVER_ERROR, "server error"),
        (replace(TOO_MANY, headers={}), "429"),
        (CUT, "cut connection"),
        (HANG, "time-out"),
    ],
)
async def test_each_fault_of_a_download(tmp_path: Path, fault: Fault, kind: str) -> None:
    with running_ncbi() as server:
        content = published(server)
        server.script = in_turn(fault, endpoint=".gz")
        async with clients(server, timeout=0.5 if fault.hang else 10.0) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
    assert path.read_bytes() == content
    assert ncbi.faults == {("file", kind): 1}


async def test_an_error_page_costs_nothing_of_what_was_there(tmp_path: Path) -> None:
    with running_ncbi() as server:
        content = published(server)
        (tmp_path / f"{NAME}.part").write_bytes(content[:1_000_000])
        server.script = in_turn(HTML_PAGE, HTML_PAGE, endpoint=".gz")
        async with clients(server) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
        assert [asked.offset for asked in requests_of(server)] == [1_000_000] * 3
    assert path.read_bytes() == content


async def test_a_file_that_never_is_right_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_ncbi() as server:
        published(server)
        server.script = lambda asked: DAMAGED if asked.endpoint.endswith(".gz") else None
        async with clients(server, attempts=3) as ncbi:
            with pytest.raises(RequestFailed, match=f"{NAME}: its MD5 is not") as failed:
                await ncbi.files.download(FILE, tmp_path)
        assert len(requests_of(server)) == 3
    assert failed.value.kind == "damaged file"
    assert lying(tmp_path) == {}


async def test_a_download_that_gets_on_and_never_is_right_ends_too(tmp_path: Path) -> None:
    with running_ncbi() as server:
        published(server)
        server.tree = {**server.tree, f"baseline/{NAME}.md5": b"0" * 32}
        server.script = lambda asked: (
            CUT if asked.endpoint.endswith(".gz") and asked.offset == 0 else None
        )
        async with clients(server, attempts=3) as ncbi:
            with pytest.raises(RequestFailed, match="its MD5 is not 0000"):
                await ncbi.files.download(FILE, tmp_path)
    assert ncbi.faults == {("file", "cut connection"): 3, ("file", "damaged file"): 3}


async def test_a_file_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with running_ncbi() as server:
        async with clients(server) as ncbi:
            with pytest.raises(RequestFailed, match="status 404") as failed:
                await ncbi.files.download(FILE, tmp_path)
    assert failed.value.kind == "refused"
    assert ncbi.outcomes == {("md5", "refused"): 1}


@pytest.mark.parametrize("text", ["{digest}  {name}\n", "{digest}\n", "MD5 ({name}) = {digest}"])
async def test_other_ways_to_write_an_md5(tmp_path: Path, text: str) -> None:
    with running_ncbi() as server:
        content = published(server)
        digest = server.tree[f"baseline/{NAME}.md5"].decode().split()[-1].upper()
        written = text.format(digest=digest, name=NAME).encode()
        server.tree = {**server.tree, f"baseline/{NAME}.md5": written}
        async with clients(server) as ncbi:
            path = await ncbi.files.download(FILE, tmp_path)
    assert path.read_bytes() == content
    assert not ncbi.faults


async def test_an_md5_file_without_an_md5_is_asked_for_again(tmp_path: Path) -> None:
    with running_ncbi() as server:
        published(server)
        server.script = in_turn(HTML_PAGE, Fault(body=b""), endpoint=".md5")
        async with clients(server) as ncbi:
            await ncbi.files.download(FILE, tmp_path)
    assert ncbi.faults == {("md5", "HTML page"): 1, ("md5", "damaged file"): 1}


async def test_every_fault_at_random_for_a_whole_run(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    with running_ncbi() as server:
        for number in range(1, 31):
            name = f"pubmed26n{number:04}.xml.gz"
            held = records(30, first_pmid=number * 100)
            contents[name] = server.publish("baseline", name, held)
        server.script = at_random(7, 0.4, wait=0.01)
        async with clients(server, timeout=0.5) as ncbi:
            files = await ncbi.files.listing("baseline")
            assert gaps(file.name for file in files) == []
            for file in files:
                await ncbi.files.download(file, tmp_path)
    assert lying(tmp_path) == contents
    assert all(gzip.decompress(content) for content in contents.values())
    assert len({kind for _, kind in ncbi.faults}) >= 5


async def test_two_files_at_once(tmp_path: Path) -> None:
    with running_ncbi() as server:
        first = published(server)
        second = server.publish("baseline", "pubmed26n0002.xml.gz", records(5))
        async with clients(server) as ncbi:
            files = await ncbi.files.listing("baseline")
            paths = await asyncio.gather(*(ncbi.files.download(f, tmp_path) for f in files))
    assert [path.read_bytes() for path in paths] == [first, second]
