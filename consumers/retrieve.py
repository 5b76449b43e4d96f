"""retrieve: `questions` → `contexts`, the k records that answer each question best."""

from consumers.ports import Embed, Hit, Lookup, Search
from consumers.rescore import with_mesh
from consumers.together import together
from streams.fusion import reciprocal_rank_fusion
from streams.records import (
    Candidate,
    Contexts,
    Passage,
    Questions,
    Retrieval,
    SearchMode,
)


async def retrieve(
    questions: Questions,
    *,
    embed: Embed,
    search: Search,
    lookup: Lookup,
    mode: SearchMode,
    k: int,
    depth: int,
    rrf_k: int,
) -> Contexts:
    """Each candidate with its `k` best passages, never the source itself.

    `depth` records of each ranking are fused with the constant `rrf_k`. A rejected candidate has
    no question and goes on with no passages. A record that had no MeSH when it was asked about and
    has some by now goes on with that.
    """

    async def passages(question: str) -> tuple[Passage, ...]:
        vector = None if mode == "bm25" else await embed(question)
        hits = await search(question, vector, mode=mode, depth=depth, exclude=questions.source.pmid)
        return _fuse(hits.bm25, hits.dense, rrf_k)[:k]

    async def retrieval(candidate: Candidate) -> Retrieval:
        found = () if candidate.question is None else await passages(candidate.question)
        return Retrieval(candidate=candidate, mode=mode, passages=found)

    contexts = Contexts(
        id=questions.id,
        role=questions.role,
        source=questions.source,
        retrievals=tuple(await together(map(retrieval, questions.candidates))),
    )
    if questions.source.mesh or not questions.candidates:
        return contexts
    pmid = questions.source.pmid
    mesh = (await lookup([pmid])).get(pmid)
    return with_mesh(contexts, mesh) if mesh else contexts


def _fuse(bm25: tuple[Hit, ...], dense: tuple[Hit, ...], rrf_k: int) -> tuple[Passage, ...]:
    found = {hit.pmid: hit for hit in (*bm25, *dense)}
    ranking = reciprocal_rank_fusion(
        [hit.pmid for hit in bm25], [hit.pmid for hit in dense], k=rrf_k
    )
    return tuple(
        Passage(
            pmid=fused.pmid,
            title=found[fused.pmid].title,
            abstract=found[fused.pmid].abstract,
            mesh=found[fused.pmid].mesh,
            bm25_rank=fused.bm25_rank,
            dense_rank=fused.dense_rank,
            score=fused.score,
        )
        for fused in ranking
    )
