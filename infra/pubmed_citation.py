"""One citation of PubMed XML, as an element, to a record. Names are those of NLM's PubMed DTD.

The DTD's default values are applied here, since it is not loaded. Left out of a MedlineCitation are
AffiliationInfo, CitationSubset, CoiStatement, DataBankList, GeneSymbolList, GeneralNote, GrantList,
InvestigatorList, NumberOfReferences, OtherID, Pagination, PersonalNameSubjectList and
SpaceFlightMission; of its Journal the Volume and Issue, and of a comment or correction its Note;
of PubmedData the History, ObjectList, PublicationStatus and ReferenceList; of a BookDocument what
places it in its book, ItemList and Sections (a table of contents); and CopyrightInformation.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from lxml import etree

from infra.pubmed_authors import authors
from infra.pubmed_dates import iso
from infra.pubmed_text import text
from streams.citation import (
    MAX_MESH,
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
from streams.errors import Invalid

Element = etree._Element

PMCID = re.compile(r"(?:PMC)?(\d+)(?:\.\d+)?")
# What NLM writes where there is no English title, or not yet.
NO_TITLE = frozenset({"[not available].", "[not available]", "[in process citation]"})


def pmid_of(written: str) -> int | None:
    """The PMID that is written, None where it is none: at most ten digits."""
    written = written.strip()[:11]
    if written.isascii() and written.isdecimal() and 0 < int(written) < 10**10:
        return int(written)
    return None


def identity(element: Element | None) -> tuple[int, int]:
    """PMID and version. Raises `Invalid`."""
    written = text(element)
    pmid = pmid_of(written)
    if element is None or pmid is None:
        raise Invalid("PMID", f"expected a number, found {written[:40]!r}")
    version = element.get("Version", "1")
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise Invalid("PMID Version", f"expected a number, found {version[:40]!r}")
    return pmid, int(version)


def article(entry: Element, corpus: bool, source: str, arrived: datetime) -> Article:
    """The record of a PubmedArticle, PubmedBookArticle or BookDocument. Raises `Invalid`.

    A title in brackets is a translation, and is left as it is. The title is empty where NLM's says
    that there is no English one ("[Not Available].").
    """
    if entry.tag == "BookDocument":
        return _book(entry, None, corpus, source, arrived)
    parts = _children(entry)
    if "BookDocument" in parts:
        data = parts.get("PubmedBookData")
        return _book(parts["BookDocument"], data, corpus, source, arrived)
    if "MedlineCitation" not in parts:
        raise Invalid("no MedlineCitation", f"{entry.tag} holds {', '.join(parts) or 'nothing'}")
    citation = parts["MedlineCitation"]
    outer = _children(citation)
    pmid, version = identity(outer.get("PMID"))
    if "Article" not in outer:
        raise Invalid("no Article", f"PMID {pmid}")
    inner = _children(outer["Article"])
    ids = _article_ids(parts.get("PubmedData"))
    journal, published = _journal(inner.get("Journal"), outer.get("MedlineJournalInfo"))
    return Article(
        pmid=pmid,
        version=version,
        title=_title(inner.get("ArticleTitle")),
        sections=_sections(inner.get("Abstract")),
        languages=_languages(outer["Article"]),
        journal=journal,
        published=published or iso(inner.get("ArticleDate")),
        completed=iso(outer.get("DateCompleted")),
        revised=iso(outer.get("DateRevised")),
        publication_types=_publication_types(inner.get("PublicationTypeList")),
        mesh=_mesh(outer.get("MeshHeadingList")),
        indexing=citation.get("IndexingMethod"),
        keywords=_keywords(citation) if "KeywordList" in outer else (),
        doi=ids.get("doi") or _electronic_doi(outer["Article"]),
        pmcid=_pmcid(ids),
        corpus=corpus,
        source=source,
        arrived=arrived,
        vernacular_title=text(inner.get("VernacularTitle")) or None,
        authors=authors(inner["AuthorList"]) if "AuthorList" in inner else (),
        other_abstracts=_other_abstracts(citation) if "OtherAbstract" in outer else (),
        supplementary=_supplementary(outer.get("SupplMeshList"), outer.get("ChemicalList")),
        corrections=_corrections(outer.get("CommentsCorrectionsList")),
    )


def _book(
    document: Element, data: Element | None, corpus: bool, source: str, arrived: datetime
) -> Article:
    """A chapter, or a whole book where the record is of one; the book stands for the journal.

    A chapter without authors of its own has those of its book. Editors are no authors.
    """
    inner = _children(document)
    pmid, version = identity(inner.get("PMID"))
    whole = inner.get("Book")
    book = _children(whole) if whole is not None else {}
    book_title = text(book.get("BookTitle"))
    title = _title(inner.get("ArticleTitle"))
    ids = _article_ids(document) | _article_ids(data)
    doi = ids.get("doi")
    if whole is not None and not title:
        doi = doi or _electronic_doi(whole)
    return Article(
        pmid=pmid,
        version=version,
        title=title or book_title,
        sections=_sections(inner.get("Abstract")),
        languages=_languages(document),
        journal=Journal(title=book_title),
        published=iso(inner.get("ContributionDate")) or iso(book.get("PubDate")),
        completed=None,
        revised=iso(inner.get("DateRevised")),
        publication_types=_publication_types(document),
        mesh=(),
        indexing=None,
        keywords=_keywords(document),
        doi=doi,
        pmcid=_pmcid(ids),
        corpus=corpus,
        source=source,
        arrived=arrived,
        vernacular_title=text(inner.get("VernacularTitle")) or None,
        authors=_book_authors(document) or (_book_authors(whole) if whole is not None else ()),
    )


def _book_authors(element: Element) -> tuple[Author, ...]:
    lists = element.iterchildren("AuthorList")
    return tuple(
        author for each in lists if each.get("Type") != "editors" for author in authors(each)
    )


def _title(element: Element | None) -> str:
    title = text(element)
    return "" if title.lower() in NO_TITLE else title


def _children(element: Element) -> dict[str, Element]:
    return {child.tag: child for child in element}


def _sections(abstract: Element | None) -> tuple[AbstractSection, ...]:
    if abstract is None:
        return ()
    sections = []
    for child in abstract:
        if child.tag != "AbstractText":
            continue
        written, label = text(child), " ".join(child.get("Label", "").split())
        if label == "UNLABELLED":  # NLM's own stand-in for a part that has no label in print
            label = ""
        if not written:  # some publishers put a whole remark ("LEVEL OF EVIDENCE: 4") in the label
            written, label = label, ""
        if written:
            category = child.get("NlmCategory")
            sections.append(AbstractSection(text=written, label=label or None, category=category))
    return tuple(sections)


def _languages(element: Element) -> tuple[str, ...]:
    return tuple(filter(None, (text(child) for child in element.iterchildren("Language"))))


def _journal(element: Element | None, catalogued: Element | None) -> tuple[Journal, str | None]:
    """The journal, and when the issue was published."""
    published = None
    written: dict[str, str | None] = {}
    for child in element if element is not None else ():
        written[child.tag] = child.text
        if child.tag == "JournalIssue":
            published = iso(_children(child).get("PubDate"))
    for child in catalogued if catalogued is not None else ():
        written[child.tag] = child.text
    return _journal_of(*map(written.get, JOURNAL)), published


JOURNAL = ("Title", "ISOAbbreviation", "MedlineTA", "ISSN", "ISSNLinking", "NlmUniqueID")


@lru_cache(maxsize=4096)
def _journal_of(*written: str | None) -> Journal:
    title, iso_abbreviation, medline_ta, issn, linking, nlm_id = map(_words, written)
    abbreviation = iso_abbreviation or medline_ta
    return Journal(
        title=title or abbreviation,
        abbreviation=abbreviation or None,
        issn=issn or linking or None,
        nlm_id=nlm_id or None,
    )


def _publication_types(element: Element | None) -> tuple[PublicationType, ...]:
    return tuple(
        _publication_type(child.get("UI", ""), child.text)
        for child in (element if element is not None else ())
        if child.tag == "PublicationType"
    )


def _mesh(element: Element | None) -> tuple[MeshHeading, ...]:
    """The headings that have a UI; files of before 2014 may have names only."""
    if element is None:
        return ()
    if len(element) > MAX_MESH:
        raise Invalid(
            "MeshHeadingList", f"{len(element):,} headings, expected {MAX_MESH:,} at most"
        )
    headings = []
    for child in element:
        if not len(child):
            continue
        name = child[0]
        heading = _heading(name.get("UI"), name.text, name.get("MajorTopicYN"))
        if heading and len(child) > 1:
            heading = _qualified(heading, name.itersiblings())
        if heading:
            headings.append(heading)
    return tuple(headings)


def _qualified(heading: MeshHeading, qualifiers: Iterable[Element]) -> MeshHeading:
    found = (_qualifier(q.get("UI"), q.text, q.get("MajorTopicYN")) for q in qualifiers)
    return MeshHeading(
        ui=heading.ui,
        name=heading.name,
        major=heading.major,
        qualifiers=tuple(filter(None, found)),
    )


# A file has these a hundred thousand times, most of them the same: they are made once and shared.
@lru_cache(maxsize=32768)
def _heading(ui: str | None, name: str | None, major: str | None) -> MeshHeading | None:
    return MeshHeading(ui=ui, name=_words(name), major=major == "Y") if ui else None


@lru_cache(maxsize=4096)
def _qualifier(ui: str | None, name: str | None, major: str | None) -> Qualifier | None:
    return Qualifier(ui=ui, name=_words(name), major=major == "Y") if ui else None


@lru_cache(maxsize=32768)
def _concept(ui: str, name: str | None, type: str, registry: str | None) -> SupplementaryConcept:
    number = _words(registry)
    if number == "0":  # NLM's sign for a substance without one
        number = ""
    return SupplementaryConcept(ui=ui, name=_words(name), type=type, registry=number or None)


@lru_cache(maxsize=4096)
def _publication_type(ui: str, name: str | None) -> PublicationType:
    return PublicationType(ui=ui, name=_words(name))


def _keywords(element: Element) -> tuple[Keyword, ...]:
    """Those of every owner, each once."""
    found = (
        Keyword(text=written, owner=owner, major=keyword.get("MajorTopicYN") == "Y")
        for keywords in element.iterchildren("KeywordList")
        for owner in (keywords.get("Owner", "NLM"),)
        for keyword in keywords
        if (written := text(keyword))
    )
    return tuple(dict.fromkeys(found))


def _other_abstracts(citation: Element) -> tuple[OtherAbstract, ...]:
    return tuple(
        OtherAbstract(
            type=child.get("Type", ""), language=child.get("Language", "eng"), sections=sections
        )
        for child in citation.iterchildren("OtherAbstract")
        if (sections := _sections(child))
    )


def _supplementary(
    concepts: Element | None, chemicals: Element | None
) -> tuple[SupplementaryConcept, ...]:
    found = [
        _concept(concept.get("UI", ""), concept.text, concept.get("Type", ""), None)
        for concept in _each(concepts, "SupplMeshName")
    ]
    for chemical in _each(chemicals, "Chemical"):
        ui, name, registry = "", None, None
        for part in chemical:
            if part.tag == "NameOfSubstance":
                ui, name = part.get("UI", ""), part.text
            else:
                registry = part.text
        found.append(_concept(ui, name, "Chemical", registry))
    return tuple(concept for concept in found if concept.name)


def _corrections(element: Element | None) -> tuple[Correction, ...]:
    """All but citations, which files of before 2019 hold among them."""
    found = []
    for link in _each(element, "CommentsCorrections"):
        if (kind := link.get("RefType", "")) != "Cites":
            parts = _children(link)
            pmid, source = pmid_of(text(parts.get("PMID"))), text(parts.get("RefSource"))
            found.append(Correction(kind=kind, pmid=pmid, source=source))
    return tuple(found)


def _each(element: Element | None, tag: str) -> Iterable[Element]:
    return element.iterchildren(tag) if element is not None else ()


def _article_ids(element: Element | None) -> dict[str, str]:
    """The record's DOI and PMCID by type. Those of its references lie deeper, in ReferenceList."""
    if element is None:
        return {}
    return {
        kind: text(child)
        for ids in element.iterchildren("ArticleIdList")
        for child in ids
        if (kind := child.get("IdType")) in ("doi", "pmc")
    }


def _pmcid(ids: dict[str, str]) -> str | None:
    """PMC and digits; a version after a full stop is left out."""
    found = PMCID.fullmatch(ids.get("pmc", ""))
    return f"PMC{found[1]}" if found else None


def _electronic_doi(article: Element) -> str | None:
    for location in article.iterchildren("ELocationID"):
        if location.get("EIdType") == "doi" and location.get("ValidYN", "Y") == "Y":
            return text(location) or None
    return None


def _words(written: str | None) -> str:
    return " ".join(written.split()) if written else ""
