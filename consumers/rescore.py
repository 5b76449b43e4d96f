"""rescore: `pubmed.articles` → `contexts`, a record whose MeSH has come or changed scored anew.

Its questions and contexts are those that the tables keep: no model is called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from consumers.ports import Lookup, Stored
from streams.citation import Article
from streams.records import Contexts, record_id, text_hash

# A record that is reinstated may come with other MeSH than it had.
RESCORED = ("mesh", "reinstated")


async def rescore(article: Article, *, stored: Stored, lookup: Lookup) -> list[Contexts]:
    """The contexts of a record, with its MeSH and that of their passages as they are now.

    One of each set of generators that asked about this text, the newest; none that a table holds
    under this MeSH already, and none for a record that has no MeSH.
    """
    if article.change not in RESCORED or not article.descriptors:
        return []
    held = await stored(article.pmid, text_hash(article.title, article.abstract))
    newest: dict[tuple[str, ...], Contexts] = {}
    for contexts in held:
        newest.setdefault(generators(contexts), contexts)
    known = {contexts.id for contexts in held}
    made = [
        with_mesh(contexts, article.descriptors, indexing=article.indexing)
        for contexts in newest.values()
        if contexts.retrievals
    ]
    return await looked_up([contexts for contexts in made if contexts.id not in known], lookup)


def generators(contexts: Contexts) -> tuple[str, ...]:
    """The versions of the generators that were asked, as `record_id` knows them, in order."""
    return tuple(sorted(retrieval.candidate.version for retrieval in contexts.retrievals))


def with_mesh(
    contexts: Contexts, mesh: tuple[str, ...], *, indexing: str | None = None
) -> Contexts:
    """The contexts of a record that has other MeSH now, with the id that belongs to it.

    `indexing` is how NLM indexed it, None where that is not known.
    """
    source = contexts.source
    return replace(
        contexts,
        id=record_id(source.pmid, source.text_hash, contexts.role, generators(contexts), mesh=mesh),
        source=replace(source, mesh=mesh, indexing=indexing or source.indexing),
    )


async def looked_up(many: Sequence[Contexts], lookup: Lookup) -> list[Contexts]:
    """The same contexts, each passage with the MeSH that its record has at present.

    A passage whose record is not there any more keeps what it had.
    """
    passages = {p.pmid for contexts in many for r in contexts.retrievals for p in r.passages}
    present = await lookup(sorted(passages)) if passages else {}
    return [_renewed(contexts, present) for contexts in many]


def _renewed(contexts: Contexts, present: Mapping[int, tuple[str, ...]]) -> Contexts:
    return replace(
        contexts,
        retrievals=tuple(
            replace(
                retrieval,
                passages=tuple(
                    replace(passage, mesh=present.get(passage.pmid, passage.mesh))
                    for passage in retrieval.passages
                ),
            )
            for retrieval in contexts.retrievals
        ),
    )
