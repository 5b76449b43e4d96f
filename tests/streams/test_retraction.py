"""Which records are withdrawn, after NLM's publication types and links."""

import pytest

from fakes.records import article
from streams.citation import Correction, PublicationType

RETRACTED = PublicationType(ui="D016441", name="Retracted Publication")


@pytest.mark.parametrize(
    ("types", "links", "reason"),
    [
        ((), (), None),
        ((RETRACTED,), (), "retracted"),
        ((PublicationType(ui="", name="Retracted Publication"),), (), "retracted"),
        ((PublicationType(ui="D016440", name="Retraction of Publication"),), (), None),
        ((), ("RetractionIn",), "retracted"),
        ((), ("ErratumIn", "RetractionIn"), "retracted"),
        ((RETRACTED,), ("ErratumIn",), "retracted"),
        ((), ("RetractedandRepublishedIn",), "retracted"),
        ((), ("CommentIn", "ErratumIn"), "erratum"),
        ((), ("CorrectedandRepublishedIn",), "erratum"),
        ((), ("PartialRetractionIn",), "erratum"),
        *(
            ((), (kind,), None)
            for kind in (
                *("RetractionOf", "ErratumFor", "CommentIn", "CommentOn", "UpdateIn", "UpdateOf"),
                *("ExpressionOfConcernIn", "RepublishedIn", "ReprintIn", "AssociatedDataset"),
                *("CorrectedandRepublishedFrom", "RetractedandRepublishedFrom"),
            )
        ),
    ],
)
def test_why_nothing_is_asked_of_a_record(
    types: tuple[PublicationType, ...], links: tuple[str, ...], reason: str | None
) -> None:
    record = article(
        publication_types=types,
        corrections=tuple(Correction(kind=kind, pmid=8, source="") for kind in links),
    )
    assert record.retraction == reason
