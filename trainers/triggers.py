"""When the next job of a target is due, and if it is not, why: a pure function of what is known.

What is known is the target's table, the jobs there were, the policy and the time. It is looked at
again and again, so nothing here remembers: the same facts give the same decision.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from streams.learning import Job, JobKind, Target, job_id

TABLES: Mapping[Target, str] = {"theta3": "preferences", "answers": "ideal"}
# What a job of each target does, one after the other. The last gives the job its kind.
STEPS: Mapping[Target, tuple[JobKind, ...]] = {
    "theta3": ("dpo",),
    "answers": ("cpt", "sft-answers"),
}
OPEN = ("training", "trained")

State = Literal["due", "running", "waiting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A job is due with `rows` new rows, or with `least_rows` once the last is `age` old.

    One that failed is tried again, `attempts` times in all, after `retry_first`, then after twice
    as long each time, up to `retry_longest`.
    """

    rows: int
    least_rows: int
    age: timedelta
    attempts: int
    retry_first: timedelta
    retry_longest: timedelta

    def pause(self, failures: int) -> timedelta:
        """How long to wait after so many failures of the same job."""
        # Doubled in steps, since a power of two soon leaves what a time can hold.
        pause = self.retry_first
        for _ in range(failures - 1):
            if pause >= self.retry_longest:
                break
            pause *= 2
        return min(pause, self.retry_longest) if failures else timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A table at a version: the rows that stand in it, and how many are new to the target.

    New are those appended after the newest one that the target's last job had. `newest` is None
    for a table without rows.
    """

    version: int
    rows: int
    new: int
    newest: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done about a target, and why, as a line for people.

    `job` is the one that is due or running, else the last there was. `at` is when a job that waits
    is due at the latest, as far as the time alone makes it so.
    """

    target: Target
    state: State
    why: str
    job: Job | None = None
    at: datetime | None = None


def last(jobs: Iterable[Job], target: Target) -> Job | None:
    """The newest job of a target: that of the newest data."""
    ours = (job for job in jobs if job.target == target)
    return max(ours, key=lambda job: (job.newest, job.data_version, job.id), default=None)


def decide(
    target: Target, data: Data, jobs: Iterable[Job], policy: Policy, now: datetime
) -> Decision:
    """Whether a job of the target is due, the job as it begins, or why none is.

    A job that is not closed comes first, then one that failed and has attempts left; a new one is
    due by its data. A blocked candidate does not block the next.
    """
    jobs = [job for job in jobs if job.target == target]
    running = last((job for job in jobs if job.state in OPEN), target)
    if running:
        return Decision(target=target, state="running", why=_progress(running, policy), job=running)
    before = last(jobs, target)
    if before and before.state == "failed" and before.attempt < policy.attempts:
        return _again(before, policy, now)
    return _next(target, data, jobs, before, policy, now)


def _progress(job: Job, policy: Policy) -> str:
    what = "trained, being judged" if job.state == "trained" else "training"
    attempt = f", attempt {job.attempt} of {policy.attempts}" if job.attempt > 1 else ""
    return f"{what} since {job.at:%Y-%m-%d %H:%M} UTC{attempt}: {job.reason}"


def _again(job: Job, policy: Policy, now: datetime) -> Decision:
    pause = policy.pause(job.attempt)
    # Either way, so that a clock that was put back does not make it wait for more than twice that.
    if abs(now - job.at) >= pause:
        why = f"tried again after: {job.reason}"
        tried = replace(job, state="training", attempt=job.attempt + 1, reason=why, at=now)
        return Decision(target=job.target, state="due", why=why, job=tried)
    why = f"waits {_span(pause)} after failure {job.attempt} of {policy.attempts}: {job.reason}"
    return Decision(target=job.target, state="waiting", why=why, job=job, at=job.at + pause)


def _next(
    target: Target,
    data: Data,
    jobs: list[Job],
    before: Job | None,
    policy: Policy,
    now: datetime,
) -> Decision:
    kind = STEPS[target][-1]
    id = job_id(target, kind, TABLES[target], data.version)
    reason = _reason(data, before, policy, now)
    known = next((job for job in jobs if job.id == id), None)
    if reason and data.newest and known is None:
        job = Job(
            id=id,
            target=target,
            kind=kind,
            table=TABLES[target],
            data_version=data.version,
            rows=data.rows,
            newest=data.newest,
            state="training",
            attempt=1,
            reason=reason,
            by="trainer",
            began=now,
            at=now,
        )
        return Decision(target=target, state="due", why=reason, job=job)
    if reason and known:
        why = f"version {data.version} of {TABLES[target]} was trained on: job {id}"
        return Decision(target=target, state="waiting", why=why, job=before)
    due_at = before.at + policy.age if before and data.new >= policy.least_rows else None
    count = f"{data.new:,} of {policy.rows:,} new rows"
    if before and before.state == "failed":
        why = f"stopped after {_failures(before.attempt)}: {before.reason}; {count}"
        return Decision(target=target, state="stopped", why=why, job=before, at=due_at)
    return Decision(target=target, state="waiting", why=count, job=before, at=due_at)


def _reason(data: Data, before: Job | None, policy: Policy, now: datetime) -> str | None:
    """Why a job is due by its data, None if it is not."""
    if data.new >= policy.rows:
        return f"{data.new:,} new rows"
    if before and data.new >= policy.least_rows and now - before.at >= policy.age:
        return f"{data.new:,} new rows, {_span(now - before.at)} after the last job"
    return None


def _failures(count: int) -> str:
    return "1 failure" if count == 1 else f"{count} failures"


def _span(time: timedelta) -> str:
    """A length of time in the greatest unit of which it has at least two."""
    seconds = time.total_seconds()
    for name, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
