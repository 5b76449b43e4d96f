"""The dashboard Training: what is due, what passed the gate, and what serves?"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import QUARTER, THIRD, Leads, Limits, Panel, number, states, trend
from dashboards.queries import mean

RUNBOOK = "docs/runbook.md says what to do."


def training() -> dashboard.Dashboard:
    return board(
        "Training",
        "From new rows to a better model: what is due, what passed, what serves?",
        {
            "What serves?": _serving(),
            "What is trained, and when is the next job due?": _jobs(),
            "Does it get better?": _gate(),
        },
        since="now-7d",
        refresh="1m",
    )


def _serving() -> Sequence[Panel]:
    return (
        number(
            "Does a deployment fail?",
            "A champion cannot be put in place, and what served before still does; the deployer's "
            f"log says why. {RUNBOOK}",
            "bool_on_off",
            ("max(kailin_deployment_failing)", "failing"),
            Limits(1, 1),
            leads=Leads("Runtime"),
        ),
        states(
            "Which version has served, and since when?",
            "The champion's registered version, as the deployer and each process that asks it know "
            "it; 0 is none. Processes that differ for long do not follow serving.models.",
            (
                "max by (generator, process) (kailin_serving_revision)",
                "{{generator}} at {{process}}",
            ),
            leads=Leads("Models"),
        ),
        trend(
            "How do deployments end?",
            "Attempts to put a model in place, by the deployer now running.",
            "short",
            (
                "sum by (generator, outcome) (kailin_deployments_total)",
                "{{generator}} {{outcome}}",
            ),
            width=QUARTER,
        ),
    )


def _jobs() -> Sequence[Panel]:
    return (
        trend(
            "How far is it to the next job?",
            "New rows of a target's table, as a part of those that make a job due "
            "(training.rows); after training.age_days fewer do.",
            "percentunit",
            (
                "max by (target) (kailin_training_new_rows) / "
                "max by (target) (kailin_training_rows_due)",
                "{{target}}",
            ),
            width=THIRD,
            leads=Leads("Overview"),
        ),
        states(
            "What does each target do?",
            "1 for the state that it is in: due, running, waiting, or stopped by failures; "
            "`kailin train status` says why.",
            ("max by (target, state) (kailin_training_due)", "{{target}} {{state}}"),
            width=THIRD,
        ),
        trend(
            "How do jobs end?",
            "Jobs that passed the gate, were blocked by it, or failed, by the trainer now running; "
            "the job's log in <data>/training says why.",
            "short",
            ("sum by (target, outcome) (kailin_jobs_total)", "{{target}} {{outcome}}"),
            width=THIRD,
        ),
        trend(
            "How long does each step of a job take?",
            "Mean time of training and of the gate, over the jobs of a day.",
            "s",
            (mean("kailin_job_seconds", "target, step", "1d"), "{{target}} {{step}}"),
            limits=Limits(12 * 3600, 24 * 3600),
            width=THIRD,
        ),
        states(
            "What does the backlog wait for?",
            "1 while it waits for θ3 to serve, for live records, or for answers.",
            ("max by (reason) (kailin_backlog_waiting)", "{{reason}}"),
            width=THIRD,
        ),
    )


def _gate() -> Sequence[Panel]:
    return (
        trend(
            "By how much does the last candidate win?",
            "Its win rate over the champion on held-out records, with the ends of the interval: "
            "the lower one must be above gate.bound.",
            "percentunit",
            ("max by (target, figure) (kailin_gate_win_ratio)", "{{target}} {{figure}}"),
            limits=Limits(0.5, 0.4),
            leads=Leads("Quality"),
        ),
        trend(
            "How many candidates were blocked since one passed?",
            "Many in a row mean that training no longer helps, or that the gate sees too little: "
            f"`kailin models list` has the verdicts. {RUNBOOK}",
            "short",
            ("max by (target) (kailin_gate_blocked_in_a_row)", "{{target}}"),
            limits=Limits(3, 10),
            leads=Leads("Quality"),
        ),
    )
