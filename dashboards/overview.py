"""The Grafana dashboard of the service, as code.

`python -m dashboards.overview` writes `overview.json` beside this file, ready to be imported.
"""

from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from dashboards.ingestion import ingest, parked
from dashboards.panels import (
    GREEN,
    ORANGE,
    QUARTER,
    RED,
    SOURCE,
    THIRD,
    Panel,
    Query,
    as_json,
    bars,
    datasource,
    density,
    number,
    steps,
    trend,
)

FILE = Path(__file__).with_name("overview.json")

# The stages chosen in the dashboard's list.
STAGE = '{stage=~"$stage"}'


def overview() -> dashboard.Dashboard:
    """The dashboard, its rows in the order in which one asks."""
    board = (
        dashboard.Dashboard("Kailin: the stream")
        .uid("kailin-overview")
        .description("From PubMed records to preference records: does it flow, and is it good?")
        .tags(["kailin"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(datasource())
        .with_variable(_stage())
    )
    for title, panels in (
        ("Is it well?", _health()),
        ("Does it flow?", _flow()),
        ("How long does it take?", _time()),
        ("What do the models do?", _models()),
        ("Are the questions good?", _questions()),
        ("How well does the evidence agree?", _alignment()),
        ("What waits for its MeSH?", parked()),
        ("Is what is new read?", ingest()),
        ("What has been kept?", _kept()),
    ):
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return board


def _stage() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("stage")
        .label("Stage")
        .datasource(SOURCE)
        .query("label_values(kailin_records_in_total, stage)")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _health() -> Sequence[Panel]:
    return (
        number(
            "Components that are down",
            "Is a broker, a node, a model server or a worker not ready? Above 0, look at status.",
            "none",
            ("count(kailin_component_up == 0) or 0 * count(kailin_component_up)", "down"),
            steps((None, GREEN), (1, RED)),
        ),
        number(
            "Restarts of components",
            "How often did the supervisor start something again in the period shown?",
            "none",
            ("sum(increase(kailin_component_restarts_total[$__range]))", "restarts"),
            steps((None, GREEN), (1, ORANGE), (10, RED)),
        ),
        number(
            "Records waiting",
            "How many messages lie between what has arrived and what is done, over all stages?",
            "short",
            ("sum(kailin_consumer_lag_records)", "waiting"),
            steps((None, GREEN), (10_000, ORANGE), (100_000, RED)),
        ),
        number(
            "Dead letters",
            "How many messages have the workers now running given up on? Each has its reason in "
            "the topic dead.letters.",
            "short",
            ("sum(kailin_dead_letters_total) or 0 * sum(kailin_records_in_total)", "dead letters"),
            steps((None, GREEN), (1, ORANGE), (100, RED)),
        ),
    )


def _flow() -> Sequence[Panel]:
    return (
        trend(
            "How many records does each stage take?",
            "Messages read from the stage's topic, a second.",
            "recps",
            (_rate("kailin_records_in_total", "stage"), "{{stage}}"),
        ),
        trend(
            "How many records does each stage write?",
            "Records whose arrival the broker or the table has confirmed, a second.",
            "recps",
            (_rate("kailin_records_out_total", "stage"), "{{stage}}"),
        ),
        trend(
            "Which stage falls behind?",
            "Messages after the last finished one, by stage. A line that only rises names the "
            "stage to give more workers.",
            "short",
            (_sum("kailin_consumer_lag_records", "stage"), "{{stage}}"),
            thresholds=steps((None, GREEN), (10_000, ORANGE), (100_000, RED)),
        ),
        trend(
            "How many messages are being worked on?",
            "Messages in a handler now. At the window's size, the stage is as busy as it may be.",
            "short",
            (_sum("kailin_in_flight", "stage"), "{{stage}}"),
        ),
        trend(
            "Why are messages given up?",
            "Dead letters written by the workers now running, by stage and reason.",
            "short",
            (_sum("kailin_dead_letters_total", "stage, reason"), "{{stage}}: {{reason}}"),
            thresholds=steps((None, GREEN), (1, ORANGE), (100, RED)),
        ),
        trend(
            "Which messages could a stage not use?",
            "Failures of the workers now running, by stage and reason. More of them than dead "
            "letters means that dead letters are still on their way.",
            "short",
            (_sum("kailin_records_failed_total", "stage, reason"), "{{stage}}: {{reason}}"),
            thresholds=steps((None, GREEN), (1, ORANGE), (100, RED)),
        ),
        trend(
            "What do the stages wait for?",
            "Attempts repeated because a component was away or overloaded, a second.",
            "ops",
            (_rate("kailin_retries_total", "stage, reason"), "{{stage}}: {{reason}}"),
            thresholds=steps((None, GREEN), (1, ORANGE), (10, RED)),
        ),
    )


def _time() -> Sequence[Panel]:
    return (
        trend(
            "How long does a stage take for one message?",
            "Median and 95th percentile of the time in the handler, retries included.",
            "s",
            *_quantiles("kailin_handler_seconds", "stage", (0.5, 0.95), STAGE),
        ),
        trend(
            "How old is a record when a stage is done with it?",
            "Median and 95th percentile of the time from a record's arrival to the end of the "
            "stage; at append it is the whole way.",
            "s",
            *_quantiles("kailin_end_to_end_seconds", "stage", (0.5, 0.95), STAGE),
        ),
    )


def _models() -> Sequence[Panel]:
    return (
        trend(
            "How many tokens do the models read and write?",
            "Tokens a second, by model and kind.",
            "suffix: tokens/s",
            (
                "sum by (model, kind) (rate(kailin_model_tokens_total[$__rate_interval]))",
                "{{model}} {{kind}}",
            ),
            width=THIRD,
        ),
        trend(
            "How long does a model take for one request?",
            "Median and 95th percentile, by model.",
            "s",
            *_quantiles("kailin_model_request_seconds", "model", (0.5, 0.95)),
            width=THIRD,
        ),
        trend(
            "How do requests to the models end?",
            "Requests a second: ok, transient (tried again) or refused.",
            "reqps",
            (
                "sum by (model, outcome) (rate(kailin_model_requests_total[$__rate_interval]))",
                "{{model}} {{outcome}}",
            ),
            width=THIRD,
        ),
    )


def _questions() -> Sequence[Panel]:
    return (
        bars(
            "How many questions are kept?",
            "Candidates that passed the filters, by generator, by the workers now running.",
            ("sum by (generator) (kailin_questions_kept_total)", "{{generator}}"),
        ),
        bars(
            "Why are questions rejected?",
            "Candidates given up after their last attempt, by generator and reason.",
            (
                "sum by (generator, reason) (kailin_questions_rejected_total)",
                "{{generator}}: {{reason}}",
            ),
        ),
        bars(
            "Why is no question asked about an article?",
            "Articles that the generate stage passes over, by reason.",
            ("sum by (reason) (kailin_articles_not_asked_total)", "{{reason}}"),
        ),
    )


def _alignment() -> Sequence[Panel]:
    return (
        density(
            "Where do alignment scores lie?",
            "Scores of all candidates over time: the darker a cell, the more of them.",
            "sum by (le) (increase(kailin_alignment_score_bucket[$__rate_interval]))",
        ),
        trend(
            "Which generator's questions find better evidence?",
            "10th, 50th and 90th percentile of the alignment score, by generator.",
            "percentunit",
            *_quantiles("kailin_alignment_score", "generator", (0.1, 0.5, 0.9)),
        ),
        trend(
            "How far are the chosen questions above the rejected ones?",
            "10th, 50th and 90th percentile of the alignment score of q+ (chosen) and q− "
            "(rejected) in preference records.",
            "percentunit",
            *_quantiles("kailin_preference_score", "side", (0.1, 0.5, 0.9)),
        ),
        bars(
            "How do comparisons end?",
            "Records compared, by outcome and reason: only a preference is trained on.",
            ("sum by (outcome, reason) (kailin_comparisons_total)", "{{outcome}} {{reason}}"),
            width=QUARTER,
        ),
        bars(
            "Why has a candidate no score?",
            "Candidates without alignment score, by generator and reason.",
            (
                "sum by (generator, reason) (kailin_alignments_unscored_total)",
                "{{generator}}: {{reason}}",
            ),
            width=QUARTER,
        ),
    )


def _kept() -> Sequence[Panel]:
    return (
        trend(
            "How many rows have the tables?",
            "Rows of each Delta table, by its newest version.",
            "short",
            ("max by (table) (kailin_table_rows)", "{{table}}"),
            width=THIRD,
        ),
        trend(
            "Which version have the tables reached?",
            "The newest version of each table; a flat line under load means that no commit is "
            "made.",
            "none",
            ("max by (table) (kailin_table_version)", "{{table}}"),
            width=THIRD,
        ),
        trend(
            "How many rows are added, and how many were there already?",
            "Rows a second. Repeated ones come from messages delivered again, and are left out.",
            "rowsps",
            (
                "sum by (table) (rate(kailin_rows_appended_total[$__rate_interval]))",
                "{{table}} added",
            ),
            (
                "sum by (table) (rate(kailin_rows_repeated_total[$__rate_interval]))",
                "{{table}} repeated",
            ),
            width=THIRD,
        ),
        trend(
            "How many rows stand no more?",
            "Rows marked a second, because their record was deleted, retracted or indexed anew.",
            "rowsps",
            (
                "sum by (reason) (rate(kailin_rows_marked_total[$__rate_interval]))",
                "{{reason}}",
            ),
            width=THIRD,
        ),
        trend(
            "What is written to the search index?",
            "Writes a second: put, deleted, or stale, where the index holds that state already.",
            "wps",
            (
                "sum by (outcome) (rate(kailin_index_writes_total[$__rate_interval]))",
                "{{outcome}}",
            ),
            width=THIRD,
        ),
        trend(
            "Which components are ready?",
            "1 while a component is ready, 0 while it is not.",
            "bool_on_off",
            ("min by (component) (kailin_component_up)", "{{component}}"),
            width=THIRD,
        ),
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{STAGE}[$__rate_interval]))"


def _sum(metric: str, by: str) -> str:
    return f"sum by ({by}) ({metric}{STAGE})"


def _quantiles(metric: str, by: str, levels: Sequence[float], labels: str = "") -> list[Query]:
    rates = f"sum by (le, {by}) (rate({metric}_bucket{labels}[$__rate_interval]))"
    return [
        (f"histogram_quantile({level}, {rates})", f"{{{{{by}}}}} p{level * 100:.0f}")
        for level in levels
    ]


def main() -> None:
    FILE.write_text(text())


def text() -> str:
    """The dashboard as Grafana's JSON."""
    return as_json(overview())


if __name__ == "__main__":
    main()
