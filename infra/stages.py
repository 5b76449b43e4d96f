"""Where each stage is put together: settings and adapters in, a stage out.

A new stage is one more function here, named in `STAGES`. Each imports its own adapters, for most of
a worker's start is imports that the other stages need.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from consumers.stage import Message, Policy, Stage
from infra.kafka import (
    Publisher,
    end_offset,
    topic_name,
)
from infra.settings import Settings
from streams.citation import Article
from streams.errors import Invalid, Transient
from streams.metrics import Metrics
from streams.plan import role
from streams.questions import Limits
from streams.records import (
    Alignments,
    Contexts,
    Ideal,
    Preference,
    Questions,
    Record,
)
from streams.topics import ALIGNMENTS, ARTICLES, CONTEXTS, IDEAL, PREFERENCES, QUESTIONS, Topic

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

    from infra.embedding import Embedding

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Build: TypeAlias = Callable[[Settings, Metrics], AbstractAsyncContextManager[Stage[Any]]]


@asynccontextmanager
async def index_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.index import index
    from infra.elastic import ElasticIndex
    from infra.elastic_stats import watching

    async with (
        watching(settings.elasticsearch, metrics.registry),
        embedder(settings) as embed,
        _library(settings, fills=ARTICLES) as client,
    ):
        library = ElasticIndex(client, settings.elasticsearch.alias)

        async def handle(message: Message[Article]) -> Sequence[Record]:
            pmid = message.record.pmid if message.record else deleted_pmid(message)
            # Offsets of a partition rise, and a PMID keeps to one partition.
            written = await index(
                message.record, pmid=pmid, version=message.offset, embed=embed, index=library
            )
            metrics.index_writes.labels(written).inc()
            return ()

        yield Stage(
            name="index", source=ARTICLES, sink=None, handle=handle, tombstones=True, states=True
        )


@asynccontextmanager
async def generate_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.generate import Generator, generate, not_asked, withheld
    from infra.openai_generate import OpenAIGenerate
    from infra.serving_models import ServingModels

    async with AsyncExitStack() as stack:
        asks = {
            name: await stack.enter_async_context(OpenAIGenerate(settings.servers[name], metrics))
            for name in {generator.server for generator in settings.generators}
        }
        compared = [
            Generator(**chosen.model_dump(exclude={"server"}), ask=asks[chosen.server])
            for chosen in settings.generators
        ]
        limits = Limits(**settings.questions.model_dump())
        share = settings.ideal.preference_share
        models = await stack.enter_async_context(ServingModels(settings, metrics))

        async def handle(message: Message[Article]) -> Sequence[Record]:
            article = _record(message)
            with models.theta3() as theta3:
                planned = role(
                    article.pmid, theta3_serves=theta3 is not None, preference_share=share
                )
                if reason := not_asked(article):
                    metrics.articles_skipped.labels(reason).inc()
                    return [withheld(article, role=planned)] if reason == article.retraction else ()
                asked = [theta3] if theta3 and planned == "ideal" else compared
                return [await generate(article, role=planned, generators=asked, limits=limits)]

        yield Stage(
            name="generate",
            source=ARTICLES,
            sink=QUESTIONS,
            handle=handle,
            observe=_observe_questions(metrics),
        )


@asynccontextmanager
async def backlog_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.backlog import passed_over
    from consumers.generate import generate
    from infra.backlog import LiveFirst, theta3_serves
    from infra.elastic import ElasticVersions
    from infra.serving_models import ServingModels
    from infra.stored_contexts import StoredContexts

    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(ServingModels(settings, metrics))
        await theta3_serves(models, metrics)
        client = await stack.enter_async_context(_library(settings))
        versions = ElasticVersions(client, settings.elasticsearch.alias)
        stored = StoredContexts(settings)
        live_first = await stack.enter_async_context(LiveFirst(settings, metrics))
        limits = Limits(**settings.questions.model_dump())
        share = settings.ideal.preference_share

        async def handle(message: Message[Article]) -> Sequence[Record]:
            article = _record(message)
            serving = await theta3_serves(models, metrics)
            passed = await passed_over(
                article,
                version=message.offset,
                first=serving.first,
                preference_share=share,
                versions=versions,
                stored=stored,
            )
            if passed:
                metrics.articles_skipped.labels(passed).inc()
                return ()
            await live_first.turn()
            with models.theta3() as theta3:
                if theta3 is None:
                    raise Transient("theta3 does not serve")
                return [await generate(article, role="ideal", generators=[theta3], limits=limits)]

        yield Stage(
            name="backlog",
            source=ARTICLES,
            sink=QUESTIONS,
            handle=handle,
            observe=_observe_questions(metrics),
            states=True,
            window=settings.backlog.window,
        )


@asynccontextmanager
async def retrieve_stage(settings: Settings, _: Metrics) -> AsyncIterator[Stage[Questions]]:
    from consumers.retrieve import retrieve
    from infra.elastic import ElasticLookup, ElasticSearch

    async with embedder(settings) as embed, _library(settings) as client:
        search = ElasticSearch(client, settings.elasticsearch.alias)
        lookup = ElasticLookup(client, settings.elasticsearch.alias)
        how = settings.retrieve.model_dump()

        async def handle(message: Message[Questions]) -> Sequence[Record]:
            questions = _record(message)
            return [await retrieve(questions, embed=embed, search=search, lookup=lookup, **how)]

        yield Stage(name="retrieve", source=QUESTIONS, sink=CONTEXTS, handle=handle)


@asynccontextmanager
async def score_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Contexts]]:
    from consumers.prefer import prefer
    from consumers.score import score
    from infra.mesh_edition import ScorerInUse

    # Reading an edition takes seconds, in which this process must still hear that it is to stop.
    scorer = await asyncio.to_thread(ScorerInUse, settings)

    async def handle(message: Message[Contexts]) -> Sequence[Record]:
        return [score(_record(message), await scorer.get())]

    def observe(message: Message[Contexts], made: Sequence[Record]) -> None:
        branches = scorer.last.branches(_record(message).source.mesh)
        # Said here and not by prefer, which does the same comparison, since it knows no hierarchy.
        for alignments in (m for m in made if isinstance(m, Alignments)):
            if preference := prefer(alignments, settings.prefer.margin):
                for branch in branches:
                    metrics.branch_comparisons.labels(branch, preference.outcome).inc()
        for alignment in (a for m in made if isinstance(m, Alignments) for a in m.alignments):
            candidate = alignment.retrieval.candidate
            if alignment.score is None:
                metrics.unscored.labels(candidate.generator, alignment.unscored).inc()
                for branch in branches:
                    why = candidate.rejected or alignment.unscored
                    metrics.branch_unscored.labels(branch, why).inc()
                continue
            version = candidate.generator, candidate.revision
            metrics.alignment_score.labels(*version).observe(alignment.score)
            for branch in branches:
                metrics.branch_alignment.labels(branch, candidate.generator).observe(
                    alignment.score
                )

    yield Stage(name="score", source=CONTEXTS, sink=ALIGNMENTS, handle=handle, observe=observe)


@asynccontextmanager
async def prefer_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Alignments]]:
    from consumers.prefer import prefer

    async def handle(message: Message[Alignments]) -> Sequence[Record]:
        preference = prefer(_record(message), settings.prefer.margin)
        return [preference] if preference else ()

    def observe(_: Message[Alignments], made: Sequence[Record]) -> None:
        for record in (m for m in made if isinstance(m, Preference)):
            metrics.comparisons.labels(record.outcome, record.reason or "").inc()
            if record.outcome == "preference":
                for side, alignment in zip(("chosen", "rejected"), record.alignments, strict=True):
                    metrics.preference_score.labels(side).observe(alignment.score or 0.0)

    yield Stage(name="prefer", source=ALIGNMENTS, sink=PREFERENCES, handle=handle, observe=observe)


@asynccontextmanager
async def answer_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Alignments]]:
    from consumers.answer import Answerer, answer
    from consumers.budget import Prices, within
    from infra.openai_generate import OpenAIGenerate
    from infra.spending import MonthlyBudget

    async with AsyncExitStack() as stack:
        budget = await stack.enter_async_context(MonthlyBudget(settings, metrics))
        asks = {
            name: await stack.enter_async_context(OpenAIGenerate(settings.servers[name], metrics))
            for name in {answerer.server for answerer in settings.answerers}
        }
        priced = {"server", "prompt_price", "completion_price"}
        answerers = [
            Answerer(
                **chosen.model_dump(exclude=priced),
                ask=within(
                    budget,
                    asks[chosen.server],
                    Prices(prompt=chosen.prompt_price, completion=chosen.completion_price),
                ),
            )
            for chosen in settings.answerers
        ]
        floor = settings.ideal.floor

        async def handle(message: Message[Alignments]) -> Sequence[Record]:
            ideal = await answer(_record(message), floor=floor, answerers=answerers)
            return [ideal] if ideal else ()

        def observe(message: Message[Alignments], made: Sequence[Record]) -> None:
            before = _record(message).answer
            for record in (m for m in made if isinstance(m, Ideal)):
                metrics.ideals.labels(record.outcome, record.reason or "").inc()
                for alignment in record.alignments:
                    if alignment.score is not None:
                        revision = alignment.retrieval.candidate.revision
                        metrics.ideal_score.labels(revision).observe(alignment.score)
                if (new := record.answer) and new != before:
                    said = new.decision or new.rejected or ""
                    metrics.answers.labels(new.answerer, said).inc()

        yield Stage(name="answer", source=ALIGNMENTS, sink=IDEAL, handle=handle, observe=observe)


@asynccontextmanager
async def rescore_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.rescore import rescore
    from infra import pause
    from infra.elastic import ElasticLookup
    from infra.parked import sweeping
    from infra.stored_contexts import StoredContexts

    async with (
        _library(settings) as client,
        Publisher(settings) as publisher,
        pause.going(settings, "rescore", metrics) as going,
    ):
        lookup = ElasticLookup(client, settings.elasticsearch.alias)
        stored = StoredContexts(settings)

        async def handle(message: Message[Article]) -> Sequence[Record]:
            return await rescore(_record(message), stored=stored, lookup=lookup)

        async with sweeping(
            settings, lookup=lookup, publish=publisher.send, metrics=metrics, going=going
        ):
            yield Stage(name="rescore", source=ARTICLES, sink=CONTEXTS, handle=handle)


# Those with `states`: what they make follows from the newest state of each record.
EVERY_STATE = ("index", "backlog")

STAGES: dict[str, Build] = {
    "index": index_stage,
    "generate": generate_stage,
    "retrieve": retrieve_stage,
    "score": score_stage,
    "prefer": prefer_stage,
    "answer": answer_stage,
    "rescore": rescore_stage,
    "backlog": backlog_stage,
}


@asynccontextmanager
async def embedder(settings: Settings) -> AsyncIterator["Embedding"]:
    """The encoder that the settings name, loaded."""
    from infra.embedding import embedding

    # Loading a model takes seconds, in which this process must still hear that it is to stop.
    embed = await asyncio.to_thread(embedding, settings.embedder)
    try:
        yield embed
    finally:
        await embed.close()


@asynccontextmanager
async def _library(
    settings: Settings, *, fills: Topic | None = None
) -> AsyncIterator["AsyncElasticsearch"]:
    """A client of Elasticsearch, once the index is there; waits for a server that is away.

    `fills` is the topic of a stage that writes the index, which must not be ahead of it.
    """
    from infra import elastic

    client = elastic.connect(settings.elasticsearch)
    try:
        for pause in Policy(**settings.workers.model_dump()).pauses():
            try:
                await elastic.prepare(
                    client,
                    settings.elasticsearch.alias,
                    settings.embedder.dimensions,
                    settings.embedder.name,
                    settings.elasticsearch.shards,
                )
                if fills:
                    await elastic.check_not_ahead(
                        client,
                        settings.elasticsearch.alias,
                        topic_name(settings, fills),
                        await end_offset(settings, fills),
                    )
                break
            except Transient as error:
                log.warning("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
        yield client
    finally:
        await client.close()


def _observe_questions(
    metrics: Metrics,
) -> Callable[[Message[Article], Sequence[Record]], None]:
    def observe(_: Message[Article], made: Sequence[Record]) -> None:
        for candidate in (c for m in made if isinstance(m, Questions) for c in m.candidates):
            version = candidate.generator, candidate.revision
            if candidate.rejected:
                metrics.questions_rejected.labels(*version, candidate.rejected).inc()
            else:
                metrics.questions_kept.labels(*version).inc()

    return observe


def deleted_pmid(message: Message[Any]) -> int:
    """The PMID that a tombstone is for, which only its key says."""
    key = message.key or b""
    if not re.fullmatch(rb"[1-9][0-9]{0,9}", key):
        raise Invalid("key", f"expected the PMID of the deleted record, got {key[:40]!r}")
    return int(key)


def _record(message: Message[R]) -> R:
    if message.record is None:
        raise TypeError("a tombstone reached a stage that takes none")
    return message.record
