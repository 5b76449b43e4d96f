"""Odd citations after NLM's PubMed DTD, element by element."""

from typing import Any

import pytest

from fakes.pubmed import one
from streams.citation import (
    AbstractSection,
    Author,
    Correction,
    Keyword,
    MeshHeading,
    OtherAbstract,
    Qualifier,
    SupplementaryConcept,
)


def _title(inner: str) -> dict[str, str]:
    return {"title": f"<ArticleTitle>{inner}</ArticleTitle>"}


def _authors(inner: str) -> dict[str, str]:
    return {"authors": f"<AuthorList>{inner}</AuthorList>"}


def _links(*links: tuple[str, str]) -> str:
    inner = "".join(
        f'<CommentsCorrections RefType="{k}">{i}</CommentsCorrections>' for k, i in links
    )
    return f"<CommentsCorrectionsList>{inner}</CommentsCorrectionsList>"


def _keyword(text: str, owner: str = "NOTNLM", major: bool = False) -> Keyword:
    return Keyword(text=text, owner=owner, major=major)


@pytest.mark.parametrize(
    ("parts", "field", "expected"),
    [
        pytest.param(_title("[A translation.]"), "title", "[A translation.]", id="translated"),
        pytest.param(_title("[Not Available]."), "title", "", id="no English title"),
        pytest.param(_title("[In Process Citation]"), "title", "", id="no title yet"),
        pytest.param(_title(""), "title", "", id="empty title"),
        pytest.param({"title": ""}, "title", "", id="no title"),
        pytest.param(
            {"in_article": "<VernacularTitle>Ü<i>ber</i> das.</VernacularTitle>"},
            "vernacular_title",
            "Über das.",
            id="vernacular",
        ),
        pytest.param(
            {"in_article": "<VernacularTitle/>"}, "vernacular_title", None, id="empty vernacular"
        ),
        pytest.param(
            {"in_article": "<Language>ger</Language><Language/><Language>fre</Language>"},
            "languages",
            ("eng", "ger", "fre"),
            id="languages",
        ),
        pytest.param(
            {"in_citation": '<OtherAbstract Type="Publisher" Language="ger"><AbstractText>Auf '
             "Deutsch.</AbstractText><CopyrightInformation>©</CopyrightInformation></OtherAbstract>"
             '<OtherAbstract Type="plain-language-summary"><AbstractText Label="WHY">Plain.'
             '</AbstractText></OtherAbstract><OtherAbstract Type="KIE"><AbstractText/>'
             "</OtherAbstract>"},
            "other_abstracts",
            (
                OtherAbstract(
                    type="Publisher",
                    language="ger",
                    sections=(AbstractSection(text="Auf Deutsch."),),
                ),
                OtherAbstract(
                    type="plain-language-summary",
                    language="eng",
                    sections=(AbstractSection(label="WHY", text="Plain."),),
                ),
            ),
            id="other abstracts",
        ),
        pytest.param(
            _authors(
                "<Author><LastName>Müller</LastName><ForeName>Ada B</ForeName>"
                "<Initials>AB</Initials><Suffix>3<sup>rd</sup></Suffix>"
                "<AffiliationInfo><Affiliation>Somewhere</Affiliation>"
                '<Identifier Source="ORCID">0000-0000-0000-0009</Identifier></AffiliationInfo>'
                "</Author>"
                '<Author ValidYN="N"><LastName>Mueler</LastName></Author>'
                "<Author><LastName>Plato</LastName></Author>"
                "<Author><CollectiveName>The <i>E. coli</i> Group</CollectiveName></Author>"
                "<Author><LastName/></Author><Author/>"
            ),
            "authors",
            (
                Author(last="Müller", fore="Ada B", initials="AB", suffix="3rd"),
                Author(last="Plato"),
                Author(collective="The E. coli Group"),
            ),
            id="authors",
        ),
        *(
            pytest.param(
                _authors(
                    "<Author><LastName>A</LastName>"
                    f'<Identifier Source="{source}">{written}</Identifier></Author>'
                ),
                "authors",
                (Author(last="A", orcid=orcid),),
                id=f"ORCID {written}",
            )
            for source, written, orcid in [
                ("ORCID", "0000-0001-2345-678X", "0000-0001-2345-678X"),
                ("ORCID", "https://orcid.org/0000-0001-2345-678x", "0000-0001-2345-678X"),
                ("ORCID", "http://orcid.org/0000-0001-2345-6789/", "0000-0001-2345-6789"),
                ("ORCID", "000000012345678X", "0000-0001-2345-678X"),
                ("ORCID", "0000-0001-2345-678", None),
                ("ORCID", "", None),
                ("GRID", "0000-0001-2345-6789", None),
            ]
        ),
        pytest.param(
            {"in_citation": "<KeywordList><Keyword>default owner</Keyword></KeywordList>"
             '<KeywordList Owner="KIE"><Keyword>Ethics</Keyword></KeywordList>'
             '<KeywordList Owner="NOTNLM"><Keyword MajorTopicYN="Y"><i>Danio</i> larvae</Keyword>'
             "<Keyword>sleep</Keyword><Keyword>sleep</Keyword><Keyword/></KeywordList>"},
            "keywords",
            (
                _keyword("default owner", "NLM"),
                _keyword("Ethics", "KIE"),
                _keyword("Danio larvae", major=True),
                _keyword("sleep"),
            ),
            id="keywords",
        ),
        pytest.param(
            {"in_citation": "<ChemicalList><Chemical><RegistryNumber>R16CO5Y76E</RegistryNumber>"
             '<NameOfSubstance UI="D001241">Aspirin</NameOfSubstance></Chemical><Chemical>'
             "<RegistryNumber>0</RegistryNumber>"
             '<NameOfSubstance UI="C000001">made-up</NameOfSubstance></Chemical></ChemicalList>'
             '<SupplMeshList><SupplMeshName Type="Disease" UI="C538231">Fever X</SupplMeshName>'
             '<SupplMeshName Type="Organism" UI="C000657245">Virus Y</SupplMeshName>'
             "</SupplMeshList>"},
            "supplementary",
            (
                SupplementaryConcept(ui="C538231", name="Fever X", type="Disease"),
                SupplementaryConcept(ui="C000657245", name="Virus Y", type="Organism"),
                SupplementaryConcept(
                    ui="D001241", name="Aspirin", type="Chemical", registry="R16CO5Y76E"
                ),
                SupplementaryConcept(ui="C000001", name="made-up", type="Chemical"),
            ),
            id="supplementary",
        ),
        pytest.param(
            {"in_citation": _links(
                ("CommentIn", "<RefSource>J Ex. 2001;1:2</RefSource><PMID>8</PMID>"),
                ("ErratumIn", "<RefSource>J Ex. 2002</RefSource><Note>a note</Note>"),
                ("ErratumFor", "<RefSource/><PMID>none</PMID>"),
                ("Cites", "<RefSource>J Ex. 1999</RefSource><PMID>9</PMID>"),
            )},
            "corrections",
            (
                Correction(kind="CommentIn", pmid=8, source="J Ex. 2001;1:2"),
                Correction(kind="ErratumIn", pmid=None, source="J Ex. 2002"),
                Correction(kind="ErratumFor", pmid=None, source=""),
            ),
            id="corrections",
        ),
        pytest.param(
            {"in_article": '<ELocationID EIdType="pii">S1</ELocationID>'
             '<ELocationID EIdType="doi">10.1/a</ELocationID>'},
            "doi",
            "10.1/a",
            id="electronic locations",
        ),
        pytest.param(
            {"attributes": 'IndexingMethod="Curated"'}, "indexing", "Curated", id="indexed by hand"
        ),
        pytest.param({}, "indexing", None, id="no method"),
        pytest.param({}, "sections", (), id="no abstract"),
        pytest.param({"abstract": "<Abstract/>"}, "sections", (), id="empty abstract"),
    ],
)  # fmt: skip
def test_what_the_dtd_allows(parts: dict[str, str], field: str, expected: Any) -> None:
    assert getattr(one(**parts), field) == expected


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
