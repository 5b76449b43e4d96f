"""Records as a server at NCBI holds them, and the XML that efetch and NLM's files give of them."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from xml.sax.saxutils import escape

HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>\n'
    '<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" '
    '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n'
    "<PubmedArticleSet>\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One citation. `edat` is when it entered Entrez, `mdat` when it last changed there.

    `mesh` holds pairs of UI and name, `links` pairs of RefType and PMID (RetractionIn and others).
    """

    pmid: int
    version: int = 1
    title: str = "A title."
    abstract: str = "An abstract."
    mesh: tuple[tuple[str, str], ...] = ()
    publication_types: tuple[str, ...] = ("Journal Article",)
    links: tuple[tuple[str, int], ...] = ()
    edat: date = date(2026, 1, 1)
    mdat: date = date(2026, 1, 1)


def records(
    count: int, *, first_pmid: int = 1, first: date = date(2026, 1, 1), days: int = 1
) -> list[Record]:
    """`count` records, their PMIDs in a row, spread in that order over `days` days of entry."""
    made = []
    for number in range(count):
        day = first + timedelta(days=number * days // count)
        pmid = first_pmid + number
        made.append(
            Record(
                pmid=pmid,
                title=f"Effects of treatment {pmid} on asthma.",
                abstract=f"We treated {pmid} patients. Most of them improved.",
                mesh=(("D001249", "Asthma"), ("D006801", "Humans")),
                edat=day,
                mdat=day,
            )
        )
    return made


def article_set(holds: Iterable[Record], deletions: Iterable[tuple[int, int]] = ()) -> bytes:
    """A PubmedArticleSet; `deletions` (PMID, version) come in its end, as in update files."""
    parts = [HEAD, *map(_article, holds)]
    if withdrawn := "".join(f'<PMID Version="{v}">{p}</PMID>\n' for p, v in deletions):
        parts.append(f"<DeleteCitation>\n{withdrawn}</DeleteCitation>\n")
    return "".join([*parts, "</PubmedArticleSet>\n"]).encode()


def nlm_file(holds: Iterable[Record], deletions: Iterable[tuple[int, int]] = ()) -> bytes:
    """The same, gzipped as NLM's baseline and update files are."""
    return gzip.compress(article_set(holds, deletions), compresslevel=1, mtime=0)


def _article(record: Record) -> str:
    abstract = mesh = links = ""
    if record.abstract:
        text = escape(record.abstract)
        abstract = f"<Abstract><AbstractText>{text}</AbstractText></Abstract>"
    if record.mesh:
        headings = "".join(
            f'<MeshHeading><DescriptorName UI="{ui}" MajorTopicYN="N">{escape(name)}'
            "</DescriptorName></MeshHeading>"
            for ui, name in record.mesh
        )
        mesh = f"<MeshHeadingList>{headings}</MeshHeadingList>"
    if record.links:
        each = "".join(
            f'<CommentsCorrections RefType="{kind}"><RefSource>J. 2026.</RefSource>'
            f'<PMID Version="1">{pmid}</PMID></CommentsCorrections>'
            for kind, pmid in record.links
        )
        links = f"<CommentsCorrectionsList>{each}</CommentsCorrectionsList>"
    kinds = "".join(
        f'<PublicationType UI="D016428">{escape(kind)}</PublicationType>'
        for kind in record.publication_types
    )
    status = "MEDLINE" if record.mesh else "Publisher"
    return (
        f'<PubmedArticle><MedlineCitation Status="{status}" Owner="NLM">'
        f'<PMID Version="{record.version}">{record.pmid}</PMID>'
        f"<DateRevised>{_date(record.mdat)}</DateRevised>"
        '<Article PubModel="Print"><Journal><ISSN IssnType="Print">1234-5678</ISSN>'
        '<JournalIssue CitedMedium="Internet"><Volume>1</Volume><PubDate>'
        f"<Year>{record.edat.year}</Year></PubDate></JournalIssue><Title>A journal</Title>"
        "<ISOAbbreviation>A J</ISOAbbreviation></Journal>"
        f"<ArticleTitle>{escape(record.title)}</ArticleTitle>{abstract}"
        f"<Language>eng</Language><PublicationTypeList>{kinds}</PublicationTypeList></Article>"
        "<MedlineJournalInfo><MedlineTA>A J</MedlineTA></MedlineJournalInfo>"
        f"{links}{mesh}</MedlineCitation><PubmedData><History>"
        f'<PubMedPubDate PubStatus="entrez">{_date(record.edat)}</PubMedPubDate></History>'
        "<PublicationStatus>ppublish</PublicationStatus><ArticleIdList>"
        f'<ArticleId IdType="pubmed">{record.pmid}</ArticleId></ArticleIdList>'
        "</PubmedData></PubmedArticle>\n"
    )


def _date(day: date) -> str:
    return f"<Year>{day.year}</Year><Month>{day.month:02}</Month><Day>{day.day:02}</Day>"
