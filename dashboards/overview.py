"""The dashboard Overview: does it flow, how late is it, and what is wrong?"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import THIRD, Leads, Limits, Panel, bars, number, states, trend
from dashboards.queries import STAGE, quantiles, rate, total

WAITING = Limits(10_000, 100_000)
LETTERS = (
    "Each has its reason in the topic dead.letters: `kailin dlq list --stage STAGE` shows them, "
    "`kailin dlq replay` sends them back once the cause is mended."
)


def overview() -> dashboard.Dashboard:
    return board(
        "Overview",
        "From PubMed records to preference records: does it flow, and what is behind?",
        {
            "Is it well?": _health(),
            "What is behind, and since when?": _behind(),
            "Does it flow?": _flow(),
            "How long does it take?": _time(),
            "What goes wrong?": _wrong(),
            "What has been kept?": _kept(),
        },
        variables=("stage", "topic"),
    )


def _health() -> Sequence[Panel]:
    return (
        number(
            "How many alerts fire?",
            "Those that Prometheus tells to Alertmanager, the watchdog left out; docs/runbook.md "
            "has what to do about each.",
            "none",
            (
                'count(ALERTS{alertstate="firing", alertname!="KailinWatchdog"}) or vector(0)',
                "firing",
            ),
            Limits(1, 1),
        ),
        number(
            "How many components are down?",
            "A broker, a node, a model server or a worker that is not ready: `kailin status` names "
            "it.",
            "none",
            ("count(kailin_component_up == 0) or 0 * count(kailin_component_up)", "down"),
            Limits(1, 1),
            leads=Leads("Runtime"),
        ),
        number(
            "How many records wait?",
            "Messages between what has arrived and what is done, over all stages.",
            "short",
            ("sum(kailin_consumer_lag_records)", "waiting"),
            WAITING,
        ),
        number(
            "How many dead letters are there?",
            f"Messages that were given up in the period shown. {LETTERS}",
            "short",
            (
                "sum(increase(kailin_dead_letters_total[$__range])) "
                "or 0 * sum(kailin_records_in_total)",
                "dead letters",
            ),
            Limits(1, 100),
        ),
    )


def _behind() -> Sequence[Panel]:
    return (
        bars(
            "How late is each stage?",
            "Age of the oldest message that a stage has begun and not finished. It has been behind "
            "for that long; a stage that replays old messages is as late as they are old.",
            (f"max by (stage) (kailin_behind_seconds{STAGE})", "{{stage}}"),
            unit="s",
            limits=Limits(300, 3600),
            leads=Leads("Overview", ("stage",)),
        ),
        trend(
            "Which stage falls behind?",
            "Messages after the last finished one. A line that only rises names the stage to give "
            "more workers, or the one whose component is slow.",
            "short",
            (total("kailin_consumer_lag_records", "stage", STAGE), "{{stage}}"),
            limits=WAITING,
            width=THIRD,
            leads=Leads("Overview", ("stage",)),
        ),
        trend(
            "In which topic do messages wait?",
            "The same by topic: a topic that several stages read has one line for each.",
            "short",
            (
                "sum by (topic, stage) (kailin_consumer_lag_records"
                '{stage=~"$stage", topic=~"$topic"})',
                "{{topic}} for {{stage}}",
            ),
            limits=WAITING,
            width=THIRD,
            leads=Leads("Runtime", ("topic",)),
        ),
        bars(
            "Which process does not answer, and since when?",
            "Time since a process last showed its metrics, within a day.",
            (
                'time() - max by (process) (max_over_time(timestamp(up{process!=""} == 1)'
                "[1d:15s]))",
                "{{process}}",
            ),
            unit="s",
            limits=Limits(60, 300),
            leads=Leads("Runtime"),
        ),
        states(
            "Which stages are paused?",
            "1 while an operator has a stage stand still: `kailin status` says who and why, "
            "`kailin resume STAGE` lets it go on.",
            (f"max by (stage) (kailin_paused{STAGE})", "{{stage}}"),
            limits=Limits(1, 1),
            width=THIRD,
        ),
        trend(
            "How many messages are being worked on?",
            "Messages in a handler now. At the window's size, the stage is as busy as it may be.",
            "short",
            (total("kailin_in_flight", "stage", STAGE), "{{stage}}"),
            width=THIRD,
        ),
        trend(
            "What do the stages wait for?",
            "Attempts repeated because a component was away or overloaded, a second.",
            "ops",
            (rate("kailin_retries_total", "stage, reason", STAGE), "{{stage}}: {{reason}}"),
            limits=Limits(1, 10),
            width=THIRD,
            leads=Leads("Runtime"),
        ),
    )


def _flow() -> Sequence[Panel]:
    return (
        trend(
            "How many records does each stage take?",
            "Messages read from the stage's topic, a second.",
            "recps",
            (rate("kailin_records_in_total", "stage", STAGE), "{{stage}}"),
        ),
        trend(
            "How many records does each stage write?",
            "Records whose arrival the broker or the table has confirmed, a second.",
            "recps",
            (rate("kailin_records_out_total", "stage", STAGE), "{{stage}}"),
        ),
    )


def _time() -> Sequence[Panel]:
    return (
        trend(
            "How long does a stage take for one message?",
            "Median and 95th percentile of the time in the handler, retries included.",
            "s",
            *quantiles("kailin_handler_seconds", "stage", (0.5, 0.95), STAGE),
            limits=Limits(30, 100),
            leads=Leads("Models"),
        ),
        trend(
            "How old is a record when a stage is done with it?",
            "Median and 95th percentile of the time from a record's arrival to the end of the "
            "stage; at append it is the whole way. Records that waited for their MeSH are in it.",
            "s",
            *quantiles("kailin_end_to_end_seconds", "stage", (0.5, 0.95), STAGE),
            limits=Limits(3600, 86_400),
        ),
    )


def _wrong() -> Sequence[Panel]:
    return (
        trend(
            "Why are messages given up?",
            f"Dead letters written by the workers now running, by stage and reason. {LETTERS}",
            "short",
            (total("kailin_dead_letters_total", "stage, reason", STAGE), "{{stage}}: {{reason}}"),
            limits=Limits(1, 100),
        ),
        trend(
            "Which messages could a stage not use?",
            "Failures of the workers now running. More of them than dead letters means that dead "
            "letters are still on their way.",
            "short",
            (total("kailin_records_failed_total", "stage, reason", STAGE), "{{stage}}: {{reason}}"),
            limits=Limits(1, 100),
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
            leads=Leads("Quality"),
        ),
        trend(
            "How many rows are added, and how many were there already?",
            "Rows a second. Repeated ones come from messages delivered again, and are left out.",
            "rowsps",
            (rate("kailin_rows_appended_total", "table"), "{{table}} added"),
            (rate("kailin_rows_repeated_total", "table"), "{{table}} repeated"),
            width=THIRD,
        ),
        trend(
            "How many rows stand no more?",
            "Rows marked a second, because their record was deleted, retracted or indexed anew.",
            "rowsps",
            (rate("kailin_rows_marked_total", "reason"), "{{reason}}"),
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
            "What is written to the search index?",
            "Writes a second: put, deleted, or stale, where the index holds that state already.",
            "wps",
            (rate("kailin_index_writes_total", "outcome"), "{{outcome}}"),
            width=THIRD,
            leads=Leads("Runtime"),
        ),
        states(
            "Which model serves as θ3?",
            "The registered version, 0 where none does yet; Training has the history.",
            ("max by (generator) (kailin_serving_revision)", "{{generator}}"),
            width=THIRD,
            leads=Leads("Training"),
        ),
    )
