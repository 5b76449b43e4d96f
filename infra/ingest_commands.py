"""What `kailin ingest …` does, put together: settings in, an exit code out."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from rich.console import Console

from infra.entrez import Entrez
from infra.ingest import WRONG, Session, run
from infra.ingest_entrez import PmidListError, entrez, pmids, read_pmids
from infra.ingest_files import files
from infra.ingest_nlm import nlm
from infra.ingest_retry import retry as retry_failed
from infra.ncbi_requests import Requests
from infra.nlm_files import NlmFiles
from infra.settings import Settings


def _console() -> Console:
    return Console(stderr=True)


def ingest_files(paths: Sequence[Path], settings: Settings, backfill: bool) -> int:
    """Publish files, or the *.xml and *.xml.gz of directories; `backfill` marks them as corpus."""

    async def work(session: Session) -> None:
        await files(session, paths, corpus=backfill)

    name = " ".join(("files", *(str(path.resolve()) for path in paths)))
    return run(settings, name, _console(), work)


def ingest_pmids(path: Path, settings: Settings, backfill: bool) -> int:
    """Fetch the citations of a list of PMIDs through Entrez."""
    try:
        wanted = read_pmids(path)
    except PmidListError as error:
        _console().print(str(error), markup=False, highlight=False, soft_wrap=True)
        return WRONG

    async def work(session: Session) -> None:
        async with _requests(session) as requests:
            await pmids(session, Entrez(requests), wanted, path.name, corpus=backfill)

    return run(settings, f"pmids {path.resolve()}", _console(), work)


def ingest_entrez(
    settings: Settings, query: str, *, since: date | None, backfill: bool, follow: bool
) -> int:
    """Fetch what a query finds in PubMed; with `follow`, what is new and changed, for ever."""

    async def work(session: Session) -> None:
        async with _requests(session) as requests:
            client = Entrez(requests)
            await entrez(session, client, query, since=since, corpus=backfill)
            if follow:
                later = partial(entrez, session, client, query, since=None, corpus=backfill)
                await session.follow([later])

    return run(settings, f"entrez {query}", _console(), work, serve=follow)


def ingest_nlm(settings: Settings, *, baseline: bool, updates: bool, follow: bool) -> int:
    """Apply NLM's baseline files, update files or both; with `follow`, those to come as well."""

    async def work(session: Session) -> None:
        async with _requests(session) as requests:
            files = NlmFiles(requests)
            apply = partial(nlm, session, files, baseline=baseline, updates=updates)
            await (session.follow([apply]) if follow else apply())

    return run(settings, "nlm", _console(), work, serve=follow)


def follow_all(settings: Settings) -> int:
    """Follow the sources that the settings name (`follow`)."""

    async def work(session: Session) -> None:
        wanted = settings.follow
        async with _requests(session) as requests:
            sources: list[Callable[[], Awaitable[None]]] = []
            if wanted.nlm:
                kinds = {"baseline": "baseline" in wanted.nlm, "updates": "updates" in wanted.nlm}
                sources.append(partial(nlm, session, NlmFiles(requests), **kinds))
            if wanted.entrez:
                client = Entrez(requests)
                sources += [
                    partial(entrez, session, client, query, since=None, corpus=False)
                    for query in wanted.entrez
                ]
            await session.follow(sources)

    return run(settings, "follow", _console(), work, serve=True)


def retry(settings: Settings) -> int:
    """Read once more what failed."""

    async def work(session: Session) -> None:
        async with _requests(session) as requests:
            await retry_failed(session, lambda: Entrez(requests), NlmFiles(requests))

    return run(settings, "retry", _console(), work)


def _requests(session: Session) -> Requests:
    counter = session.metrics.ncbi_requests

    def count(endpoint: str, outcome: str) -> None:
        counter.labels(endpoint, outcome).inc()

    return Requests(session.settings.ncbi, count)
