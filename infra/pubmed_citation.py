"""One citation of PubMed XML, as an element, to a record. Names are those of NLM's PubMed DTD."""

import re
from datetime import date, datetime
from functools import lru_cache

from lxml import etree

from infra.pubmed_text import text
from streams.errors import Invalid
from streams.records import (
    AbstractSection,
    Article,
    Journal,
    MeshHeading,
    PublicationType,
    Qualifier,
)

Element = etree._Element

MONTHS = {
    "jan": "01",
    "feb": "02",
    "mar": "03",
    "apr": "04",
    "may": "05",
    "jun": "06",
    "jul": "07",
    "aug": "08",
    "sep": "09",
    "oct": "10",
    "nov": "11",
    "dec": "12",
}
# The start of "2000", "2000 Spring", "2000 Nov-Dec", "2000 Apr 15-30", "1998 Dec-1999 Jan".
MEDLINE_DATE = re.compile(r"\b(\d{4})\b(?:\s+([A-Za-z]{3})[a-z]*\b\.?(?:\s+(\d{1,2})\b)?)?")

PMCID = re.compile(r"(?:PMC)?(\d+)(?:\.\d+)?")


def identity(element: Element | None) -> tuple[int, int]:
    """PMID and version. Raises `Invalid`."""
    pmid = text(element)
    if element is None or not (pmid.isascii() and pmid.isdecimal() and 0 < int(pmid) < 10**10):
        raise Invalid("PMID", f"expected a number, found {pmid[:40]!r}")
    version = element.get("Version", "1")
    if not (version.isascii() and version.isdecimal()):
        raise Invalid("PMID Version", f"expected a number, found {version[:40]!r}")
    return int(pmid), int(version)


def article(entry: Element, corpus: bool, source: str, arrived: datetime) -> Article:
    """The record of a PubmedArticle or PubmedBookArticle. Raises `Invalid`."""
    parts = _children(entry)
    if "BookDocument" in parts:
        return _book(parts["BookDocument"], parts, corpus, source, arrived)
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
        title=text(inner.get("ArticleTitle")),
        sections=_sections(inner.get("Abstract")),
        languages=_languages(outer["Article"]),
        journal=journal,
        published=published or _date(inner.get("ArticleDate")),
        completed=_date(outer.get("DateCompleted")),
        revised=_date(outer.get("DateRevised")),
        publication_types=_publication_types(inner.get("PublicationTypeList")),
        mesh=_mesh(outer.get("MeshHeadingList")),
        indexing=citation.get("IndexingMethod"),
        keywords=_keywords(citation) if "KeywordList" in outer else (),
        doi=ids.get("doi") or _electronic_doi(outer["Article"]),
        pmcid=_pmcid(ids),
        corpus=corpus,
        source=source,
        arrived=arrived,
    )


def _book(
    document: Element, parts: dict[str, Element], corpus: bool, source: str, arrived: datetime
) -> Article:
    """A chapter, or a whole book where the record is of one; the book stands for the journal."""
    inner = _children(document)
    pmid, version = identity(inner.get("PMID"))
    book = _children(inner["Book"]) if "Book" in inner else {}
    book_title = text(book.get("BookTitle"))
    ids = _article_ids(document) | _article_ids(parts.get("PubmedBookData"))
    return Article(
        pmid=pmid,
        version=version,
        title=text(inner.get("ArticleTitle")) or book_title,
        sections=_sections(inner.get("Abstract")),
        languages=_languages(document),
        journal=Journal(title=book_title),
        published=_date(inner.get("ContributionDate")) or _date(book.get("PubDate")),
        completed=None,
        revised=_date(inner.get("DateRevised")),
        publication_types=_publication_types(document),
        mesh=(),
        indexing=None,
        keywords=_keywords(document),
        doi=ids.get("doi"),
        pmcid=_pmcid(ids),
        corpus=corpus,
        source=source,
        arrived=arrived,
    )


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
    printed = _children(element) if element is not None else {}
    catalogue = _children(catalogued) if catalogued is not None else {}
    abbreviation = text(printed.get("ISOAbbreviation")) or text(catalogue.get("MedlineTA"))
    issn = text(printed.get("ISSN")) or text(catalogue.get("ISSNLinking"))
    issue = printed.get("JournalIssue")
    journal = Journal(
        title=text(printed.get("Title")) or abbreviation,
        abbreviation=abbreviation or None,
        issn=issn or None,
        nlm_id=text(catalogue.get("NlmUniqueID")) or None,
    )
    return journal, _date(next(issue.iterchildren("PubDate"), None)) if issue is not None else None


def _publication_types(element: Element | None) -> tuple[PublicationType, ...]:
    if element is None:
        return ()
    return tuple(
        _publication_type(child.get("UI", ""), child.text)
        for child in element.iterchildren("PublicationType")
    )


def _mesh(element: Element | None) -> tuple[MeshHeading, ...]:
    """The headings that have a UI; files of before 2014 may have names only."""
    if element is None:
        return ()
    headings: list[tuple[Element, list[Qualifier]]] = []
    for name in element.iter("DescriptorName", "QualifierName"):
        if name.tag == "DescriptorName":
            headings.append((name, []))
        elif headings and (ui := name.get("UI")):
            headings[-1][1].append(_qualifier(ui, name.text, name.get("MajorTopicYN")))
    return tuple(
        _with_qualifiers(heading, qualifiers) if qualifiers else heading
        for name, qualifiers in headings
        if (heading := _heading(name.get("UI"), name.text, name.get("MajorTopicYN")))
    )


def _with_qualifiers(heading: MeshHeading, qualifiers: list[Qualifier]) -> MeshHeading:
    return MeshHeading(
        ui=heading.ui, name=heading.name, major=heading.major, qualifiers=tuple(qualifiers)
    )


# A file has these a hundred thousand times, most of them the same: they are made once and shared.
@lru_cache(maxsize=32768)
def _heading(ui: str | None, name: str | None, major: str | None) -> MeshHeading | None:
    if not ui:
        return None
    return MeshHeading(ui=ui, name=" ".join((name or "").split()), major=major == "Y")


@lru_cache(maxsize=4096)
def _qualifier(ui: str, name: str | None, major: str | None) -> Qualifier:
    return Qualifier(ui=ui, name=" ".join((name or "").split()), major=major == "Y")


@lru_cache(maxsize=4096)
def _publication_type(ui: str, name: str | None) -> PublicationType:
    return PublicationType(ui=ui, name=" ".join((name or "").split()))


def _keywords(element: Element) -> tuple[str, ...]:
    """The authors' keywords (NLM files them under NOTNLM), each once."""
    found = (
        text(keyword)
        for keywords in element.iterchildren("KeywordList")
        if keywords.get("Owner", "NOTNLM") == "NOTNLM"
        for keyword in keywords
    )
    return tuple(dict.fromkeys(filter(None, found)))


def _article_ids(element: Element | None) -> dict[str, str]:
    """The record's identifiers by type. Those of its references lie deeper, in ReferenceList."""
    if element is None:
        return {}
    return {
        child.get("IdType", "pubmed"): text(child)
        for ids in element.iterchildren("ArticleIdList")
        for child in ids
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


def _date(element: Element | None) -> str | None:
    """ISO 8601, as precise as the element is; a range gives its start, a season its year."""
    if element is None:
        return None
    year = month = day = ""
    for child in element:
        match child.tag:
            case "Year":
                year = child.text or ""
            case "Month":
                month = child.text or ""
            case "Day":
                day = child.text or ""
            case "MedlineDate":
                if found := MEDLINE_DATE.search(child.text or ""):
                    year, month, day = found.groups("")
    return _iso(year, month, day)


@lru_cache(maxsize=4096)
def _iso(year: str, month: str, day: str) -> str | None:
    """The longest part of a date that is valid: 2000-02-31 is 2000-02."""
    year, month, day = year.strip(), month.strip(), day.strip()
    if not re.fullmatch(r"[0-9]{4}", year):
        return None
    month = MONTHS.get(month[:3].lower(), month.zfill(2))
    for whole, length in ((f"{year}-{month}-{day.zfill(2)}", 10), (f"{year}-{month}-01", 7)):
        try:
            date.fromisoformat(whole)
        except ValueError:
            continue
        return whole[:length]
    return year
