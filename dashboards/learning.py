"""The Grafana dashboard of the learning loop, as code.

`python -m dashboards.learning` writes `learning.json` beside this file, ready to be imported.
"""

from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from dashboards.panels import (
    GREEN,
    ORANGE,
    RED,
    THIRD,
    Panel,
    as_json,
    bars,
    datasource,
    number,
    steps,
    trend,
)

FILE = Path(__file__).with_name("learning.json")


def learning() -> dashboard.Dashboard:
    """The dashboard, its rows in the order of the loop."""
    board = (
        dashboard.Dashboard("Kailin: the learning loop")
        .uid("kailin-learning")
        .description("From new rows to a better model: what is due, what passed, what serves?")
        .tags(["kailin"])
        .time("now-7d", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(datasource())
    )
    for title, panels in (
        ("What serves?", _serving()),
        ("What is trained?", _training()),
        ("Does it get better?", _gate()),
        ("What does θ3 write?", _ideal()),
        ("What do answers cost?", _spending()),
    ):
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return board


def _serving() -> Sequence[Panel]:
    return (
        number(
            "Deployment failing",
            "Is there a champion that cannot be put in place? The deployer's log says why.",
            "bool_on_off",
            ("max(kailin_deployment_failing)", "failing"),
            steps((None, GREEN), (1, RED)),
        ),
        trend(
            "Which version serves, as each process knows it?",
            "Registered version by generator; processes that differ for long do not follow "
            "serving.models.",
            "none",
            (
                "max by (generator, instance) (kailin_serving_revision)",
                "{{generator}} at {{instance}}",
            ),
            width=THIRD,
        ),
        trend(
            "How do deployments end?",
            "Attempts to put a model in place, by the deployer now running.",
            "short",
            (
                "sum by (generator, outcome) (kailin_deployments_total)",
                "{{generator}} {{outcome}}",
            ),
            width=THIRD,
        ),
    )


def _training() -> Sequence[Panel]:
    return (
        trend(
            "How many new rows are there to train on?",
            "Rows of a target's table since the data of its last job; training.rows make one due.",
            "short",
            ("max by (target) (kailin_training_new_rows)", "{{target}}"),
            width=THIRD,
        ),
        trend(
            "What does each target do?",
            "1 for the state that it is in: due, running, waiting, or stopped by failures.",
            "bool_on_off",
            ("max by (target, state) (kailin_training_due)", "{{target}} {{state}}"),
            width=THIRD,
        ),
        trend(
            "How do jobs end?",
            "Jobs that passed the gate, were blocked by it, or failed, by the trainer now running.",
            "short",
            ("sum by (target, outcome) (kailin_jobs_total)", "{{target}} {{outcome}}"),
            width=THIRD,
        ),
        trend(
            "How long does each step of a job take?",
            "Mean time of training and of the gate, over the jobs of a day.",
            "s",
            (
                "sum by (target, step) (increase(kailin_job_seconds_sum[1d])) / "
                "sum by (target, step) (increase(kailin_job_seconds_count[1d]))",
                "{{target}} {{step}}",
            ),
            width=THIRD,
        ),
    )


def _gate() -> Sequence[Panel]:
    return (
        trend(
            "By how much does the last candidate win?",
            "Its win rate over the champion on held-out records, with the ends of the interval; "
            "the lower one must be above gate.bound.",
            "percentunit",
            ("max by (target, figure) (kailin_gate_win_ratio)", "{{target}} {{figure}}"),
            width=THIRD,
        ),
        trend(
            "How many candidates were blocked since one passed?",
            "Many in a row mean that training no longer helps, or that the gate sees too little.",
            "short",
            ("max by (target) (kailin_gate_blocked_in_a_row)", "{{target}}"),
            thresholds=steps((None, GREEN), (3, ORANGE), (10, RED)),
            width=THIRD,
        ),
    )


def _ideal() -> Sequence[Panel]:
    return (
        trend(
            "What becomes of the records that θ3 asks about?",
            "Records a second: ideal, below the gate, or unscorable, with the reason.",
            "recps",
            (
                "sum by (outcome, reason) (rate(kailin_ideals_total[$__rate_interval]))",
                "{{outcome}} {{reason}}",
            ),
            width=THIRD,
        ),
        trend(
            "How well do the questions of each version align?",
            "Median alignment of θ3's questions with their records, by registered version.",
            "percentunit",
            (
                "histogram_quantile(0.5, sum by (le, revision) "
                "(rate(kailin_ideal_score_bucket[$__rate_interval])))",
                "version {{revision}}",
            ),
            width=THIRD,
        ),
        bars(
            "What is answered?",
            "Answers by what they were: yes, no, maybe, or why they could not be read.",
            ("sum by (answerer, decision) (kailin_answers_total)", "{{answerer}}: {{decision}}"),
        ),
        trend(
            "What does the backlog wait for?",
            "1 while it waits for θ3 to serve, for live records, or for answers.",
            "bool_on_off",
            ("max by (reason) (kailin_backlog_waiting)", "{{reason}}"),
            width=THIRD,
        ),
    )


def _spending() -> Sequence[Panel]:
    return (
        trend(
            "What has been spent this month?",
            "Cost of each model's answers in this month (UTC), in the currency of its prices.",
            "short",
            ("max by (model) (kailin_spent_money)", "{{model}}"),
            width=THIRD,
        ),
        trend(
            "How many tokens have answers taken this month?",
            "Tokens of each model in this month (UTC), by kind.",
            "short",
            ("max by (model, kind) (kailin_spent_tokens)", "{{model}} {{kind}}"),
            width=THIRD,
        ),
        trend(
            "How much of the budget is left?",
            "Part of the month's bound on money and on tokens; at 0 answering waits.",
            "percentunit",
            ("min by (of) (kailin_budget_left_ratio)", "{{of}}"),
            thresholds=steps((None, RED), (0.1, ORANGE), (0.25, GREEN)),
            width=THIRD,
        ),
    )


def main() -> None:
    FILE.write_text(text())


def text() -> str:
    """The dashboard as Grafana's JSON."""
    return as_json(learning())


if __name__ == "__main__":
    main()
