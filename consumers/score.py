"""score: `contexts` → `alignments`, how well each question's context agrees with its source."""

from streams.records import Alignment, Alignments, Contexts, Retrieval, Source
from streams.similarity import Similarity


def score(contexts: Contexts, scorer: Similarity) -> Alignments:
    """Each retrieval with its score (KAILIN, eq. 3), or with the reason why it has none.

    A context's terms are those of its passages. A passage without MeSH adds none, so the score is
    of the passages that have some; there is no score only where no passage has any.
    """
    return Alignments(
        id=contexts.id,
        role=contexts.role,
        source=contexts.source,
        edition=scorer.edition,
        frequency=scorer.frequency,
        alignments=tuple(_align(contexts.source, r, scorer) for r in contexts.retrievals),
    )


def _align(source: Source, retrieval: Retrieval, scorer: Similarity) -> Alignment:
    terms = [ui for passage in retrieval.passages for ui in passage.mesh]
    if retrieval.candidate.rejected is not None:
        return Alignment(retrieval=retrieval, unscored="candidate rejected")
    if not source.mesh:
        return Alignment(retrieval=retrieval, unscored="record without MeSH")
    if not retrieval.passages:
        return Alignment(retrieval=retrieval, unscored="nothing retrieved")
    if not terms:
        return Alignment(retrieval=retrieval, unscored="context without MeSH")
    value = scorer.document_score(source.mesh, terms)
    if value is None:
        return Alignment(retrieval=retrieval, unscored="unknown descriptors")
    return Alignment(retrieval=retrieval, score=value)
