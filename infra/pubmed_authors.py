"""The authors of a PubMed citation: persons and groups, in the order of the publication."""

import re

from lxml import etree

from infra.pubmed_text import text
from streams.citation import Author

# As numbers, with or without hyphens, or at the end of an address of orcid.org.
ORCID = re.compile(r"(\d{4})-?(\d{4})-?(\d{4})-?(\d{3}[\dXx])", re.ASCII)


def authors(element: etree._Element) -> tuple[Author, ...]:
    """Those of an AuthorList, without entries of ValidYN N: another one spells that name right."""
    return tuple(
        author
        for child in element
        if child.get("ValidYN", "Y") == "Y" and (author := _author(child))
    )


def _author(element: etree._Element) -> Author | None:
    last = fore = initials = suffix = collective = orcid = None
    for child in element:
        match child.tag:
            case "LastName":
                last = text(child) or None
            case "ForeName":
                fore = text(child) or None
            case "Initials":
                initials = text(child) or None
            case "Suffix":
                suffix = text(child) or None
            case "CollectiveName":
                collective = text(child) or None
            case "Identifier" if child.get("Source") == "ORCID":
                orcid = orcid or _orcid(child.text)
    if not (last or fore or collective):
        return None
    return Author(
        last=last, fore=fore, initials=initials, suffix=suffix, collective=collective, orcid=orcid
    )


def _orcid(written: str | None) -> str | None:
    last = (written or "").strip().rstrip("/").rpartition("/")[2]
    found = ORCID.fullmatch(last)
    return "-".join(found.groups()).upper() if found else None
