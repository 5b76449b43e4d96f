"""A PubMed citation, as frozen dataclasses."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

PMID = Annotated[int, Field(ge=1, lt=10**10)]
# JSON sets integers no bound, but whoever reads what is written on, and the tables, do.
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# A record has some 15 headings; scoring takes as long as the product of two records' counts.
MAX_MESH = 1000
Descriptors = Annotated[tuple[str, ...], Field(max_length=MAX_MESH)]

# What a citation is, compared with what was known of its record: see `streams.life`.
Change = Literal["new", "text", "mesh", "other", "unchanged", "older", "deleted", "reinstated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstractSection:
    """A part of an abstract: `label` as printed ("METHODS"), `category` as NLM classed it."""

    text: str
    label: str | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualifier:
    """A MeSH subheading, by UI ("Q000188")."""

    ui: str
    name: str
    major: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshHeading:
    """A MeSH descriptor of a record, by UI ("D010206"), with its qualifiers."""

    ui: str
    name: str
    major: bool = False
    qualifiers: tuple[Qualifier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationType:
    ui: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    title: str
    abbreviation: str | None = None
    issn: str | None = None
    nlm_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """A person, by last name, or a group, by `collective` name. `orcid` is 16 digits in fours."""

    last: str | None = None
    fore: str | None = None
    initials: str | None = None
    suffix: str | None = None
    collective: str | None = None
    orcid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherAbstract:
    """An abstract beside the main one: in another `language`, or of another `type` ("KIE")."""

    type: str
    language: str
    sections: tuple[AbstractSection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """A keyword and who gave it: NOTNLM (the authors), NLM, NASA, PIP, KIE, HHS."""

    text: str
    owner: str
    major: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplementaryConcept:
    """A concept by UI ("C538231"): Disease, Protocol, Organism, Anatomy, Population or Chemical.

    Chemicals are the record's whole list of substances, of which descriptors are part (UI with D).
    `registry` is a chemical's CAS, UNII or EC number.
    """

    ui: str
    name: str
    type: str
    registry: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A comment on the record, a correction or retraction of it, or what it is one of.

    `kind` is NLM's RefType: "RetractionIn" on the retracted, "RetractionOf" on the notice.
    """

    kind: str
    pmid: PMID | None
    source: str


# NLM files a partial retraction as an erratum. What was retracted or corrected and published anew
# as a whole stands in the new record.
WITHDRAWN_IN = {
    "RetractionIn": "retracted",
    "RetractedandRepublishedIn": "retracted",
    "ErratumIn": "erratum",
    "CorrectedandRepublishedIn": "erratum",
    "PartialRetractionIn": "erratum",
}
RETRACTED_PUBLICATION = PublicationType(ui="D016441", name="Retracted Publication")


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """A PubMed citation. Dates are ISO 8601, as precise as the record is: 2000, 2000-03.

    Of what a citation holds, affiliations, investigators, persons it is about, data banks, grants
    and references are left out, and authors that NLM marks as wrongly written.

    `corpus` records are searched but not asked about. `source` names the file or query that the
    record came from, `arrived` when; `order` is the place of that file among NLM's. `change` is
    what is new in this state of the record, against the one before.
    """

    pmid: PMID
    version: Int64
    title: str
    sections: tuple[AbstractSection, ...]
    languages: tuple[str, ...]
    journal: Journal
    published: str | None
    completed: str | None
    revised: str | None
    publication_types: tuple[PublicationType, ...]
    mesh: Annotated[tuple[MeshHeading, ...], Field(max_length=MAX_MESH)]
    indexing: str | None
    keywords: tuple[Keyword, ...]
    doi: str | None
    pmcid: str | None
    corpus: bool
    source: str
    arrived: datetime
    vernacular_title: str | None = None
    authors: tuple[Author, ...] = ()
    other_abstracts: tuple[OtherAbstract, ...] = ()
    supplementary: tuple[SupplementaryConcept, ...] = ()
    corrections: tuple[Correction, ...] = ()
    order: Int64 | None = None
    change: Change = "new"

    @property
    def abstract(self) -> str:
        """The abstract as one text, each labelled section led by its label."""
        return "\n".join(f"{s.label}: {s.text}" if s.label else s.text for s in self.sections)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """The UIs of the record's MeSH descriptors, each once, in the record's order."""
        return tuple(dict.fromkeys(heading.ui for heading in self.mesh))

    @property
    def retraction(self) -> str | None:
        """Why nothing should be asked of this record, or be kept that was: "retracted", "erratum".

        A notice of either, an update and an expression of concern are no reason: None.
        """
        reasons = {WITHDRAWN_IN.get(link.kind) for link in self.corrections}
        if "retracted" in reasons or any(
            kind.ui == RETRACTED_PUBLICATION.ui or kind.name == RETRACTED_PUBLICATION.name
            for kind in self.publication_types
        ):
            return "retracted"
        return "erratum" if "erratum" in reasons else None
