"""Records from NLM's yearly baseline and its update files."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from infra.arrivals import Portion
from infra.ingest import Session, Unit
from infra.nlm_files import NlmFile, NlmFiles, file_order, gaps
from streams.life import unpack_pmids
from streams.records import Progress, Unread


async def nlm(session: Session, client: NlmFiles, *, baseline: bool, updates: bool) -> None:
    """NLM's yearly baseline as corpus, its update files as new; each file once, in their order.

    After a whole baseline, records that came from an earlier year's files and are not in it are
    deleted. Raises `RequestFailed` where NLM's folders cannot be listed.
    """
    kinds = [kind for kind, on in (("baseline", baseline), ("updates", updates)) if on]
    id = f"poll:nlm:{'+'.join(kinds)}"
    session.looks_at("nlm", id)
    await session.ready()
    begun = datetime.now(UTC)
    held = await client.listing("baseline") if baseline else []
    updated = await client.listing("updatefiles")
    applied = updated if updates else []
    missing = _missing(session, held, applied)
    for name in missing:
        session.display.say(f"{name} is missing from NLM's files: what it holds is not known")
    failed = await _apply(session, client, held)
    await _reload(session, held, updated)
    failed += await _apply(session, client, applied)
    listed = [*held, *applied]
    await session.came_up_to_date(
        Progress(
            id=id,
            source="nlm",
            what=listed[-1].name if listed else "no files",
            state="failed" if failed else "done",
            position=len(listed) - failed,
            announced=len(listed),
            counts={},
            unread=tuple(Unread(pmid=None, reason=f"missing: {name}") for name in missing),
            reason=f"{failed} files failed" if failed else None,
            at=begun,
        )
    )


async def _apply(session: Session, client: NlmFiles, files: Iterable[NlmFile]) -> int:
    """Ingest those files that are not applied yet; how many failed."""
    left = [file for file in files if session.state(_nlm_id(file)) != "done"]
    session.display.expect(len(left))
    failed = 0
    for number, file in enumerate(left):
        failed += (await session.run(nlm_file(session, client, file))).state == "failed"
        if failed and file.folder == "updatefiles":
            # The next ones say what comes after it.
            session.display.say(f"{len(left) - number - 1:,} files wait for {file.name}")
            return len(left) - number
    return failed


def _nlm_id(file: NlmFile) -> str:
    return f"nlm:{file.folder}/{file.name}"


def nlm_file(session: Session, client: NlmFiles, file: NlmFile) -> Unit:
    corpus = file.folder == "baseline"

    async def read(position: int) -> AsyncIterator[Portion]:
        folder = session.settings.data / "nlm"
        folder.mkdir(parents=True, exist_ok=True)
        path = await client.download(file, folder)
        reading = session.reader.read(path, corpus=corpus, order=file.order, skip=position)
        async with aclosing(reading) as parts:
            async for part in parts:
                yield part
        path.unlink()

    # Until its year's baseline is whole, its records have to be known: they are NLM's still.
    begun = corpus or session.writer.holding(f"nlm:baseline/pubmed{file.order // 10_000:02}n")
    held = bool(begun) and session.state(_reload_id(file)) != "done"
    return Unit(
        id=_nlm_id(file),
        source="nlm",
        what=file.name,
        read=read,
        resumable=not held,
        held=held,
    )


def _missing(session: Session, held: list[NlmFile], updated: list[NlmFile]) -> list[str]:
    """Names missing from the sequence of files, those that were applied before counted in."""
    applied = [
        id.rpartition("/")[2] for id in session.writer.progress if id.startswith("nlm:updatefiles/")
    ]
    newest = max((file.order for file in updated), default=0) // 10_000
    of_year = [name for name in applied if (file_order(name) or 0) // 10_000 == newest]
    names = [*(file.name for file in (*held, *updated)), *of_year]
    return gaps(names, first=1 if held else None)


async def _reload(session: Session, held: list[NlmFile], updated: list[NlmFile]) -> None:
    """Delete what a new baseline no longer holds, once the whole of it is applied."""
    if not held:
        return
    year = held[-1].order // 10_000
    files = [file for file in held if file.order // 10_000 == year]
    id = _reload_id(held[-1])
    done = [session.state(_nlm_id(file)) for file in files]
    if session.state(id) == "done":
        await _forget(session)
        return
    if any(state != "done" for state in done):
        return
    # While NLM is still writing a baseline, its last files are not there yet. The update files of
    # a year go on where its baseline ends.
    first = min((f.order for f in updated if f.order // 10_000 == year), default=None)
    if gaps((file.name for file in files), first=1) or first != files[-1].order + 1:
        session.display.say(
            f"baseline of 20{year:02}: what it no longer holds is deleted once it is whole, with "
            "update files after it"
        )
        return
    of_year = session.writer.holding(f"nlm:baseline/pubmed{year:02}n")
    of_year += session.writer.holding(f"nlm:updatefiles/pubmed{year:02}n")
    nameless = [unread for p in of_year for unread in p.unread if unread.pmid is None]
    if nameless or not of_year:
        session.display.say(
            f"baseline of 20{year:02}: nothing is deleted, since it has citations whose PMID could "
            "not be read"
        )
        return
    holds = np.concatenate([np.array(unpack_pmids(p.held or ""), np.int64) for p in of_year])
    gone = await asyncio.to_thread(session.writer.not_in, holds, year * 10_000)
    await session.remove(
        gone,
        Progress(
            id=id,
            source="nlm",
            what=f"baseline of 20{year:02}",
            state="done",
            position=0,
            announced=None,
            counts={},
            at=datetime.now(UTC),
        ),
    )
    await _forget(session)


async def _forget(session: Session) -> None:
    """Which PMIDs the files hold need not be known any more."""
    for progress in session.writer.holding("nlm:"):
        await session.publish(replace(progress, held=None))


def _reload_id(file: NlmFile) -> str:
    """What the progress is called of the deletions that the baseline of a file's year brings."""
    return f"nlm:baseline:{file.order // 10_000:02}"
