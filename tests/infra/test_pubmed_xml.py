"""PubMed XML to records: odd citations after the DTD, damaged and hostile files, memory."""

import gzip
import io
import string
import zlib
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.pubmed_xml import DamagedFile, Deletion, Entry, Skipped, read_file, read_stream
from streams.codec import decode, encode
from streams.records import AbstractSection, Article, MeshHeading, PublicationType, Qualifier

ARRIVED = datetime(2026, 1, 2, tzinfo=UTC)
SAMPLE = Path(__file__).parent.parent / "data" / "pubmed_sample.xml"
MATHML = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'


def parse(document: str | bytes) -> list[Entry]:
    raw = document.encode() if isinstance(document, str) else document
    return list(
        read_stream(io.BytesIO(raw), "some.xml", corpus=False, source="some", arrived=ARRIVED)
    )


def parse_until_damage(document: bytes) -> tuple[list[Entry], DamagedFile]:
    entries: list[Entry] = []
    stream = read_stream(
        io.BytesIO(document), "some.xml", corpus=False, source="some", arrived=ARRIVED
    )
    try:
        entries.extend(stream)
    except DamagedFile as damage:
        return entries, damage
    pytest.fail("the damage was not noticed")


def citation(
    *,
    pmid: str = '<PMID Version="1">7</PMID>',
    title: str = "<ArticleTitle>A title.</ArticleTitle>",
    abstract: str = "",
    date: str = "<Year>2000</Year>",
    in_article: str = "",
    in_citation: str = "",
    in_data: str = "",
    attributes: str = "",
) -> str:
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE" {attributes}>{pmid}'
        f"<Article><Journal><JournalIssue><PubDate>{date}</PubDate></JournalIssue>"
        f"<Title>A journal</Title></Journal>{title}{abstract}<Language>eng</Language>{in_article}"
        f"</Article>{in_citation}</MedlineCitation><PubmedData>{in_data}</PubmedData>"
        "</PubmedArticle>"
    )


def document(*entries: str, before: str = "") -> str:
    return f"{before}<PubmedArticleSet>{''.join(entries)}</PubmedArticleSet>"


def one(**parts: str) -> Article:
    (entry,) = parse(document(citation(**parts)))
    assert isinstance(entry, Article), entry
    return entry


def title_of(inner: str) -> str:
    return one(title=f"<ArticleTitle>{inner}</ArticleTitle>").title


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
    assert first.keywords == ("albuminuria", "kidney function", "metformin")
    assert (first.doi, first.pmcid) == ("10.99999/made.up.11001", "PMC9000001")
    assert (first.corpus, first.source, first.arrived) == (True, SAMPLE.name, ARRIVED)
    assert entries[-2:] == [Deletion(11098, 1), Deletion(11099, 1)]


def test_every_record_passes_the_contract() -> None:
    for entry in read_file(SAMPLE, corpus=False, arrived=ARRIVED):
        if isinstance(entry, Article):
            assert decode(Article, encode(entry)) == entry


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<i>E. coli</i> in H<sub>2</sub>O.", "E. coli in H2O."),
        ("Ca<sup>2+</sup> and CD4<sup>+</sup> cells", "Ca2+ and CD4+ cells"),
        ("10<sup>6</sup> or 10<sup>-3</sup> of SO4<sup>2-</sup>", "10^6 or 10^-3 of SO4^2-"),
        ("<sup>13</sup>C, log<sub>10</sub>, 5<sup>th</sup>", "13C, log10, 5th"),
        ("<b><i>Nested</i> bold</b><u>s</u>", "Nested bolds"),
        ("one\n      two\u00a0three\u2009four", "one two three four"),
        ("a &lt; b &amp; c &#945; <![CDATA[<x> & y]]>", "a < b & c α <x> & y"),
        ("with<!-- a comment -->in and <?a pi?>after", "within and after"),
        ("<p>One.</p><p>Two.</p>", "One. Two."),
        ("[A translated title].", "[A translated title]."),
        ("", ""),
        (
            f"slope (<mml:math {MATHML}><mml:msup><mml:mrow><mml:mi>R</mml:mi></mml:mrow> "
            "<mml:mn>2</mml:mn></mml:msup></mml:math> = 0.7)",
            "slope (R2 = 0.7)",
        ),
        (
            f"of<mml:math {MATHML}><mml:mfrac><mml:mi>a</mml:mi><mml:mrow><mml:mi>b</mml:mi>"
            "<mml:mo>+</mml:mo><mml:mn>1</mml:mn></mml:mrow></mml:mfrac></mml:math>and",
            "of a/(b+1)and",
        ),
        (
            f"<mml:math {MATHML}><mml:mtext>dose</mml:mtext><mml:mtext>rate</mml:mtext></mml:math>",
            "dose rate",
        ),
        (
            f"<mml:math {MATHML}><mml:msup><mml:mn>10</mml:mn><mml:mn>6</mml:mn></mml:msup>"
            "</mml:math>",
            "10^6",
        ),
        (
            f"<mml:math {MATHML}><mml:semantics><mml:mi>x</mml:mi><mml:annotation>\\alpha x"
            "</mml:annotation></mml:semantics></mml:math>",
            "x",
        ),
        (
            f"as<DispFormula><mml:math {MATHML}><mml:mi>y</mml:mi></mml:math></DispFormula>is",
            "as y is",
        ),
    ],
)
def test_markup_becomes_text(markup: str, expected: str) -> None:
    assert title_of(markup) == expected


word = st.text(string.ascii_letters + "äßéαβ&<>'-", min_size=1, max_size=8)
tag = st.sampled_from(["", "i", "b", "u", "sub", "sup", "i b", "sup i"])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _marked(text: str, tags: str) -> str:
    names = tags.split()
    return (
        "".join(f"<{name}>" for name in names)
        + _escape(text)
        + "".join(f"</{name}>" for name in reversed(names))
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(word, tag), min_size=1, max_size=3), min_size=1, max_size=12))
def test_words_survive_markup(words: list[list[tuple[str, str]]]) -> None:
    """A word is parts, each marked in its own way; its letters and its neighbours stay."""
    markup = "\n ".join("".join(_marked(part, tags) for part, tags in parts) for parts in words)
    expected = ["".join(part for part, _ in parts) for parts in words]
    assert title_of(markup).split() == expected
    section = f"<Abstract><AbstractText>{markup}</AbstractText></Abstract>"
    assert one(abstract=section).abstract.split() == expected


@settings(deadline=None)
@given(st.lists(word, min_size=1, max_size=8))
def test_words_of_a_formula_stay_apart(words: list[str]) -> None:
    tokens = "".join(f"<mml:mtext>{_escape(token)}</mml:mtext>" for token in words)
    found = title_of(f"<mml:math {MATHML}><mml:mrow>{tokens}</mml:mrow></mml:math>")
    assert found.replace(" ", "") == "".join(words)
    for left, right in pairwise(words):
        if left[-1].isalnum() and right[0].isalnum():
            assert f"{left} {right}" in found


def test_sections_keep_labels_as_printed_and_empty_ones_go() -> None:
    article = one(
        abstract='<Abstract><AbstractText Label="DESIGN &amp; SETTING" NlmCategory="METHODS">'
        "<b>Trial.</b> Six clinics.</AbstractText><AbstractText> </AbstractText>"
        '<AbstractText Label="UNLABELLED">The rest.</AbstractText>'
        '<AbstractText Label="LEVEL OF EVIDENCE: 4"/>'
        "<CopyrightInformation>Copyright of somebody.</CopyrightInformation></Abstract>"
    )
    assert article.sections == (
        AbstractSection(label="DESIGN & SETTING", category="METHODS", text="Trial. Six clinics."),
        AbstractSection(text="The rest."),
        AbstractSection(text="LEVEL OF EVIDENCE: 4"),
    )
    assert (
        article.abstract == "DESIGN & SETTING: Trial. Six clinics.\nThe rest.\nLEVEL OF EVIDENCE: 4"
    )


def test_other_abstracts_and_other_titles_stay_out() -> None:
    article = one(
        title="<ArticleTitle/>",
        abstract="<Abstract><AbstractText>English.</AbstractText></Abstract>",
        in_article="<Language>ger</Language><VernacularTitle>Deutscher Titel.</VernacularTitle>",
        in_citation='<OtherAbstract Language="ger"><AbstractText>Deutsch.</AbstractText>'
        "</OtherAbstract>",
    )
    assert (article.title, article.abstract, article.languages) == (
        "",
        "English.",
        ("eng", "ger"),
    )


def test_a_citation_without_abstract_is_kept() -> None:
    assert one().sections == ()


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("<Year>2000</Year>", "2000"),
        ("<Year>2000</Year><Month>Mar</Month>", "2000-03"),
        ("<Year>2000</Year><Month>3</Month><Day>7</Day>", "2000-03-07"),
        ("<Year>2000</Year><Month>02</Month><Day>31</Day>", "2000-02"),
        ("<Year>2000</Year><Month>13</Month>", "2000"),
        ("<Year>2000</Year><Season>Spring</Season>", "2000"),
        ("<Year>next</Year>", None),
        ("", None),
        *[
            (f"<MedlineDate>{written}</MedlineDate>", expected)
            for written, expected in [
                ("2000 Spring", "2000"),
                ("1998 Dec-1999 Jan", "1998-12"),
                ("2000 Nov-Dec", "2000-11"),
                ("1976-1977", "1976"),
                ("1976-1977 Fall-Winter", "1976"),
                ("2021 3rd Quarter", "2021"),
                ("1978 Apr 15-30", "1978-04-15"),
                ("1978 Aug 30-Sep 5", "1978-08-30"),
                ("Winter 1984", "1984"),
                ("2015 Sept", "2015-09"),
                ("no date", None),
            ]
        ],
    ],
)
def test_dates_are_as_precise_as_the_record(date: str, expected: str | None) -> None:
    assert one(date=date).published == expected


def test_date_of_the_electronic_article_where_the_issue_has_none() -> None:
    electronic = (
        '<ArticleDate DateType="Electronic"><Year>2021</Year><Month>06</Month>'
        "<Day>09</Day></ArticleDate>"
    )
    assert one(date="", in_article=electronic).published == "2021-06-09"
    assert one(in_article=electronic).published == "2000"


def test_identifiers_are_the_record_s_own() -> None:
    ids = (
        '<ArticleIdList><ArticleId IdType="doi">10.1/own</ArticleId>'
        '<ArticleId IdType="pmc">PMC12.2</ArticleId></ArticleIdList>'
    )
    references = (
        "<ReferenceList><Reference><Citation>Other</Citation><ArticleIdList>"
        '<ArticleId IdType="doi">10.1/other</ArticleId><ArticleId IdType="pmc">PMC9</ArticleId>'
        "</ArticleIdList></Reference></ReferenceList>"
    )
    assert (one(in_data=ids + references).doi, one(in_data=ids + references).pmcid) == (
        "10.1/own",
        "PMC12",
    )
    assert (one(in_data=references).doi, one(in_data=references).pmcid) == (None, None)
    wrong = '<ELocationID EIdType="doi" ValidYN="N">10.1/wrong</ELocationID>'
    right = '<ELocationID EIdType="doi" ValidYN="Y">10.1/right</ELocationID>'
    assert one(in_article=wrong + right).doi == "10.1/right"


def test_mesh_flags_and_indexing_method() -> None:
    article = one(
        attributes='IndexingMethod="Automated"',
        in_citation="<MeshHeadingList><MeshHeading>"
        '<DescriptorName UI="D006801" MajorTopicYN="N">Humans</DescriptorName></MeshHeading>'
        '<MeshHeading><DescriptorName UI="D001241" MajorTopicYN="N">Aspirin</DescriptorName>'
        '<QualifierName UI="Q000009" MajorTopicYN="Y">adverse effects</QualifierName>'
        '<QualifierName UI="Q000494" MajorTopicYN="N">pharmacology</QualifierName></MeshHeading>'
        "<MeshHeading><DescriptorName>Without a UI</DescriptorName></MeshHeading>"
        "</MeshHeadingList>",
    )
    assert article.indexing == "Automated"
    assert article.mesh == (
        MeshHeading(ui="D006801", name="Humans"),
        MeshHeading(
            ui="D001241",
            name="Aspirin",
            qualifiers=(
                Qualifier(ui="Q000009", name="adverse effects", major=True),
                Qualifier(ui="Q000494", name="pharmacology"),
            ),
        ),
    )


def test_keywords_are_the_authors() -> None:
    article = one(
        in_citation='<KeywordList Owner="NASA"><Keyword>orbit</Keyword></KeywordList>'
        '<KeywordList Owner="NOTNLM"><Keyword><i>Danio</i> larvae</Keyword>'
        "<Keyword>sleep</Keyword><Keyword>sleep</Keyword><Keyword/></KeywordList>"
    )
    assert article.keywords == ("Danio larvae", "sleep")


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


def test_a_book_chapter_is_a_record_of_its_book() -> None:
    (article,) = parse(
        document(
            "<PubmedBookArticle><BookDocument><PMID>20301295</PMID><ArticleIdList>"
            '<ArticleId IdType="bookaccession">NBK1</ArticleId></ArticleIdList><Book>'
            "<Publisher/><BookTitle>Reviews of genes</BookTitle>"
            "<PubDate><Year>1993</Year></PubDate></Book><ArticleTitle>A disease</ArticleTitle>"
            '<Language>eng</Language><PublicationType UI="D016454">Review</PublicationType>'
            '<Abstract><AbstractText Label="SUMMARY">Text.</AbstractText></Abstract>'
            "<ContributionDate><Year>2001</Year><Month>2</Month></ContributionDate>"
            "</BookDocument><PubmedBookData/></PubmedBookArticle>"
        )
    )
    assert isinstance(article, Article)
    assert (article.pmid, article.title, article.journal.title, article.published) == (
        20301295,
        "A disease",
        "Reviews of genes",
        "2001-02",
    )
    assert article.abstract == "SUMMARY: Text."
    assert article.publication_types == (PublicationType(ui="D016454", name="Review"),)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (citation(pmid=""), "PMID"),
        (citation(pmid="<PMID>seven</PMID>"), "'seven'"),
        (citation(pmid='<PMID Version="x">7</PMID>'), "Version"),
        ("<PubmedArticle/>", "MedlineCitation"),
        (
            "<PubmedArticle><MedlineCitation><PMID>7</PMID></MedlineCitation></PubmedArticle>",
            "no Article",
        ),
        (citation(title="<ArticleTitle>a &what; b</ArticleTitle>"), "&what;"),
    ],
)
def test_a_bad_citation_is_skipped_with_its_reason_and_the_rest_is_read(
    bad: str, reason: str
) -> None:
    before, skipped, after = parse(
        document(
            citation(), bad, citation(), before='<!DOCTYPE PubmedArticleSet SYSTEM "none.dtd">'
        )
    )
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert isinstance(skipped, Skipped)
    assert skipped.number == 2
    assert reason in skipped.reason


GOOD = document(*(citation(pmid=f"<PMID>{n}</PMID>") for n in range(1, 201))).encode()


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


def test_bad_xml_names_line_and_column() -> None:
    entries, damage = parse_until_damage(
        document(citation(), "\n<PubmedArticle><oops</PubmedArticle>").encode()
    )
    assert len(entries) == 1
    assert "some.xml: line 2, column" in str(damage)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<html><body/></html>", "found html"),
        (b"<eFetchResult><ERROR>gone</ERROR></eFetchResult>", "found eFetchResult"),
        (b"", "line"),
        (b"PMID- 1", "line 1"),
        (gzip.compress(b""), "line"),
        (bytes(range(256)), "line 1"),
    ],
)
def test_a_wrong_file_is_one_line(content: bytes, found: str) -> None:
    entries, damage = parse_until_damage(content)
    assert entries == []
    assert found in str(damage)
    assert "\n" not in str(damage)


def test_external_entities_are_not_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    doctype = f'<!DOCTYPE PubmedArticleSet [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    entries = parse(
        document(citation(title="<ArticleTitle>&x;</ArticleTitle>"), citation(), before=doctype)
    )
    assert isinstance(entries[0], Skipped)
    assert isinstance(entries[1], Article)
    assert "a secret" not in repr(entries)


def test_entities_that_grow_are_not_expanded() -> None:
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    doctype = f'<!DOCTYPE PubmedArticleSet [<!ENTITY l0 "ha">{laughs}]>'
    for bomb in (
        "<Abstract><AbstractText>&l9;</AbstractText></Abstract>",
        '<Abstract><AbstractText Label="&l9;">x</AbstractText></Abstract>',
    ):
        before = _resident()
        entries, damage = parse_until_damage(
            document(citation(abstract=bomb), before=doctype).encode()
        )
        assert entries == []
        assert "entity amplification" in str(damage)
        assert _resident() - before < 20_000_000


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
