"""What the trainer does, as metrics."""

from collections.abc import Collection
from typing import get_args

from streams.learning import Job, Verdict
from streams.metrics import Metrics
from trainers.triggers import Data, Decision, Policy, State

# The figures of a verdict that are shown, and what they are called in it.
FIGURES = {"estimate": "win_rate", "lower": "win_rate_lower", "upper": "win_rate_upper"}


def looked(
    metrics: Metrics, decision: Decision, data: Data, jobs: Collection[Job], policy: Policy
) -> None:
    """A target was looked at."""
    target = decision.target
    metrics.training_rows.labels(target).set(data.new)
    metrics.training_rows_due.labels(target).set(policy.rows)
    _state(metrics, target, decision.state)
    metrics.gate_blocked_in_a_row.labels(target).set(blocked_in_a_row(jobs, target))


def running(metrics: Metrics, target: str) -> None:
    """A job that was due has begun."""
    _state(metrics, target, "running")


def took(metrics: Metrics, job: Job, step: str, seconds: float) -> None:
    """A step of a job is done."""
    metrics.job_seconds.labels(job.target, step).observe(seconds)


def judged(metrics: Metrics, verdict: Verdict) -> None:
    """A model was judged."""
    for figure, name in FIGURES.items():
        if name in verdict.figures:
            metrics.gate_rate.labels(verdict.target, figure).set(verdict.figures[name])


def ended(metrics: Metrics, job: Job) -> None:
    """A job has ended, or has failed for now."""
    metrics.jobs.labels(job.target, job.state).inc()


def blocked_in_a_row(jobs: Collection[Job], target: str) -> int:
    """Candidates of a target that were blocked since one last passed."""
    judged = [job for job in jobs if job.target == target and job.state in ("passed", "blocked")]
    judged.sort(key=lambda job: (job.newest, job.data_version), reverse=True)
    count = 0
    for job in judged:
        if job.state == "passed":
            break
        count += 1
    return count


def _state(metrics: Metrics, target: str, now: State) -> None:
    for state in get_args(State):
        metrics.training_state.labels(target, state).set(state == now)
