"""Where each stage's worker is put together: settings and adapters in, an exit status out.

`kailin run STAGE` runs one. A new stage is one more function here, named in `STAGES`. Each imports
its own adapters, for most of a worker's start is imports that the other stages need.
"""

import asyncio
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from consumers import agent
from consumers.stage import DONE, FAILED, MISCONFIGURED, Kafka, Message, Policy, Stage
from infra import logs
from infra.artifacts import ArtifactError
from infra.component import ComponentError
from infra.kafka import (
    BrokerUnreachable,
    Publisher,
    client_arguments,
    end_offset,
    group_name,
    reach,
    topic_name,
)
from infra.metrics_server import serving
from infra.settings import Settings, SettingsError
from streams.citation import Article
from streams.errors import Invalid, Transient
from streams.mesh import MeshError
from streams.metrics import Metrics
from streams.questions import Limits
from streams.records import (
    Alignments,
    Contexts,
    Preference,
    Questions,
    Record,
)
from streams.topics import ALIGNMENTS, ARTICLES, CONTEXTS, PREFERENCES, QUESTIONS, Topic

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

    async with _embedder(settings) as embed, _library(settings, fills=ARTICLES) as client:
        library = ElasticIndex(client, settings.elasticsearch.alias)

        async def handle(message: Message[Article]) -> Sequence[Record]:
            pmid = message.record.pmid if message.record else _deleted_pmid(message)
            # Offsets of a partition rise, and a PMID keeps to one partition.
            written = await index(
                message.record, pmid=pmid, version=message.offset, embed=embed, index=library
            )
            metrics.index_writes.labels(written).inc()
            return ()

        yield Stage(name="index", source=ARTICLES, sink=None, handle=handle, tombstones=True)


@asynccontextmanager
async def generate_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.generate import Generator, generate, not_asked, withheld
    from infra.openai_generate import OpenAIGenerate

    servers = {
        name: OpenAIGenerate(settings.servers[name], metrics)
        for name in {generator.server for generator in settings.generators}
    }
    generators = [
        Generator(**chosen.model_dump(exclude={"server"}), ask=servers[chosen.server])
        for chosen in settings.generators
    ]
    limits = Limits(**settings.questions.model_dump())

    async def handle(message: Message[Article]) -> Sequence[Record]:
        article = _record(message)
        if reason := not_asked(article):
            metrics.articles_skipped.labels(reason).inc()
            return [withheld(article, role="preference")] if reason == article.retraction else ()
        return [await generate(article, role="preference", generators=generators, limits=limits)]

    def observe(_: Message[Article], made: Sequence[Record]) -> None:
        for candidate in (c for m in made if isinstance(m, Questions) for c in m.candidates):
            if candidate.rejected:
                metrics.questions_rejected.labels(candidate.generator, candidate.rejected).inc()
            else:
                metrics.questions_kept.labels(candidate.generator).inc()

    try:
        yield Stage(
            name="generate", source=ARTICLES, sink=QUESTIONS, handle=handle, observe=observe
        )
    finally:
        for server in servers.values():
            await server.close()


@asynccontextmanager
async def retrieve_stage(settings: Settings, _: Metrics) -> AsyncIterator[Stage[Questions]]:
    from consumers.retrieve import retrieve
    from infra.elastic import ElasticLookup, ElasticSearch

    async with _embedder(settings) as embed, _library(settings) as client:
        search = ElasticSearch(client, settings.elasticsearch.alias)
        lookup = ElasticLookup(client, settings.elasticsearch.alias)
        how = settings.retrieve.model_dump()

        async def handle(message: Message[Questions]) -> Sequence[Record]:
            questions = _record(message)
            return [await retrieve(questions, embed=embed, search=search, lookup=lookup, **how)]

        yield Stage(name="retrieve", source=QUESTIONS, sink=CONTEXTS, handle=handle)


@asynccontextmanager
async def score_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Contexts]]:
    from consumers.score import score
    from infra.mesh_edition import ScorerInUse

    # Reading an edition takes seconds, in which this process must still hear that it is to stop.
    scorer = await asyncio.to_thread(ScorerInUse, settings)

    async def handle(message: Message[Contexts]) -> Sequence[Record]:
        return [score(_record(message), await scorer.get())]

    def observe(_: Message[Contexts], made: Sequence[Record]) -> None:
        for alignment in (a for m in made if isinstance(m, Alignments) for a in m.alignments):
            generator = alignment.retrieval.candidate.generator
            if alignment.score is None:
                metrics.unscored.labels(generator, alignment.unscored).inc()
            else:
                metrics.alignment_score.labels(generator).observe(alignment.score)

    yield Stage(name="score", source=CONTEXTS, sink=ALIGNMENTS, handle=handle, observe=observe)


@asynccontextmanager
async def prefer_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Alignments]]:
    from consumers.prefer import prefer

    async def handle(message: Message[Alignments]) -> Sequence[Record]:
        return [prefer(_record(message), settings.prefer.margin)]

    def observe(_: Message[Alignments], made: Sequence[Record]) -> None:
        for record in (m for m in made if isinstance(m, Preference)):
            metrics.comparisons.labels(record.outcome, record.reason or "").inc()
            if record.outcome == "preference":
                for side, alignment in zip(("chosen", "rejected"), record.alignments, strict=True):
                    metrics.preference_score.labels(side).observe(alignment.score or 0.0)

    yield Stage(name="prefer", source=ALIGNMENTS, sink=PREFERENCES, handle=handle, observe=observe)


@asynccontextmanager
async def rescore_stage(settings: Settings, metrics: Metrics) -> AsyncIterator[Stage[Article]]:
    from consumers.rescore import rescore
    from infra.elastic import ElasticLookup
    from infra.parked import sweeping
    from infra.stored_contexts import StoredContexts

    async with _library(settings) as client, Publisher(settings) as publisher:
        lookup = ElasticLookup(client, settings.elasticsearch.alias)
        stored = StoredContexts(settings)

        async def handle(message: Message[Article]) -> Sequence[Record]:
            return await rescore(_record(message), stored=stored, lookup=lookup)

        async with sweeping(settings, lookup=lookup, publish=publisher.send, metrics=metrics):
            yield Stage(name="rescore", source=ARTICLES, sink=CONTEXTS, handle=handle)


STAGES: dict[str, Build] = {
    "index": index_stage,
    "generate": generate_stage,
    "retrieve": retrieve_stage,
    "score": score_stage,
    "prefer": prefer_stage,
    "rescore": rescore_stage,
}


def run(stage: str, settings: Settings) -> int:
    """Run one stage's worker until SIGTERM or SIGINT. Returns the exit status of the process.

    0 told to stop, 1 failed, 2 no such stage or a wrong setting, 3 too many dead letters; the
    reason is logged as one line.
    """
    if stage not in (*STAGES, "append"):
        print(  # noqa: T201
            f"{stage}: expected a stage, one of {', '.join((*STAGES, 'append'))}", file=sys.stderr
        )
        return MISCONFIGURED
    logs.configure()
    metrics = Metrics(CollectorRegistry())
    ProcessCollector(registry=metrics.registry)
    try:
        return asyncio.run(_until_told_to_stop(stage, settings, metrics))
    except SettingsError as error:
        log.error("%s: %s", stage, error)
        return MISCONFIGURED
    except (ArtifactError, BrokerUnreachable, ComponentError, MeshError) as error:
        log.error("%s: %s", stage, error)
        return FAILED


async def _until_told_to_stop(stage: str, settings: Settings, metrics: Metrics) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for told in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(told, stop.set)
    ports = settings.ports
    with serving(stage, ports.host, ports.stages[stage], metrics.registry):
        if stage == "append":
            from infra import append_worker

            return await append_worker.run(settings, metrics, stop)
        async with AsyncExitStack() as stack:
            build = stack.enter_async_context(STAGES[stage](settings, metrics))
            built = await _unless(stop, build)
            return DONE if built is None else await _work(built, settings, metrics, stop)


async def _work(
    stage: Stage[Any], settings: Settings, metrics: Metrics, stop: asyncio.Event
) -> int:
    # faust would not say why the broker cannot be reached.
    await _unless(stop, reach(settings))
    return await agent.run(
        stage,
        kafka=Kafka(
            client=client_arguments(settings),
            group=group_name(settings, stage.name),
            topic_name=lambda topic: topic_name(settings, topic),
        ),
        policy=Policy(**settings.workers.model_dump()),
        metrics=metrics,
        scratch=settings.data.resolve() / "faust",
        stop=stop,
    )


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None where `stop` is set first."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        return await working
    working.cancel()
    await asyncio.wait({working})
    return None


@asynccontextmanager
async def _embedder(settings: Settings) -> AsyncIterator["Embedding"]:
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
                    client, settings.elasticsearch.alias, settings.embedder.dimensions
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


def _deleted_pmid(message: Message[Any]) -> int:
    """The PMID that a tombstone is for, which only its key says."""
    key = message.key or b""
    if not re.fullmatch(rb"[1-9][0-9]{0,9}", key):
        raise Invalid("key", f"expected the PMID of the deleted record, got {key[:40]!r}")
    return int(key)


def _record(message: Message[R]) -> R:
    if message.record is None:
        raise TypeError("a tombstone reached a stage that takes none")
    return message.record
