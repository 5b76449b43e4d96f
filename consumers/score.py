"""score: `contexts` → `alignments`, how well each question's context agrees with its source."""

from streams.records import (
    Alignment,
    Alignments,
    Contexts,
    Retrieval,
    Source,
)
from streams.similarity import Similarity


def score(contexts: Contexts, scorer: Similarity) -> Alignments:
    """Each retrieval with its score (KAILIN, eq. 3), or with the reason why it has none.

    A context's terms are those of its passages. A passage without MeSH adds none, so the score is
    of the passages that have some; there is no score only where no passage has any.
    """
    terms = [[ui for p in r.passages for ui in p.mesh] for r in contexts.retrievals]
    values = scorer.document_scores(contexts.source.mesh, terms)
    return Alignments(
        id=contexts.id,
        role=contexts.role,
        source=contexts.source,
        edition=scorer.edition,
        frequency=scorer.frequency,
        alignments=tuple(
            _align(contexts.source, retrieval, value)
            for retrieval, value in zip(contexts.retrievals, values, strict=True)
        ),
        answer=contexts.answer,
    )


def _align(source: Source, retrieval: Retrieval, value: float | None) -> Alignment:
    if retrieval.candidate.rejected is not None:
        return Alignment(retrieval=retrieval, unscored="candidate rejected")
    if not source.mesh:
        return Alignment(retrieval=retrieval, unscored="record without MeSH")
    if not retrieval.passages:
        return Alignment(retrieval=retrieval, unscored="nothing retrieved")
    if not any(passage.mesh for passage in retrieval.passages):
        return Alignment(retrieval=retrieval, unscored="context without MeSH")
    if value is None:
        return Alignment(retrieval=retrieval, unscored="unknown descriptors")
    return Alignment(retrieval=retrieval, score=value)
