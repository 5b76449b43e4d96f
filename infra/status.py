"""What `kailin status` shows: components, the stages' rates, lags and errors, the tables' rows."""

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Sample
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra import firing_alerts, ingest_status, pause, run_state, spending_status
from infra.firing_alerts import Firing
from infra.ingest_status import IngestStatus
from infra.prometheus import reachable
from infra.run_state import RunState
from infra.run_view import component_table
from infra.settings import Settings
from infra.spending_status import SpendingStatus
from infra.tables import row_counts
from streams.operations import Control

TIMEOUT = 2.0
# Seconds; what was ingested and spent is read from Kafka.
READ_EVERY = 10.0
COUNTERS = {
    "kailin_records_in_total": "taken",
    "kailin_records_out_total": "written",
    "kailin_records_failed_total": "failed",
    "kailin_dead_letters_total": "dead_letters",
    "kailin_retries_total": "retries",
}
GAUGES = {"kailin_consumer_lag_records": "lag", "kailin_in_flight": "in_flight"}


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """A stage's numbers at one moment (`at`, monotonic seconds), summed over all labels."""

    at: float
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """`per_second` are messages taken; all but `up` are zero for a stage that is down."""

    up: bool
    per_second: float = 0.0
    lag: int = 0
    in_flight: int = 0
    taken: int = 0
    written: int = 0
    failed: int = 0
    dead_letters: int = 0
    retries: int = 0


@dataclass(frozen=True, kw_only=True)
class Status:
    run: RunState | None
    stages: dict[str, StageStatus]
    rows: dict[str, int]
    ingest: IngestStatus | None = None
    spending: SpendingStatus | None = None
    paused: tuple[Control, ...] | None = None
    alerts: tuple[Firing, ...] | None = None

    @property
    def healthy(self) -> bool:
        """Whether a service runs and everything of it is ready."""
        return self.run is not None and all(
            component.state == "ready" for component in self.run.components.values()
        )

    def as_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, **asdict(self)}


def samples(host: str, port: int) -> list[Sample] | None:
    """What a process says on its /metrics, or None where it does not answer."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            return None
        return [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def sample_all(settings: Settings) -> dict[str, list[Sample]]:
    """The samples of every stage; none for one that does not answer."""
    return {stage: found or [] for stage, found in _ask_all(settings).items()}


def _ask_all(settings: Settings) -> dict[str, list[Sample] | None]:
    stages = settings.ports.stages
    with ThreadPoolExecutor(len(stages)) as threads:
        answers = threads.map(lambda port: samples(settings.ports.host, port), stages.values())
        return dict(zip(stages, answers, strict=True))


def scrape_all(settings: Settings) -> dict[str, Scrape | None]:
    """Every stage's numbers; None for one that does not answer."""
    return {
        stage: None if found is None else Scrape(at=time.monotonic(), values=_sums(found))
        for stage, found in _ask_all(settings).items()
    }


def _sums(found: list[Sample]) -> dict[str, float]:
    values: dict[str, float] = {}
    for sample in found:
        if name := COUNTERS.get(sample.name) or GAUGES.get(sample.name):
            values[name] = values.get(name, 0.0) + sample.value
    return values


def compare(before: Scrape | None, after: Scrape | None) -> StageStatus:
    """A stage's status from two scrapes; the rate is 0 where there is only the second."""
    if after is None:
        return StageStatus(up=False)
    rate = 0.0
    if before and after.at > before.at:
        # A counter that fell belongs to a worker that was started anew.
        taken = after.values.get("taken", 0) - before.values.get("taken", 0)
        rate = max(taken, 0) / (after.at - before.at)
    counts = {name: int(value) for name, value in after.values.items()}
    return StageStatus(up=True, per_second=rate, **counts)


def statuses(settings: Settings, interval: float) -> Iterator[Status]:
    """A status every `interval` seconds, the first after one."""
    before = scrape_all(settings)
    ingest, spending, paused, read = None, None, None, -READ_EVERY
    while True:
        time.sleep(interval)
        after = scrape_all(settings)
        if time.monotonic() - read >= READ_EVERY:
            ingest = ingest_status.read_status(settings)
            spending = spending_status.read_status(settings)
            paused = pause.read_status(settings)
            read = time.monotonic()
        yield Status(
            run=run_state.load(settings.data),
            stages={stage: compare(before[stage], after[stage]) for stage in after},
            rows=row_counts(settings),
            ingest=ingest,
            spending=spending,
            paused=paused,
            alerts=firing_alerts.read_status(settings),
        )
        before = after


def render(settings: Settings, status: Status) -> RenderableType:
    """The status as three tables."""
    stages = Table(box=None, pad_edge=False, header_style="dim")
    stages.add_column("stage")
    for column in ("records/s", "lag", "in flight", "in", "out", "failed", "dead", "retries"):
        stages.add_column(column, justify="right")
    for name, stage in status.stages.items():
        if not stage.up:
            stages.add_row(name, "[red]down[/]")
            continue
        counts = (stage.lag, stage.in_flight, stage.taken, stage.written, stage.failed)
        errors = (stage.dead_letters, stage.retries)
        stages.add_row(name, f"{stage.per_second:.1f}", *(f"{n:,}" for n in (*counts, *errors)))
    rows = Table(box=None, pad_edge=False, header_style="dim")
    rows.add_column("table")
    rows.add_column("rows", justify="right")
    for table, count in status.rows.items():
        rows.add_row(table, f"{count:,}")
    running: RenderableType = f"no service runs on {settings.data} (`kailin up` starts one)"
    if status.run:
        running = component_table(status.run)
    tables: RenderableType = (
        rows if any(status.rows.values()) else f"no rows yet in {settings.tables_uri}"
    )
    parts = [running, "", stages, "", tables]
    if status.paused:
        parts[3:3] = [Text(pause.line(control), style="yellow") for control in status.paused]
    if status.alerts:
        parts = [*map(firing_alerts.line, status.alerts), "", *parts]
    if status.ingest:
        parts += ["", ingest_status.render(status.ingest)]
    if status.spending:
        parts += ["", spending_status.render(status.spending)]
    return Group(*parts)


def show(settings: Settings, console: Console, *, watch: bool, as_json: bool) -> bool:
    """Prints the status, again and again with `watch`. Returns whether the service is healthy."""
    source = statuses(settings, interval=1.0)
    if watch and not as_json:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            for status in source:
                live.update(render(settings, status), refresh=True)
    for status in source:
        if as_json:
            console.print_json(
                data=status.as_json(), indent=None if watch else 2, default=datetime.isoformat
            )
        else:
            console.print(render(settings, status))
        if not watch:
            return status.healthy
    return False
