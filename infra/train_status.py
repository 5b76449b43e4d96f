"""What `kailin train status` tells: for each target what runs, what is due, what waits for what."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from infra import topic_view, train_config
from infra.kafka import Publisher
from infra.settings import Settings
from infra.training_data import policy, read_data, targets
from infra.turn import members
from streams.learning import Job, Target, Verdict
from streams.topics import JOBS, VERDICTS
from trainers.triggers import OPEN, STEPS, Decision, decide, last

# Jobs that are shown, the newest first.
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the step of a job is that is being trained; `loss` is None at first."""

    step: int
    steps: int
    loss: float | None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.3g}"
        return f"step {self.step:,} of {self.steps:,}{loss}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """A decision as `trainers.triggers` makes it, with the progress of the job that runs."""

    decision: Decision
    new_rows: int
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus:
    """`trainers` are those at work or in line, None where the broker does not say."""

    enabled: bool
    trainers: int | None
    targets: tuple[TargetStatus, ...]
    jobs: tuple[Job, ...]
    verdicts: dict[str, Verdict]

    def as_json(self) -> dict[str, Any]:
        """Verdicts without what was made of each record."""
        shown = {id: asdict(replace(verdict, compared=())) for id, verdict in self.verdicts.items()}
        for verdict in shown.values():
            del verdict["compared"]
        return {
            "enabled": self.enabled,
            "trainers": self.trainers,
            "targets": [asdict(target) for target in self.targets],
            "jobs": [asdict(job) for job in self.jobs],
            "verdicts": shown,
        }


async def read_status(settings: Settings) -> TrainingStatus:
    """How training stands. Raises `BrokerUnreachable`, `Transient` and one of `STORE_ERRORS`."""
    found, verdicts, trainers = await asyncio.gather(
        topic_view.read(settings, JOBS, Job),
        topic_view.read(settings, VERDICTS, Verdict),
        members(settings, "trainer"),
    )
    jobs = sorted(found.values(), key=lambda job: (job.newest, job.data_version), reverse=True)
    shown = tuple(jobs[:SHOWN])
    return TrainingStatus(
        enabled=settings.training.enabled,
        trainers=trainers,
        targets=tuple(
            [
                await asyncio.to_thread(_target, settings, target, jobs)
                for target in targets(settings)
            ]
        ),
        jobs=shown,
        verdicts={job.id: verdicts[job.id] for job in shown if job.id in verdicts},
    )


def _target(settings: Settings, target: Target, jobs: Sequence[Job]) -> TargetStatus:
    before = last(jobs, target)
    data = read_data(settings, target, before.newest if before else None)
    decision = decide(target, data, jobs, policy(settings), datetime.now(UTC))
    running = decision.state == "running" and decision.job
    progress = _progress(settings, decision.job) if running and decision.job else None
    return TargetStatus(decision=decision, new_rows=data.new, progress=progress)


def _progress(settings: Settings, job: Job) -> Progress | None:
    """Of the last step that has begun; None where the job runs on another machine's disk."""
    if job.state != "training":
        return None
    place = train_config.directory(settings, job.id)
    for kind in reversed(STEPS[job.target]):
        output = train_config.output_of(place, job.target, kind)
        with suppress(OSError, ValueError, KeyError):
            found = json.loads((output / "progress.json").read_text())
            return Progress(step=found["step"], steps=found["steps"], loss=found.get("loss"))
    return None


def show(settings: Settings, status: TrainingStatus, console: Console, *, as_json: bool) -> None:
    """Print the status."""
    if as_json:
        console.print_json(data=status.as_json(), default=datetime.isoformat)
    else:
        console.print(_render(settings, status))


def _render(settings: Settings, status: TrainingStatus) -> RenderableType:
    by_target = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("target", "state", ""):
        by_target.add_column(column, overflow="fold")
    for each in status.targets:
        progress = f"; {each.progress}" if each.progress else ""
        by_target.add_row(
            each.decision.target, each.decision.state, f"{each.decision.why}{progress}"
        )
    parts: list[RenderableType] = [by_target]
    if not status.enabled:
        parts.append("training.enabled = false: no job starts by itself")
    if status.trainers == 0 and any(t.decision.state == "running" for t in status.targets):
        parts.append("no trainer is at work, so nothing goes on: `kailin up`, or `kailin trainer`")
    if "answers" in settings.training.targets and not settings.training.answers_source:
        parts.append("answers: none, until training.answers_source names the model to train")
    if status.jobs:
        parts += ["", _jobs(settings, status)]
    return Group(*parts)


def _jobs(settings: Settings, status: TrainingStatus) -> Table:
    jobs = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("job", "target", "data", "state", "at (UTC)", "model", ""):
        jobs.add_column(column, overflow="fold")
    for job in status.jobs:
        verdict = status.verdicts.get(job.id)
        said = verdict.reason if verdict and job.state not in OPEN else job.reason
        jobs.add_row(
            job.id,
            job.target,
            f"{job.table} {job.data_version}",
            job.state,
            f"{job.at:%Y-%m-%d %H:%M}",
            job.model or "",
            said,
        )
    return jobs


async def retry(settings: Settings, by: str) -> tuple[Job, ...]:
    """Have the last job of each target that failed tried again at once; returns these jobs.

    Raises `BrokerUnreachable` and `Transient`.
    """
    jobs = (await topic_view.read(settings, JOBS, Job)).values()
    found = (last(jobs, target) for target in targets(settings))
    failed = tuple(
        replace(job, attempt=0, by=by, at=datetime.now(UTC))
        for job in found
        if job and job.state == "failed"
    )
    async with Publisher(settings) as publisher:
        for job in failed:
            await publisher.send(JOBS, job)
    return failed
