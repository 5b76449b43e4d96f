"""What two question generators make of the same held-out records, by the stream's own handlers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.generate import Generator, generate
from consumers.ports import Completion, Embed, Lookup, Prompted, Search
from consumers.retrieve import retrieve
from consumers.score import score
from consumers.stage import Policy
from consumers.together import together
from infra import mesh_edition
from infra.deploy import Address
from infra.mesh_files import scorer
from infra.openai_generate import OpenAIGenerate
from infra.serving_models import as_theta3
from infra.settings import Settings
from streams.citation import Article
from streams.errors import Invalid, Transient
from streams.learning import Compared
from streams.metrics import Metrics
from streams.questions import Limits
from streams.records import Alignments
from streams.similarity import Similarity

log = logging.getLogger(__name__)

# How often one record is tried; the pauses are those of [workers].
ATTEMPTS = 8

Told = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """All that stands between a record and the scores of its questions, but for the models.

    `how` are the options of `consumers.retrieve.retrieve`.
    """

    embed: Embed
    search: Search
    lookup: Lookup
    similarity: Similarity
    limits: Limits
    how: dict[str, Any]
    policy: Policy


async def compare(
    articles: Sequence[Article],
    *,
    champion: Generator,
    candidate: Generator,
    bench: Bench,
    told: Told = lambda: None,
) -> list[Compared]:
    """Both generators' scores for each record, in its order; `told` hears of each that is done.

    Seeds come of a record's id and the generator's name, so that generators of one name have the
    same. A model whose server refuses a record has no score for it; a record that both refuse is
    left out. Raises `Transient` where a component stays away.
    """
    free = asyncio.Semaphore(bench.policy.window)

    async def one(article: Article) -> Compared | None:
        refused: set[str] = set()
        asked = [_noted(generator, article.pmid, refused) for generator in (champion, candidate)]
        async with free:
            try:
                made = await _patiently(article, asked, bench)
            except Invalid as error:
                log.warning("PMID %d is left out: %s", article.pmid, error)
                return None
            finally:
                told()
        if len(refused) == len(asked):
            return None
        before, after = made.alignments
        return Compared(pmid=article.pmid, champion=before.score, candidate=after.score)

    # The first alone, so that a wrong name or key shows once and not for each record.
    first = [await one(article) for article in articles[:1]]
    others = await together(one(article) for article in articles[1:])
    return [compared for compared in (*first, *others) if compared is not None]


def _noted(generator: Generator, pmid: int, refused: set[str]) -> Generator:
    """The generator, but what its server refuses has no answer, and the model's name is noted."""

    async def ask(request: Prompted) -> Completion:
        try:
            return await generator.ask(request)
        except Invalid as error:
            if request.model not in refused:
                log.warning("PMID %d: %s has no score: %s", pmid, request.model, error)
            refused.add(request.model)
            return Completion(text="", finished=True, prompt_tokens=0, completion_tokens=0)

    return replace(generator, ask=ask)


async def _patiently(article: Article, generators: Sequence[Generator], bench: Bench) -> Alignments:
    for pause in islice(bench.policy.pauses(), ATTEMPTS - 1):
        try:
            return await _through(article, generators, bench)
        except Transient as error:
            log.warning("PMID %d: again in %.1f s: %s", article.pmid, pause, error)
            await asyncio.sleep(pause)
    return await _through(article, generators, bench)


async def _through(article: Article, generators: Sequence[Generator], bench: Bench) -> Alignments:
    questions = await generate(
        article, role="preference", generators=generators, limits=bench.limits
    )
    contexts = await retrieve(
        questions, embed=bench.embed, search=bench.search, lookup=bench.lookup, **bench.how
    )
    return score(contexts, bench.similarity)


@asynccontextmanager
async def bench_of(settings: Settings) -> AsyncIterator[Bench]:
    """The real thing, as the settings describe it.

    Raises `ArtifactError`, `ComponentError`, `MeshError` and `SettingsError`.
    """
    from infra import elastic
    from infra.embedding import embedding

    async with AsyncExitStack() as stack:
        embed = await asyncio.to_thread(embedding, settings.embedder)
        stack.push_async_callback(embed.close)
        client = elastic.connect(settings.elasticsearch)
        stack.push_async_callback(client.close)
        yield Bench(
            embed=embed,
            search=elastic.ElasticSearch(client, settings.elasticsearch.alias),
            lookup=elastic.ElasticLookup(client, settings.elasticsearch.alias),
            similarity=await asyncio.to_thread(lambda: scorer(mesh_edition.current(settings))),
            limits=Limits(**settings.questions.model_dump()),
            how=settings.retrieve.model_dump(),
            policy=Policy(**settings.workers.model_dump()),
        )


@asynccontextmanager
async def theta3(
    settings: Settings, address: Address, *, revision: str
) -> AsyncIterator[Generator]:
    """The model at an address as a generator, asked as θ3 is."""
    async with asked_at(settings, address) as ask:
        yield as_theta3(settings, model=address.model, revision=revision, ask=ask)


def asked_at(settings: Settings, address: Address) -> OpenAIGenerate:
    """The client of the server at an address; nobody looks at its metrics."""
    server = settings.servers[address.server]
    return OpenAIGenerate(server, Metrics(CollectorRegistry()), address.url)
