"""backlog: `pubmed.articles` → `questions`, θ3's question about what came before it served.

The question is asked as the generate stage would, so a record that it asked about has the same id.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from consumers.generate import SAME_TEXT, not_asked
from consumers.ports import Stored, Versions
from streams.citation import Article
from streams.plan import role
from streams.records import text_hash

# How long after θ3 serves every generate worker knows of it. What comes in between may be asked
# about twice, under one id.
LEARNT = timedelta(minutes=1)


async def passed_over(
    article: Article,
    *,
    version: int,
    first: datetime,
    preference_share: float,
    versions: Versions,
    stored: Stored,
) -> str | None:
    """Why the backlog does not ask about a state of a record, as a fixed phrase, or None.

    New texts are asked about live once θ3 `first` served. Of a record's states only the newest
    counts, whatever has changed in it, since those before it may be compacted away: so one that has
    come since, with the text that it had, is the backlog's too. None is asked about that the tables
    hold a question of θ3 about. `version` is the state's, as the index has it.
    """
    since = article.arrived.replace(tzinfo=article.arrived.tzinfo or UTC) >= first + LEARNT
    if since and article.change not in SAME_TEXT:
        return "live"
    if role(article.pmid, theta3_serves=True, preference_share=preference_share) != "ideal":
        return "compared"
    if reason := not_asked(replace(article, change="new")):
        return reason
    held = await versions(article.pmid)
    if held is not None and held > version:
        return "older state"
    # What waited for the generate stage when θ3 began was asked about live.
    kept = await stored(article.pmid, text_hash(article.title, article.abstract))
    if any(contexts.role == "ideal" for contexts in kept):
        return "asked already"
    return None
