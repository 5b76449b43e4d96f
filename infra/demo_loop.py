"""The learning loop from empty tables: preference rows, DPO, the gate, a new model, ideal rows.

`make demo-loop`, or `kailin --config infra/demo_loop.toml demo-loop`. Nothing is started by hand:
records are published, and what the service makes of them is watched and timed. Only where the gate
blocks the candidate is it promoted by hand, with that as the reason, so that the rest can be seen.
"""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from infra import run_state, topic_view
from infra.artifacts import fetch_pypi
from infra.demo_records import BASELINE, Stalled, load_corpus, publish, with_text_and_mesh
from infra.kafka import BrokerUnreachable
from infra.settings import Settings
from infra.tables import DROPPED, IDEAL, PREFERENCES, TableError, select
from infra.up import FAILURES, kailin, service
from streams.citation import Article
from streams.errors import Transient
from streams.learning import Job, Serving, Verdict
from streams.records import Record
from streams.topics import JOBS, SERVING, VERDICTS, Topic

R = TypeVar("R", bound=Record)

GENERATOR = "theta3"
LOOK_EVERY = 2.0
TELL_EVERY = 30.0
SHOWN = 3
ATTEMPTS = 5
# Says that a data directory is this demonstration's own.
MARK = ".demo-loop"


@dataclass(slots=True)
class Watch:
    """When each step was reached, in seconds since the first record was published."""

    console: Console
    patience: float
    began: float = field(default_factory=time.monotonic)
    steps: list[tuple[str, float]] = field(default_factory=list)

    def until(self, step: str, reached: Callable[[], object], tell: Callable[[], str]) -> None:
        """Wait for a step; `tell` says how far it is. Raises `Stalled`."""
        started = told = time.monotonic()
        while not reached():
            now = time.monotonic()
            if now - started > self.patience:
                raise Stalled(f"not within {self.patience:.0f} s: {step}; {tell()}")
            if now - told >= TELL_EVERY:
                told = now
                self.console.print(f"{now - self.began:6.0f} s  {tell()}", highlight=False)
            time.sleep(LOOK_EVERY)
        at = time.monotonic() - self.began
        self.steps.append((step, at))
        self.console.print(f"{at:6.0f} s  [bold]{step}[/]", highlight=False)


def run(
    settings: Settings, config: Path | None, *, corpus: int, new: int, ideal: int, patience: float
) -> int:
    """Shows the loop once around, and returns the exit code.

    `new` records are asked about against `corpus` others; `ideal` rows are waited for in the end.
    Each step may take `patience` seconds. What an earlier run left in the data directory is
    removed.
    """
    console = Console()
    try:
        _begin_anew(settings.data)
        baseline = fetch_pypi(BASELINE)
        with service(settings, config, console):
            articles = with_text_and_mesh(baseline)
            load_corpus(settings, list(islice(articles, corpus)), console)
            watch = Watch(console, patience)
            _once_around(settings, config, articles, watch, new=new, ideal=ideal)
            _summarise(settings, watch, console)
    except (*FAILURES, Stalled, Transient, TableError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 1
    return 0


def _begin_anew(data: Path) -> None:
    """Remove what an earlier run left. Raises `Stalled` where that may be somebody's data."""
    if run_state.load(data):
        raise Stalled(f"a service runs on {data}: stop it with `kailin down` first")
    if data.exists() and any(data.iterdir()) and not (data / MARK).exists():
        raise Stalled(
            f"{data} holds data that is not of this demonstration, which begins from nothing: set "
            "`data` to another directory, as infra/demo_loop.toml does"
        )
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, exist_ok=True)
    (data / MARK).touch()


def _once_around(
    settings: Settings,
    config: Path | None,
    articles: Iterator[Article],
    watch: Watch,
    *,
    new: int,
    ideal: int,
) -> None:
    console = watch.console
    wanted = settings.training.rows
    console.print(f"{new:,} new records; {wanted:,} preference rows make a DPO job due")
    _publish(settings, articles, new, console)
    published = new

    def enough() -> bool:
        """Whether the rows are there; where all records were used up without, some more follow."""
        nonlocal published
        rows = _rows(settings, PREFERENCES)
        if rows < wanted and rows + _rows(settings, DROPPED) >= published:
            more = max(1, new // 4)
            console.print(f"{rows:,} rows of {published:,} records: {more:,} records more")
            _publish(settings, articles, more, console)
            published += more
        return rows >= wanted

    watch.until(
        f"{wanted:,} preference rows",
        enough,
        lambda: f"{_rows(settings, PREFERENCES):,} of {wanted:,} preference rows",
    )
    watch.until("the DPO job began", lambda: _job(settings), lambda: "no job yet")
    watch.until(
        "the candidate is trained",
        lambda: _state(settings) not in (None, "training"),
        lambda: f"training: `kailin train status` and {settings.data}/logs tell more",
    )
    watch.until(
        "the gate has decided",
        lambda: _verdict(settings),
        lambda: f"job {_state(settings)}: champion and candidate write questions",
    )
    verdict = _verdict(settings)
    if verdict and not verdict.passed:
        console.print(f"blocked: {verdict.reason}", style="yellow", markup=False, soft_wrap=True)
        watch.until("the job is closed", lambda: _state(settings) == "blocked", lambda: "closing")
        _promote(settings, config, verdict)
    watch.until("the new model serves", lambda: _serving(settings), lambda: "being deployed")
    console.print("new records for it, while the backlog is replayed as well")
    _publish(settings, articles, 2 * ideal, console)
    watch.until(
        f"{ideal:,} ideal rows",
        lambda: _rows(settings, IDEAL) >= ideal,
        lambda: f"{_rows(settings, IDEAL):,} of {ideal:,} ideal rows",
    )


def _publish(settings: Settings, articles: Iterator[Article], count: int, console: Console) -> None:
    now = datetime.now(UTC)
    taken = [replace(each, corpus=False, arrived=now) for each in islice(articles, count)]
    publish(settings, taken, console)


def _promote(settings: Settings, config: Path | None, verdict: Verdict) -> None:
    """What a person would do who knows better than the gate. Raises `Stalled`."""
    version = verdict.candidate.rpartition("-v")[2]
    reason = "the demonstration goes on with a blocked candidate, to show its deployment"
    command = (*kailin(config), "models", "promote", version, "--by", "demo-loop")
    done = subprocess.run(
        (*command, "--reason", reason), env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stalled(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _summarise(settings: Settings, watch: Watch, console: Console) -> None:
    steps = Table(box=None, title="Steps", title_justify="left", header_style="dim")
    steps.add_column("step")
    steps.add_column("at", justify="right")
    steps.add_column("took", justify="right")
    before = 0.0
    for step, at in watch.steps:
        steps.add_row(step, f"{at:.0f} s", f"{at - before:.0f} s")
        before = at
    console.print(steps)
    verdict, serving = _verdict(settings), _serving(settings)
    if verdict:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in verdict.figures.items())
        console.print(f"gate: {'passed' if verdict.passed else 'blocked'}; {figures}")
    if serving:
        console.print(f"serves: {serving.model}, put there by {serving.by}: {serving.reason}")
    newest = f"from rows order by appended desc limit {SHOWN}"
    query = (
        "select title, question_chosen as question, score_chosen as score, model_chosen as model "
        + newest
    )
    _show("before: questions that won between θ1 and θ2", settings, PREFERENCES, query, console)
    query = "select title, question, score, model, answer " + newest
    _show("after: questions of θ3, and answers", settings, IDEAL, query, console)


def _show(title: str, settings: Settings, table: str, query: str, console: Console) -> None:
    rows = select(settings, table, query)
    shown = Table(title=title, title_justify="left", header_style="dim", box=None)
    for column in rows[0] if rows else ():
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(shown)


def _rows(settings: Settings, table: str) -> int:
    # Before the append stage has made the tables there are none.
    with suppress(TableError):
        (row,) = select(settings, table, "select count(*) as n from rows where retracted is null")
        return int(row["n"])
    return 0


def _job(settings: Settings) -> Job | None:
    return max(_read(settings, JOBS, Job).values(), key=lambda job: job.began, default=None)


def _state(settings: Settings) -> str | None:
    job = _job(settings)
    if job and job.state == "failed":
        raise Stalled(f"the job failed: {job.reason}; its log is in {settings.data}/logs")
    return job.state if job else None


def _verdict(settings: Settings) -> Verdict | None:
    verdicts = _read(settings, VERDICTS, Verdict)
    return max(verdicts.values(), key=lambda verdict: verdict.at, default=None)


def _serving(settings: Settings) -> Serving | None:
    return _read(settings, SERVING, Serving).get(GENERATOR)


def _read(settings: Settings, topic: Topic, record: type[R]) -> dict[str, R]:
    """What a topic says; the broker is busy now and then. Raises what the last attempt does."""
    for _ in range(ATTEMPTS - 1):
        with suppress(BrokerUnreachable, Transient):
            return asyncio.run(topic_view.read(settings, topic, record))
        time.sleep(LOOK_EVERY)
    return asyncio.run(topic_view.read(settings, topic, record))
