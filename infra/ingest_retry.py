"""Reads once more what failed: windows, files, lists, and citations that NCBI did not give."""

from collections.abc import Callable
from dataclasses import replace

from infra.entrez import Entrez
from infra.ingest import Session
from infra.ingest_entrez import NOT_GIVEN, ask_again, is_corpus, listed, span_again
from infra.ingest_nlm import nlm_file
from infra.ncbi_requests import RequestFailed
from infra.nlm_files import NlmFile, NlmFiles
from infra.pubmed_xml import DamagedFile
from streams.life import unpack_pmids
from streams.records import Progress


async def retry(session: Session, client: Callable[[], Entrez], nlm_files: NlmFiles) -> None:
    """Read once more every window, file and list that failed, and every citation not given."""
    await session.ready()
    for progress in list(session.writer.progress.values()):
        if progress.state == "failed":
            await _retry(session, progress, client, nlm_files)
    for progress in list(session.writer.progress.values()):
        wanted = [u.pmid for u in progress.unread if u.pmid and u.reason == NOT_GIVEN]
        if wanted:
            try:
                await ask_again(session, client(), progress, wanted)
            except (RequestFailed, DamagedFile) as error:
                session.display.say(f"{progress.what}: {error}")
                session.failures += 1


async def _retry(
    session: Session, progress: Progress, client: Callable[[], Entrez], nlm_files: NlmFiles
) -> None:
    kind, _, rest = progress.id.partition(":")
    if kind == "entrez":
        await span_again(session, client(), progress)
    elif kind == "pmids" and progress.held:
        wanted = unpack_pmids(progress.held)
        unit = listed(client(), wanted, progress.what, is_corpus(progress))
        await session.run(replace(unit, id=progress.id))
    elif kind == "nlm" and "/" in rest:
        folder, _, name = rest.partition("/")
        file = NlmFile("baseline" if folder == "baseline" else "updatefiles", name)
        await session.run(nlm_file(session, nlm_files, file))
    elif kind == "files":
        session.display.say(f"{progress.what}: mend the file and run `kailin ingest files` on it")
        session.failures += 1
