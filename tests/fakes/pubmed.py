"""PubMed XML for tests: citations made of the parts that matter, and what is read from them."""

import io

import pytest

from fakes.records import ARRIVED
from infra.pubmed_xml import DamagedFile, Entry, read_stream
from streams.citation import Article


def citation(
    *,
    pmid: str = '<PMID Version="1">7</PMID>',
    title: str = "<ArticleTitle>A title.</ArticleTitle>",
    abstract: str = "",
    authors: str = "",
    date: str = "<Year>2000</Year>",
    in_article: str = "",
    in_citation: str = "",
    in_data: str = "",
    attributes: str = "",
) -> str:
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE" {attributes}>{pmid}'
        f"<Article><Journal><JournalIssue><PubDate>{date}</PubDate></JournalIssue>"
        f"<Title>A journal</Title></Journal>{title}{abstract}{authors}<Language>eng</Language>"
        f"{in_article}</Article>{in_citation}</MedlineCitation><PubmedData>{in_data}</PubmedData>"
        "</PubmedArticle>"
    )


def numbered(numbers: range) -> str:
    """Citations whose PMIDs are these."""
    return "\n".join(citation(pmid=f"<PMID>{number}</PMID>") for number in numbers)


def document(*entries: str, before: str = "") -> str:
    return f"{before}<PubmedArticleSet>{''.join(entries)}</PubmedArticleSet>"


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


def one(**parts: str) -> Article:
    """The record of one citation of these parts."""
    (entry,) = parse(document(citation(**parts)))
    assert isinstance(entry, Article), entry
    return entry
