"""The dashboard Ingestion: is what is new in PubMed read, and what waits for its MeSH?"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import Leads, Limits, Panel, number, trend
from dashboards.queries import rate

DAY = 86_400


def ingestion() -> dashboard.Dashboard:
    return board(
        "Ingestion",
        "From PubMed to pubmed.articles: is all that is new read, and what is still without MeSH?",
        {
            "Is what is new read?": _fresh(),
            "What comes in?": _citations(),
            "How does NCBI answer?": _requests(),
            "What waits for its MeSH?": _parked(),
        },
        since="now-1d",
        refresh="1m",
    )


def _fresh() -> Sequence[Panel]:
    return (
        number(
            "How far behind PubMed is it?",
            "Time since all that a followed source had was read, of the source that is furthest "
            "behind; it grows between two polls (ncbi.poll).",
            "s",
            ("time() - min(max by (source) (kailin_ingest_current_timestamp_seconds))", "behind"),
            Limits(2 * 3600, DAY),
        ),
        number(
            "How many files and windows failed?",
            "Those that wait to be read again: `kailin status` lists them with their reasons, "
            "`kailin ingest retry` reads them once more.",
            "short",
            ("sum(max by (source) (kailin_ingest_units_failed))", "failed"),
            Limits(1, 10),
        ),
        number(
            "How many requests to NCBI fail?",
            "The part of the requests in the period shown that were not answered with ok; they "
            "are tried again.",
            "percentunit",
            (
                'sum(rate(kailin_ncbi_requests_total{outcome!="ok"}[$__range])) / '
                "sum(rate(kailin_ncbi_requests_total[$__range])) or "
                "0 * sum(kailin_ncbi_requests_total)",
                "failed",
            ),
            Limits(0.05, 0.5),
        ),
        number(
            "How long has a record waited for its MeSH?",
            "The one that has waited longest. Those that wait longer than parked.longest_days "
            "leave as never indexed.",
            "s",
            ("max(kailin_parked_oldest_seconds)", "oldest"),
            Limits(180 * DAY, 360 * DAY),
        ),
        trend(
            "How far behind is each source?",
            "Time since all that a followed source had was read. A line that does not fall at each "
            "poll is a source that cannot be read.",
            "s",
            ("time() - max by (source) (kailin_ingest_current_timestamp_seconds)", "{{source}}"),
            limits=Limits(2 * 3600, DAY),
        ),
        trend(
            "How do files and windows end?",
            "Those read a second, by source and how that ended.",
            "ops",
            (rate("kailin_ingest_units_total", "source, outcome"), "{{source}} {{outcome}}"),
        ),
    )


def _citations() -> Sequence[Panel]:
    return (
        trend(
            "What do the citations bring?",
            "Citations read a second, by what they are to what is known of their record; those "
            "that failed are listed by `kailin status`.",
            "recps",
            (rate("kailin_citations_total", "change"), "{{change}}"),
            leads=Leads("Overview"),
        ),
        trend(
            "Where do they come from?",
            "Citations read a second, by source.",
            "recps",
            (rate("kailin_citations_total", "source"), "{{source}}"),
        ),
    )


def _requests() -> Sequence[Panel]:
    return (
        trend(
            "What comes of the requests to NCBI?",
            "Requests a second by outcome; all but ok are tried again.",
            "reqps",
            (rate("kailin_ncbi_requests_total", "outcome"), "{{outcome}}"),
        ),
        trend(
            "What is asked of NCBI?",
            "Requests a second by endpoint. NCBI allows 3 in all without an API key, 10 with one.",
            "reqps",
            (rate("kailin_ncbi_requests_total", "endpoint"), "{{endpoint}}"),
            limits=Limits(3, 10),
        ),
    )


def _parked() -> Sequence[Panel]:
    return (
        trend(
            "How many records wait, and for how long?",
            "Records that have questions and contexts, but no MeSH yet, by age: up to a day, up "
            "to 7 days, and so on.",
            "short",
            ("max by (age) (kailin_parked_records)", "{{age}}"),
        ),
        trend(
            "How many go on, and how many are given up?",
            "Records taken out of the table parked, a second.",
            "recps",
            (rate("kailin_parked_resumed_total", "reason"), "went on: {{reason}}"),
            (
                "sum(rate(kailin_parked_given_up_total[$__rate_interval]))",
                "never indexed",
            ),
            leads=Leads("Quality"),
        ),
    )
