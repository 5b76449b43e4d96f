"""index: `pubmed.articles` → the searchable view that questions are asked of."""

from typing import Literal

from consumers.ports import Embed, Index
from streams.citation import Article

Written = Literal["put", "deleted", "stale"]


async def index(
    article: Article | None, *, pmid: int, version: int, embed: Embed, index: Index
) -> Written:
    """Bring the index to this state of a record; None is a tombstone, and deletes it.

    `version` orders the states of one PMID (the offset in its partition does). "stale" means that
    the index holds this state or a later one already. A record without abstract is indexed too:
    its title and MeSH are evidence.
    """
    if article is None:
        return "deleted" if await index.delete(pmid, version=version) else "stale"
    vector = await embed(passage_text(article))
    return "put" if await index.put(article, vector, version=version) else "stale"


def passage_text(article: Article) -> str:
    """The text whose embedding stands for a record: the title first, as encoders cut the end."""
    return f"{article.title}\n{article.abstract}".strip()
