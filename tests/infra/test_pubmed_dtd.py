"""The parser against NLM's DTD as a whole: each element is read, or left out on purpose."""

import re
from datetime import date
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from Bio import Entrez
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.pubmed import document, parse
from fakes.records import ARRIVED
from streams.citation import (
    AbstractSection,
    Article,
    Author,
    Correction,
    Journal,
    Keyword,
    MeshHeading,
    OtherAbstract,
    PublicationType,
    Qualifier,
    SupplementaryConcept,
)

DTD = Path(Entrez.__file__).parent / "DTDs" / "pubmed_250101.dtd"
INLINE = {"b", "i", "u", "sub", "sup", "DispFormula", "mml:math"}
# The names of elements whose text is in no record, here or wherever they are.
LEFT_OUT = {
    *("AccessionNumber", "Acronym", "Affiliation", "Agency", "CitationSubset", "CoiStatement"),
    *("CollectionTitle", "CopyrightInformation", "Country", "DataBankName", "Edition", "EndPage"),
    *("GeneSymbol", "GeneralNote", "GrantID", "Hour", "Isbn", "Issue", "Item", "LocationLabel"),
    *("MedlinePgn", "Medium", "Minute", "Note", "NumberOfReferences", "OtherID", "Param"),
    *("PublicationStatus", "PublisherLocation", "PublisherName", "ReportNumber", "Second"),
    *("Season", "SectionTitle", "SpaceFlightMission", "StartPage", "Volume", "VolumeTitle"),
    *("Citation", "ContractNumber", "URL"),
}
# In a record where nothing else stands for them.
INSTEAD = {"ISSNLinking", "MedlineTA", "ELocationID", "MedlineDate", "Identifier"}
DATES = {"Year", "Month", "Day"}
ATTRIBUTES = {"ArticleId": 'IdType="doi"', "CommentsCorrections": 'RefType="CommentIn"'}


def models() -> dict[str, list[str]]:
    """The children of each element of the DTD, "" for text."""
    dtd = re.sub("<!--.*?-->", "", DTD.read_text(), flags=re.DOTALL).replace("%text;", "#PCDATA")
    return {
        name: ["" if c == "#PCDATA" else c for c in re.findall(r"#?[A-Za-z:]+", content)]
        for name, content in re.findall(r"<!ELEMENT\s+(\S+)\s+(\([^>]*)>", dtd)
    }


def everything(name: str, known: dict[str, list[str]], above: tuple[str, ...] = ()) -> str:
    """An element with each of its children once, and in each text the names that lead to it."""
    path = (*above, name)
    inner = "".join(
        everything(child, known, path)
        for child in dict.fromkeys(known[name])
        if child and child not in INLINE and child not in path
    )
    if "" in known[name]:
        inner = {"PMID": "7", "Year": "2001", "Month": "2", "Day": "3"}.get(
            name, ">".join(path[1:])
        )
    attribute = ATTRIBUTES.get(name, f'UI="{name}" Type="{name}"')
    return f"<{name} {attribute}>{inner.replace('>', '/') if inner[:1] != '<' else inner}</{name}>"


def texts(record: Any) -> set[str]:
    return {path.rpartition("/")[2] for path in re.findall(r"'(\w+/[\w/]+)'", repr(record))}


def test_every_element_is_read_or_left_out_on_purpose() -> None:
    known = models()
    assert len(known) > 130
    whole = [everything(name, known) for name in ("PubmedArticle", "PubmedBookArticle")]
    records = parse(document(*whole))
    assert [type(record) for record in records] == [Article, Article]
    read = texts(records)
    leaves = {name for name, children in known.items() if "" in children} - INLINE
    assert read <= leaves | set(known)
    assert leaves - read - INSTEAD - DATES - {"PMID"} == LEFT_OUT & leaves
    assert LEFT_OUT & read == set()
    assert "Investigator/" not in repr(records)
    assert "PersonalNameSubject/" not in repr(records)


def test_it_is_nlm_s_newest_dtd() -> None:
    assert max(DTD.parent.glob("pubmed_2*.dtd")) == DTD


word = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
words = st.lists(word, min_size=1, max_size=5).map(" ".join)
flag = st.booleans()
day = st.dates(date(1900, 1, 1), date(2099, 12, 31)).map(date.isoformat)
sections = st.lists(
    st.builds(
        AbstractSection,
        text=words,
        label=st.none() | words.filter(lambda label: label != "UNLABELLED"),
        category=st.none() | st.sampled_from(["METHODS", "UNASSIGNED"]),
    ),
    max_size=3,
).map(tuple)
person = st.builds(
    Author,
    last=words,
    fore=st.none() | words,
    initials=st.none() | word,
    suffix=st.none() | word,
    orcid=st.none() | st.from_regex(r"[0-9]{4}(-[0-9]{4}){2}-[0-9]{3}[0-9X]", fullmatch=True),
)


def several(strategy: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=most, unique=True).map(tuple)


articles = st.builds(
    Article,
    pmid=st.integers(1, 10**10 - 1),
    version=st.integers(1, 99),
    title=words,
    sections=sections,
    languages=several(st.sampled_from(["eng", "ger", "fre"])),
    journal=st.builds(Journal, title=words, abbreviation=words, issn=word, nlm_id=st.none() | word),
    published=day | day.map(lambda d: d[:7]) | day.map(lambda d: d[:4]) | st.none(),
    completed=st.none() | day,
    revised=st.none() | day,
    publication_types=several(st.builds(PublicationType, ui=word, name=words)),
    mesh=several(
        st.builds(
            MeshHeading,
            ui=word,
            name=words,
            major=flag,
            qualifiers=several(st.builds(Qualifier, ui=word, name=words, major=flag)),
        )
    ),
    indexing=st.none() | st.sampled_from(["Curated", "Automated"]),
    keywords=several(st.builds(Keyword, text=words, owner=word, major=flag)),
    doi=st.none() | word,
    pmcid=st.none() | st.integers(1, 10**8).map("PMC{}".format),
    corpus=st.just(False),
    source=st.just("some"),
    arrived=st.just(ARRIVED),
    vernacular_title=st.none() | words,
    authors=several(person | st.builds(Author, collective=words)),
    other_abstracts=several(
        st.builds(OtherAbstract, type=word, language=word, sections=sections.filter(bool))
    ),
    supplementary=several(
        st.builds(SupplementaryConcept, ui=word, name=words, type=st.just("Disease"))
        | st.builds(
            SupplementaryConcept,
            ui=word,
            name=words,
            type=st.just("Chemical"),
            registry=st.none() | word.filter(lambda number: number != "0"),
        )
    ).map(lambda found: tuple(sorted(found, key=lambda concept: concept.type == "Chemical"))),
    corrections=several(
        st.builds(Correction, kind=word, pmid=st.none() | st.integers(1, 10**10 - 1), source=words)
    ),
)


def xml(name: str, inner: str | None, **attributes: str | None) -> str:
    """An element of what is already XML; nothing for None."""
    if inner is None:
        return ""
    written = "".join(f" {key}={quoteattr(v)}" for key, v in attributes.items() if v is not None)
    return f"<{name}{written}>{inner}</{name}>"


def leaf(name: str, text: str | None, **attributes: str | None) -> str:
    return xml(name, None if text is None else escape(text), **attributes)


def dated(name: str, iso: str | None) -> str:
    parts = zip(("Year", "Month", "Day"), (iso or "").split("-"), strict=False)
    return xml(name, "".join(leaf(*part) for part in parts)) if iso else ""


def yes(major: bool) -> str:
    return "Y" if major else "N"


def abstract(name: str, sections: tuple[AbstractSection, ...], **attributes: str) -> str:
    texts = (leaf("AbstractText", s.text, Label=s.label, NlmCategory=s.category) for s in sections)
    return xml(name, "".join(texts) + leaf("CopyrightInformation", "©"), **attributes)


def written(a: Article) -> str:
    """The article as NLM would write it, in the DTD's order."""
    journal = (
        leaf("ISSN", a.journal.issn)
        + xml("JournalIssue", dated("PubDate", a.published) or "<PubDate/>")
        + leaf("Title", a.journal.title)
        + leaf("ISOAbbreviation", a.journal.abbreviation)
    )
    authors = "".join(
        xml(
            "Author",
            leaf("LastName", one.last)
            + leaf("ForeName", one.fore)
            + leaf("Initials", one.initials)
            + leaf("Suffix", one.suffix)
            + leaf("CollectiveName", one.collective)
            + leaf("Identifier", one.orcid, Source="ORCID"),
        )
        for one in a.authors
    )
    article = (
        xml("Journal", journal)
        + leaf("ArticleTitle", a.title)
        + abstract("Abstract", a.sections)
        + xml("AuthorList", authors)
        + "".join(leaf("Language", language) for language in a.languages)
        + xml("GrantList", xml("Grant", leaf("GrantID", "G1")))
        + xml(
            "PublicationTypeList",
            "".join(leaf("PublicationType", p.name, UI=p.ui) for p in a.publication_types),
        )
        + leaf("VernacularTitle", a.vernacular_title)
    )
    chemicals = "".join(
        xml(
            "Chemical",
            leaf("RegistryNumber", c.registry or "0") + leaf("NameOfSubstance", c.name, UI=c.ui),
        )
        for c in a.supplementary
        if c.type == "Chemical"
    )
    concepts = "".join(
        leaf("SupplMeshName", c.name, UI=c.ui, Type=c.type)
        for c in a.supplementary
        if c.type != "Chemical"
    )
    links = "".join(
        xml(
            "CommentsCorrections",
            leaf("RefSource", c.source) + leaf("PMID", str(c.pmid) if c.pmid else None),
            RefType=c.kind,
        )
        for c in a.corrections
    )
    headings = "".join(
        xml(
            "MeshHeading",
            leaf("DescriptorName", h.name, UI=h.ui, MajorTopicYN=yes(h.major))
            + "".join(
                leaf("QualifierName", q.name, UI=q.ui, MajorTopicYN=yes(q.major))
                for q in h.qualifiers
            ),
        )
        for h in a.mesh
    )
    citation = (
        leaf("PMID", str(a.pmid), Version=str(a.version))
        + dated("DateCompleted", a.completed)
        + dated("DateRevised", a.revised)
        + xml("Article", article)
        + xml("MedlineJournalInfo", leaf("MedlineTA", "x") + leaf("NlmUniqueID", a.journal.nlm_id))
        + xml("ChemicalList", chemicals)
        + xml("SupplMeshList", concepts)
        + xml("CommentsCorrectionsList", links)
        + xml("MeshHeadingList", headings)
        + "".join(
            abstract("OtherAbstract", o.sections, Type=o.type, Language=o.language)
            for o in a.other_abstracts
        )
        + "".join(
            xml("KeywordList", leaf("Keyword", k.text, MajorTopicYN=yes(k.major)), Owner=k.owner)
            for k in a.keywords
        )
    )
    ids = leaf("ArticleId", a.doi, IdType="doi") + leaf("ArticleId", a.pmcid, IdType="pmc")
    return xml(
        "PubmedArticle",
        xml("MedlineCitation", citation, IndexingMethod=a.indexing)
        + xml("PubmedData", xml("ArticleIdList", ids)),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.lists(articles, max_size=3))
def test_what_is_written_is_read(expected: list[Article]) -> None:
    assert parse(document(*map(written, expected))) == expected
