"""A citation as we read it, as pubmed_parser does and as Bio.Entrez does, in forms to compare."""

from typing import Any

from lxml import etree

from streams.citation import AbstractSection, Article

Fields = dict[str, Any]


def plain(written: str | None) -> str:
    return " ".join((written or "").split())


def flat(xml: str) -> str:
    """All text that there is in XML, tags left out."""
    return plain("".join(etree.fromstring(f"<x>{xml}</x>").itertext()))


def shallow(xml: str) -> str:
    """The text of XML that lies in no element or in one, not in one within one."""
    root = etree.fromstring(f"<x>{xml}</x>")
    return plain((root.text or "") + "".join((e.text or "") + (e.tail or "") for e in root))


def sections_text(sections: tuple[AbstractSection, ...]) -> str:
    return " ".join(plain(f"{s.label or ''} {s.text}") for s in sections)


def ours_for_parser(article: Article) -> Fields:
    """Our record, in the form of pubmed_parser's."""
    return {
        "title": article.title,
        "vernacular_title": article.vernacular_title or "",
        "abstract": sections_text(article.sections)
        if len(article.sections) > 1
        else " ".join(s.text for s in article.sections),
        "mesh": "; ".join(
            " / ".join(
                [f"{h.ui}:{h.name}", *(f"{q.ui}:{q.name}{'*' * q.major}" for q in h.qualifiers)]
            )
            for h in article.mesh
        ),
        "publication_types": "; ".join(f"{p.ui}:{p.name}" for p in article.publication_types),
        "chemicals": "; ".join(
            f"{c.ui}:{c.name}" for c in article.supplementary if c.type == "Chemical"
        ),
        "keywords": "; ".join(k.text for k in article.keywords),
        "authors": [(a.last or "", a.fore or "", a.initials or "") for a in article.authors],
        "orcid": [a.orcid or "" for a in article.authors],
        "published": article.published or "",
        "doi": article.doi or "",
        "pmcid": article.pmcid or "",
        "languages": ";".join(article.languages),
        "journal": article.journal.title,
        "nlm_id": article.journal.nlm_id or "",
    }


def theirs_from_parser(record: Fields) -> Fields:
    return {
        "title": plain(record["title"]),
        "vernacular_title": plain(record["vernacular_title"]),
        "abstract": plain(record["abstract"]),
        "mesh": record["mesh_terms"],
        "publication_types": record["publication_types"],
        "chemicals": record["chemical_list"],
        "keywords": plain(record["keywords"]),
        "authors": [
            tuple(plain(a[name]) for name in ("lastname", "forename", "initials"))
            for a in record["authors"]
        ],
        "orcid": [a["identifier"] for a in record["authors"]],
        "published": record["pubdate"],
        "doi": record["doi"],
        "pmcid": record["pmc"],
        "languages": record["languages"],
        "journal": record["journal"],
        "nlm_id": record["nlm_unique_id"],
    }


def ours_for_biopython(article: Article) -> Fields:
    """Our record, in a form that Bio.Entrez's can be brought to as well."""
    return {
        "version": article.version,
        "title": article.title,
        "vernacular_title": article.vernacular_title or "",
        "sections": [(s.label or "", s.category or "", s.text) for s in article.sections],
        "other_abstracts": [
            (o.type, o.language, [(s.label or "", s.category or "", s.text) for s in o.sections])
            for o in article.other_abstracts
        ],
        "mesh": [
            (h.ui, h.name, h.major, [(q.ui, q.name, q.major) for q in h.qualifiers])
            for h in article.mesh
        ],
        "publication_types": [(p.ui, p.name) for p in article.publication_types],
        "supplementary": [(c.ui, c.name, c.type, c.registry or "") for c in article.supplementary],
        "corrections": [(c.kind, c.pmid or 0, c.source) for c in article.corrections],
        "keywords": [(k.text, k.owner, k.major) for k in article.keywords],
        "authors": [
            (a.last or "", a.fore or "", a.initials or "", a.suffix or "", a.collective or "")
            for a in article.authors
        ],
        "orcid": [a.orcid or "" for a in article.authors],
        "published": article.published or "",
        "completed": article.completed or "",
        "revised": article.revised or "",
        "doi": article.doi or "",
        "pmcid": article.pmcid or "",
        "languages": list(article.languages),
        "journal": article.journal.title,
        "issn": article.journal.issn or "",
        "abbreviation": article.journal.abbreviation or "",
        "nlm_id": article.journal.nlm_id or "",
        "indexing": article.indexing or "",
        "retraction": article.retraction or "",
    }


MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def theirs_from_biopython(record: Any) -> Fields:
    citation = record["MedlineCitation"]
    article = citation["Article"]
    journal, info = article["Journal"], citation["MedlineJournalInfo"]
    ids = {
        str(i.attributes["IdType"]): flat(i)
        for i in record.get("PubmedData", {}).get("ArticleIdList", [])
    }
    located = {
        str(i.attributes["EIdType"]): flat(i)
        for i in reversed(article.get("ELocationID", []))
        if i.attributes["ValidYN"] == "Y"
    }
    types = [(str(t.attributes["UI"]), flat(t)) for t in article["PublicationTypeList"]]
    links = [
        (
            str(c.attributes["RefType"]),
            int(c.get("PMID", 0)),
            flat(c.get("RefSource", "")),
        )
        for c in citation.get("CommentsCorrectionsList", [])
    ]
    kinds = {kind for kind, _, _ in links}
    return {
        "version": int(citation["PMID"].attributes["Version"]),
        "title": flat(article["ArticleTitle"]),
        "vernacular_title": flat(article.get("VernacularTitle", "")),
        "sections": _sections(article.get("Abstract", {})),
        "other_abstracts": [
            (str(o.attributes["Type"]), str(o.attributes["Language"]), _sections(o))
            for o in citation.get("OtherAbstract", [])
        ],
        "mesh": [
            (*_heading(h["DescriptorName"]), [_heading(q) for q in h["QualifierName"]])
            for h in citation.get("MeshHeadingList", [])
        ],
        "publication_types": types,
        "supplementary": [
            (str(s.attributes["UI"]), flat(s), str(s.attributes["Type"]), "")
            for s in citation.get("SupplMeshList", [])
        ]
        + [
            (
                str(c["NameOfSubstance"].attributes["UI"]),
                flat(c["NameOfSubstance"]),
                "Chemical",
                flat(c["RegistryNumber"]) if c["RegistryNumber"] != "0" else "",
            )
            for c in citation.get("ChemicalList", [])
        ],
        "corrections": links,
        "keywords": [
            (flat(k), str(found.attributes["Owner"]), k.attributes["MajorTopicYN"] == "Y")
            for found in citation.get("KeywordList", [])
            for k in found
        ],
        "authors": [_author(a) for a in article.get("AuthorList", [])],
        "orcid": [_orcid(a) for a in article.get("AuthorList", [])],
        "published": _published(journal["JournalIssue"]["PubDate"])
        or next((_date(d) for d in article.get("ArticleDate", [])), ""),
        "completed": _date(citation.get("DateCompleted", {})),
        "revised": _date(citation.get("DateRevised", {})),
        "doi": ids.get("doi") or located.get("doi", ""),
        "pmcid": ids.get("pmc", ""),
        "languages": [str(language) for language in article["Language"]],
        "journal": flat(journal.get("Title", "")),
        "issn": flat(journal.get("ISSN", "")),
        "abbreviation": flat(journal.get("ISOAbbreviation", "")),
        "nlm_id": flat(info.get("NlmUniqueID", "")),
        "indexing": str(citation.attributes.get("IndexingMethod", "")),
        "retraction": "retracted"
        if ("D016441", "Retracted Publication") in types or "RetractionIn" in kinds
        else "erratum"
        if "ErratumIn" in kinds
        else "",
    }


def _sections(abstract: Any) -> list[tuple[str, str, str]]:
    return [
        (
            plain(text.attributes.get("Label", "")),
            str(text.attributes.get("NlmCategory", "")),
            flat(text),
        )
        for text in abstract.get("AbstractText", [])
    ]


def _heading(name: Any) -> tuple[str, str, bool]:
    return str(name.attributes["UI"]), flat(name), name.attributes["MajorTopicYN"] == "Y"


def _author(author: Any) -> tuple[str, ...]:
    names = ("LastName", "ForeName", "Initials", "Suffix", "CollectiveName")
    return tuple(flat(author.get(name, "")) for name in names)


def _orcid(author: Any) -> str:
    found = (str(i) for i in author["Identifier"] if i.attributes["Source"] == "ORCID")
    return next(found, "")


def _date(date: Any) -> str:
    return "-".join(str(date[part]) for part in ("Year", "Month", "Day") if part in date)


def _published(date: Any) -> str:
    """As it is written, but for the month's number."""
    if "MedlineDate" in date:
        return str(date["MedlineDate"])
    month = str(date.get("Month", ""))
    number = f"{MONTHS.index(month) + 1:02}" if month in MONTHS else month
    return "-".join(filter(None, (str(date.get("Year", "")), number, str(date.get("Day", "")))))
