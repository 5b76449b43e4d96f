"""Panels about what comes in, and what waits for its MeSH."""

from collections.abc import Sequence

from dashboards.panels import THIRD, Panel, trend


def parked() -> Sequence[Panel]:
    return (
        trend(
            "How many records wait, and for how long?",
            "Records that have questions and contexts, but no MeSH yet, by age: up to a day, up "
            "to 7 days, and so on.",
            "short",
            ("max by (age) (kailin_parked_records)", "{{age}}"),
            width=THIRD,
        ),
        trend(
            "How long has the oldest waited?",
            "Records that wait longer than parked.longest_days leave as never indexed.",
            "s",
            ("max(kailin_parked_oldest_seconds)", "oldest"),
            width=THIRD,
        ),
        trend(
            "How many go on, and how many are given up?",
            "Records taken out of the table parked, a second.",
            "recps",
            (
                "sum by (reason) (rate(kailin_parked_resumed_total[$__rate_interval]))",
                "went on: {{reason}}",
            ),
            ("sum(rate(kailin_parked_given_up_total[$__rate_interval]))", "never indexed"),
            width=THIRD,
        ),
    )


def ingest() -> Sequence[Panel]:
    return (
        trend(
            "How far behind are the sources?",
            "Seconds since all that a followed source had was read; it grows between two polls.",
            "s",
            ("time() - max by (source) (kailin_ingest_current_timestamp_seconds)", "{{source}}"),
            width=THIRD,
        ),
        trend(
            "What do the citations bring?",
            "Citations read a second, by what they are to what is known of their record.",
            "recps",
            (
                "sum by (change) (rate(kailin_citations_total[$__rate_interval]))",
                "{{change}}",
            ),
            width=THIRD,
        ),
        trend(
            "What comes of the requests to NCBI?",
            "Requests a second by outcome; all but ok are tried again.",
            "reqps",
            (
                "sum by (outcome) (rate(kailin_ncbi_requests_total[$__rate_interval]))",
                "{{outcome}}",
            ),
            width=THIRD,
        ),
    )
