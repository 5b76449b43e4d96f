"""XML that grows when it is read, before the parsers that take whole files and answers."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ncbi_server import Fault, running_ncbi
from fakes.pubmed_records import records
from infra.mesh_files import read_mesh
from infra.ncbi_requests import RequestFailed
from ncbi_clients import UNLIMITED, clients
from streams.mesh import MeshError

LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
BOMBS = {
    "laughs": (f'<!ENTITY l0 "ha">{LAUGHS}', "&l9;", ""),
    "laughs in an attribute": (f'<!ENTITY l0 "ha">{LAUGHS}', "", ' a="&l9;"'),
    "one long entity many times": (f'<!ENTITY l "{"ha" * 50_000}">', "&l;" * 50_000, ""),
    "a long attribute": ("", "", f' a="{"ha" * 10_000_000}"'),
    "depth": ("", "<a>" * 500_000, ""),
    "a file": ('<!ENTITY l SYSTEM "file:///etc/passwd">', "&l;", ""),
    "a file as a parameter": ('<!ENTITY % l SYSTEM "file:///etc/passwd"> %l;', "", ""),
    "another server": ('<!ENTITY l SYSTEM "http://127.0.0.1:9/x">', "&l;", ""),
}
MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Each is read within seconds, and in little more memory than it takes itself."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 300 * MEGABYTE
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", BOMBS)
def test_a_mesh_file_does_not_grow(kind: str, tmp_path: Path):
    entities, text, attribute = BOMBS[kind]
    (path := tmp_path / "desc.xml").write_text(
        f"<!DOCTYPE DescriptorRecordSet [{entities}]><DescriptorRecordSet><DescriptorRecord>"
        f"<DescriptorUI{attribute}>D000001</DescriptorUI><DescriptorName><String>One{text}</String>"
        "</DescriptorName><TreeNumberList><TreeNumber>C01</TreeNumber></TreeNumberList>"
        "</DescriptorRecord></DescriptorRecordSet>"
    )
    try:
        (found,) = read_mesh(path, "2024").descriptors
    except MeshError as error:
        said = str(error)
        assert said.startswith(str(path))
    else:
        said = found.name
        assert found.name == "One"
    assert "root:" not in said


@pytest.mark.parametrize("kind", BOMBS)
async def test_an_answer_of_entrez_does_not_grow(kind: str):
    entities, text, attribute = BOMBS[kind]
    answer = (
        f"<!DOCTYPE PubmedArticleSet [{entities}]><PubmedArticleSet><PubmedArticle>"
        f"<MedlineCitation><PMID{attribute}>1{text}</PMID></MedlineCitation></PubmedArticle>"
        "</PubmedArticleSet>"
    )
    with running_ncbi(records(1), limits=UNLIMITED) as server:
        server.script = lambda asked: Fault(body=answer.encode())
        async with clients(server, attempts=1) as ncbi:
            try:
                fetched = repr(await ncbi.entrez.fetch_pmids([1]))
            except RequestFailed as error:
                fetched = str(error)
    assert "root:" not in fetched
    assert "haha" not in fetched
