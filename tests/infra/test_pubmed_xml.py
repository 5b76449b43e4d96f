"""PubMed XML files to entries: whole files, versions, gzip, damage and where it is, memory."""

import gzip
import zlib
from pathlib import Path

import pytest

from fakes.pubmed import citation, document, numbered, parse, parse_until_damage
from fakes.records import ARRIVED
from infra.pubmed_xml import Deletion, Skipped, read_file
from streams.citation import (
    AbstractSection,
    Article,
    Author,
    Keyword,
    MeshHeading,
    PublicationType,
    Qualifier,
)
from streams.codec import decode, encode

SAMPLE = Path(__file__).parent.parent / "data" / "pubmed_sample.xml"


def test_a_whole_citation_and_what_follows_it() -> None:
    entries = list(read_file(SAMPLE, corpus=True, arrived=ARRIVED))
    assert [type(entry) for entry in entries] == [Article] * 12 + [Deletion] * 2
    first = entries[0]
    assert isinstance(first, Article)
    assert (first.pmid, first.version) == (11001, 1)
    assert first.title.startswith("Metformin and kidney function in adults with type 2 diabetes")
    assert [section.label for section in first.sections] == [
        "BACKGROUND",
        "METHODS",
        "RESULTS",
        "CONCLUSIONS",
    ]
    assert first.sections[2] == AbstractSection(
        label="RESULTS",
        category="RESULTS",
        text="Filtration rate fell by 3.1 ml/min per 1.73 m2 with metformin and by 5.4 with "
        "placebo (P = 0.01). Fasting glucose was lower with metformin.",
    )
    assert first.languages == ("eng",)
    assert first.journal.title == "Journal of made-up clinical research"
    assert first.journal.abbreviation == "J Made Up Clin Res"
    assert (first.journal.issn, first.journal.nlm_id) == ("0000-0019", "0000001")
    assert (first.published, first.completed, first.revised) == (
        "2016-03-14",
        "2016-09-02",
        "2018-11-13",
    )
    assert first.publication_types == (
        PublicationType(ui="D016428", name="Journal Article"),
        PublicationType(ui="D016449", name="Randomized Controlled Trial"),
    )
    assert first.mesh[0] == MeshHeading(
        ui="D003924",
        name="Diabetes Mellitus, Type 2",
        qualifiers=(
            Qualifier(ui="Q000150", name="complications"),
            Qualifier(ui="Q000188", name="drug therapy", major=True),
        ),
    )
    assert first.mesh[1].major
    assert first.keywords == tuple(
        Keyword(text=text, owner="NOTNLM")
        for text in ("albuminuria", "kidney function", "metformin")
    )
    assert first.authors == (Author(last="Example", fore="Ada", initials="A"),)
    assert (first.doi, first.pmcid) == ("10.99999/made.up.11001", "PMC9000001")
    assert (first.corpus, first.source, first.arrived) == (True, SAMPLE.name, ARRIVED)
    assert entries[-2:] == [Deletion(11098, 1), Deletion(11099, 1)]


def test_every_record_passes_the_contract() -> None:
    for entry in read_file(SAMPLE, corpus=False, arrived=ARRIVED):
        if isinstance(entry, Article):
            assert decode(Article, encode(entry)) == entry


def test_versions_and_repeated_pmids_come_in_file_order() -> None:
    first = citation(title="<ArticleTitle>Old.</ArticleTitle>")
    second = citation(pmid='<PMID Version="2">7</PMID>', title="<ArticleTitle>New.</ArticleTitle>")
    deleted = '<DeleteCitation><PMID Version="1">8</PMID></DeleteCitation>'
    entries = parse(document(first, second, first, deleted))
    assert [(e.version, e.title) for e in entries if isinstance(e, Article)] == [
        (1, "Old."),
        (2, "New."),
        (1, "Old."),
    ]
    assert entries[-1] == Deletion(8, 1)


def _headings(count: int) -> str:
    heading = '<MeshHeading><DescriptorName UI="D1">One</DescriptorName></MeshHeading>'
    return f"<MeshHeadingList>{heading * count}</MeshHeadingList>"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (citation(pmid=""), "PMID"),
        (citation(pmid="<PMID>seven</PMID>"), "'seven'"),
        (citation(pmid='<PMID Version="x">7</PMID>'), "Version"),
        (citation(pmid='<PMID Version="12345678901">7</PMID>'), "Version"),
        (citation(pmid=f"<PMID>{'7' * 5000}</PMID>"), "PMID"),
        ("<PubmedArticle/>", "MedlineCitation"),
        (
            "<PubmedArticle><MedlineCitation><PMID>7</PMID></MedlineCitation></PubmedArticle>",
            "no Article",
        ),
        (citation(title="<ArticleTitle>a &what; b</ArticleTitle>"), "Entity 'what' not defined"),
        (citation(abstract='<Abstract><AbstractText Label="&what;"/></Abstract>'), "'what'"),
        (citation(in_citation=_headings(1001)), "1,001 headings, expected 1,000 at most"),
        ("<PubmedArticle><oops</PubmedArticle>", "line 3, column 2"),
        (citation(title="<ArticleTitle>no end"), "line 3, column"),
        ("<PubmedArticle><MedlineCitation><PMID>7</PMID>", "line 3, column"),
        ("<PubmedArticle>" + "<b>" * 5000 + "</PubmedArticle>", "line 3, column"),
        ("<Citation/>", "found Citation"),
        ("<ERROR>gone</ERROR>", "found ERROR"),
    ],
)
def test_a_bad_citation_is_skipped_with_its_reason_and_the_rest_is_read(
    bad: str, reason: str
) -> None:
    doctype = '<!DOCTYPE PubmedArticleSet SYSTEM "none.dtd">\n'
    before, skipped, after = parse(
        document(numbered(range(1, 2)), "\n", bad, numbered(range(3, 4)), before=doctype)
    )
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert (before.pmid, after.pmid) == (1, 3)
    assert isinstance(skipped, Skipped)
    assert skipped.number == 2
    assert reason in skipped.reason
    assert "\n" not in skipped.reason
    if "<PMID>7<" in bad:
        assert skipped.pmid == 7


GOOD = document(numbered(range(1, 201))).encode()


def test_gzip_plain_and_gzip_of_several_members_read_the_same() -> None:
    halves = gzip.compress(GOOD[:5000]) + gzip.compress(GOOD[5000:]) + b"\0" * 512
    expected = parse(GOOD)
    assert len(expected) == 200
    assert parse(gzip.compress(GOOD)) == expected
    assert parse(halves) == expected


def test_a_truncated_gzip_gives_what_came_before_and_its_byte() -> None:
    packed = gzip.compress(GOOD, compresslevel=0)
    cut = packed[: len(packed) // 2]
    entries, damage = parse_until_damage(cut)
    assert 90 < len(entries) < 110
    assert f"some.xml: byte {len(cut):,}: the gzip stream stops before its end" in str(damage)
    assert damage.read == len(entries)
    assert f"({len(entries):,} entries were read before)" in str(damage)


def test_a_flipped_byte_in_a_gzip_is_damage() -> None:
    packed = bytearray(gzip.compress(GOOD, compresslevel=0))
    packed[-6] ^= 0xFF  # in the checksum
    _, damage = parse_until_damage(bytes(packed))
    assert "byte" in str(damage)


@pytest.mark.parametrize("end", [0.2, 0.5, 0.999])
def test_a_truncated_document_gives_what_came_before(end: float) -> None:
    entries, damage = parse_until_damage(GOOD[: int(len(GOOD) * end)])
    whole = GOOD[: int(len(GOOD) * end)].count(b"</PubmedArticle>")
    assert [e.pmid for e in entries if isinstance(e, Article)] == list(range(1, whole + 1))
    assert "\n" not in str(damage)


def test_a_document_that_goes_on_after_its_end_is_damage() -> None:
    entries, damage = parse_until_damage(document(citation()).encode() + b"\n<more/>")
    assert len(entries) == 1
    assert "some.xml: line 2, column" in str(damage)
    entries, damage = parse_until_damage(document(citation()).encode() + b"\n" + GOOD)
    assert len(entries) == 1
    assert "some.xml: line 1: the document goes on after its end" in str(damage)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<html><body/></html>", "found html"),
        (b"<eFetchResult><ERROR>gone</ERROR></eFetchResult>", "found eFetchResult"),
        (b"", "line"),
        (b"PMID- 1", "line 1"),
        (gzip.compress(b"", mtime=0), "line"),
        (bytes(range(256)), "line 1"),
    ],
)
def test_a_wrong_file_is_one_line(content: bytes, found: str) -> None:
    entries, damage = parse_until_damage(content)
    assert entries == []
    assert found in str(damage)
    assert "\n" not in str(damage)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """30,000 citations of 2 KB, of which the reader holds a few hundred at a time."""
    path = tmp_path / "many.xml.gz"
    abstract = "<Abstract><AbstractText>" + "many words here " * 100 + "</AbstractText></Abstract>"
    packer = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(b"<PubmedArticleSet>\n"))
        for number in range(1, 30_001):
            entry = citation(pmid=f"<PMID>{number}</PMID>", abstract=abstract)
            file.write(packer.compress(entry.encode() + b"\n"))
        file.write(packer.compress(b"</PubmedArticleSet>") + packer.flush())

    entries = read_file(path, corpus=False, arrived=ARRIVED)
    resident = [0, 0]
    for number, _ in enumerate(entries, start=1):
        if number in (3_000, 30_000):
            resident[number // 30_000] = _resident()
    assert number == 30_000
    # libxml2's memory is not Python's, so it is the process that is looked at; the file is 55 MB.
    assert resident[1] - resident[0] < 15_000_000


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
