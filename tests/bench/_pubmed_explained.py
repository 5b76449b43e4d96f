"""The classes of difference between our reading of PubMed XML and others': which, and why ours."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from _pubmed_peers import MONTHS, plain, shallow
from lxml import etree


@dataclass(frozen=True)
class Difference:
    """`citation` is Bio.Entrez's, in which text is XML still."""

    peer: str
    pmid: int
    field: str
    ours: Any
    theirs: Any
    citation: Any


@dataclass(frozen=True)
class Explained:
    """A class of differences: which they are, and why ours is right."""

    name: str
    peer: str
    fields: tuple[str, ...]
    holds: Callable[[Difference], bool]
    reason: str


BIO, PARSER = "Bio.Entrez", "pubmed_parser"
TEXTS = ("title", "vernacular_title", "sections", "other_abstracts", "keywords")
MARK = re.compile(r"(?<=\d)[_^](?=[-+−–]?\d)")


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def alike(d: Difference, form: Callable[[str], str]) -> bool:
    """Whether all strings are the same when brought to this form."""
    ours, theirs = list(leaves(d.ours)), list(leaves(d.theirs))
    return [form(str(v)) for v in ours] == [form(str(v)) for v in theirs]


def without_marks(written: str) -> str:
    return MARK.sub("", written)


def letters(written: str) -> str:
    return "".join(filter(str.isalnum, written))


def with_formula(d: Difference) -> bool:
    return "<math" in str(d.citation) and alike(d, letters)


def unlabelled(d: Difference) -> bool:
    theirs = [("", *rest) if label == "UNLABELLED" else (label, *rest) for label, *rest in d.theirs]
    return alike(replace(d, theirs=theirs), without_marks)


def label_alone(d: Difference) -> bool:
    theirs = [s if s[2] else ("", s[1], s[0]) for s in d.theirs if s[0] or s[2]]
    return alike(replace(d, theirs=theirs), without_marks)


def once_and_not_empty(d: Difference) -> bool:
    theirs = list(dict.fromkeys(k for k in d.theirs if k[0]))
    return len(theirs) < len(d.theirs) and alike(replace(d, theirs=theirs), without_marks)


def parser_s_abstract(d: Difference) -> bool:
    """Made of the XML as pubmed_parser does it: without what lies two elements deep."""
    texts = d.citation["Article"].get("Abstract", {}).get("AbstractText", [])
    labels = [str(t.attributes.get("Label", "")) for t in texts]
    parts = [f"{label} {shallow(t)}" for label, t in zip(labels, texts, strict=True)]
    return plain(d.theirs) == (plain(" ".join(parts)) if len(texts) > 1 else shallow(texts[0]))


def parser_s_title(d: Difference) -> bool:
    name = {"title": "ArticleTitle", "vernacular_title": "VernacularTitle"}[d.field]
    return bool(d.theirs == shallow(d.citation["Article"].get(name, "")))


def parser_s_keywords(d: Difference) -> bool:
    first = next(iter(d.citation.get("KeywordList", [])), [])
    roots = [etree.fromstring(f"<x>{keyword}</x>").text for keyword in first]
    return bool(d.theirs == plain("; ".join(text for text in roots if text is not None)))


def parser_s_doi(d: Difference) -> bool:
    found = d.citation["Article"].get("ELocationID", [])
    return d.theirs == "" and bool(found) and found[-1].attributes["EIdType"] == "pii"


def start_of_range(d: Difference) -> bool:
    year, month, day = re.match(r"(\d{4})(?: (\w{3})[a-z]*(?: (\d+))?)?", d.theirs).groups()
    if month not in MONTHS:
        return bool(d.ours == year)
    number = f"{year}-{MONTHS.index(month) + 1:02}"
    return bool(d.ours == (f"{number}-{int(day):02}" if day else number))


def orcid_digits(written: str) -> str:
    digits = re.sub("[^0-9X]", "", written.upper().rpartition("/")[2])
    return digits if len(digits) == 16 else ""


EXPLAINED = [
    Explained(
        "raised number marked",
        BIO,
        TEXTS,
        lambda d: alike(d, without_marks),
        "10<sup>6</sup>, and 10<sup> 6</sup>, is 10^6, not 106",
    ),
    Explained(
        "formula as one line",
        BIO,
        TEXTS,
        with_formula,
        "MathML in words: no spaces but between two words or numbers, fractions have a slash, "
        "annotations are left out",
    ),
    Explained(
        "label UNLABELLED", BIO, ("sections",), unlabelled, "NLM's word for a part without a label"
    ),
    Explained("label without text", BIO, ("sections",), label_alone, "the label is the text, then"),
    Explained(
        "keyword empty or twice",
        BIO,
        ("keywords",),
        once_and_not_empty,
        "an empty keyword is none, and one that is there twice is one",
    ),
    Explained(
        "ORCID in one form",
        BIO,
        ("orcid",),
        lambda d: alike(d, orcid_digits),
        "an address, or digits without hyphens, is the same identifier; 15 digits are none",
    ),
    Explained(
        "start of a range",
        BIO,
        ("published",),
        start_of_range,
        "ISO 8601 has no 'Jul-Aug' and no 'Spring': the start, as far as it is known",
    ),
    Explained(
        "PMCID without version",
        BIO,
        ("pmcid",),
        lambda d: d.theirs.partition(".")[0] == d.ours,
        "PMC123.4 is the fourth state of PMC123",
    ),
    Explained(
        "linking ISSN",
        BIO,
        ("issn",),
        lambda d: d.theirs == "" and d.ours == d.citation["MedlineJournalInfo"]["ISSNLinking"],
        "the journal's, where the issue has none",
    ),
    Explained(
        "text in nested elements lost",
        PARSER,
        ("title", "vernacular_title"),
        parser_s_title,
        "pubmed_parser leaves out what is two elements deep, and runs 10<sup>6</sup> together",
    ),
    Explained(
        "text in nested elements lost",
        PARSER,
        ("abstract",),
        parser_s_abstract,
        "as for titles; and it keeps the label UNLABELLED",
    ),
    Explained(
        "only first list, up to markup",
        PARSER,
        ("keywords",),
        parser_s_keywords,
        "pubmed_parser reads one owner's keywords, and of each what comes before an element",
    ),
    Explained(
        "overwritten by the PII",
        PARSER,
        ("doi",),
        parser_s_doi,
        "pubmed_parser keeps the last ELocationID, whichever type it has",
    ),
    Explained(
        "PMCID looked for in OtherID",
        PARSER,
        ("pmcid",),
        lambda d: d.theirs == "",
        "NLM gives it in ArticleIdList",
    ),
    Explained(
        "ORCID in one form",
        PARSER,
        ("orcid",),
        lambda d: alike(d, orcid_digits),
        "as for Bio.Entrez",
    ),
    Explained(
        "month of a range lost",
        PARSER,
        ("published",),
        lambda d: re.fullmatch(r"\d{4}", d.theirs) and d.ours[:4] == d.theirs,
        "of a MedlineDate pubmed_parser reads the year only",
    ),
]


def explanation(difference: Difference) -> Explained | None:
    for known in EXPLAINED:
        if (
            known.peer == difference.peer
            and difference.field in known.fields
            and known.holds(difference)
        ):
            return known
    return None
