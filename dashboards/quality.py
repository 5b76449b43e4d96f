"""The dashboard Quality: are the questions good, and how well does the evidence agree?"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import QUARTER, THIRD, Leads, Limits, Panel, bars, density, trend
from dashboards.queries import mean, quantiles

VERSION = "generator, revision"


def quality() -> dashboard.Dashboard:
    return board(
        "Quality",
        "Questions, their alignment with the record in MeSH, and what comes of them.",
        {
            "How well does the evidence agree?": _alignment(),
            "What comes of a comparison?": _comparisons(),
            "Are the questions good?": _questions(),
            "What does θ3 write?": _ideal(),
        },
        since="now-6h",
        refresh="1m",
    )


def _alignment() -> Sequence[Panel]:
    return (
        density(
            "Where do alignment scores lie?",
            "Scores of all candidates over time: the darker a cell, the more of them.",
            "sum by (le) (increase(kailin_alignment_score_bucket[$__rate_interval]))",
        ),
        trend(
            "Which version's questions find better evidence?",
            "10th, 50th and 90th percentile of the alignment score, by generator and its revision.",
            "percentunit",
            *quantiles(
                "kailin_alignment_score",
                VERSION,
                (0.1, 0.5, 0.9),
                legend="{{generator}} {{revision}}",
            ),
            leads=Leads("Training"),
        ),
        trend(
            "How far are the chosen questions above the rejected ones?",
            "10th, 50th and 90th percentile of the alignment score of q+ (chosen) and q− "
            "(rejected) in preference records.",
            "percentunit",
            *quantiles("kailin_preference_score", "side", (0.1, 0.5, 0.9)),
        ),
        bars(
            "How far apart are q+ and q− on average?",
            "Mean alignment of the chosen and the rejected questions over the period shown: where "
            "they come together, a preference says little.",
            (mean("kailin_preference_score", "side", "$__range"), "{{side}}"),
            unit="percentunit",
            width=THIRD // 2,
        ),
        bars(
            "In which branches of MeSH is the evidence better?",
            "Mean alignment of candidates whose record has a descriptor in a branch (A anatomy, B "
            "organisms, C diseases, D chemicals, E techniques, F psychiatry, and so on), over the "
            "period shown.",
            (mean("kailin_branch_alignment", "branch", "$__range"), "{{branch}}"),
            unit="percentunit",
            width=THIRD,
        ),
        bars(
            "Which branches do the records come from?",
            "Candidates scored in the period shown, by branch of MeSH and generator; a record "
            "counts in each of its branches.",
            (
                "sum by (branch, generator) (increase(kailin_branch_alignment_count[$__range]))",
                "{{branch}} {{generator}}",
            ),
            width=THIRD,
        ),
    )


def _comparisons() -> Sequence[Panel]:
    return (
        bars(
            "How do comparisons end?",
            "Records compared, by outcome and reason, by the workers now running: only a "
            "preference is trained on.",
            ("sum by (outcome, reason) (kailin_comparisons_total)", "{{outcome}} {{reason}}"),
            width=QUARTER,
        ),
        trend(
            "Which part of the comparisons is a tie, or cannot be made?",
            "Of the records compared, those that make no preference record.",
            "percentunit",
            (
                "sum by (outcome) (rate(kailin_comparisons_total[$__rate_interval])) / ignoring "
                "(outcome) group_left sum(rate(kailin_comparisons_total[$__rate_interval]))",
                "{{outcome}}",
            ),
            width=QUARTER,
        ),
        bars(
            "In which branches of MeSH do comparisons say nothing?",
            "Of the records with a descriptor in a branch that were compared in the period shown, "
            "those that are a tie: both generators' evidence agrees as well.",
            (
                'sum by (branch) (increase(kailin_branch_comparisons_total{outcome="tie"}'
                "[$__range])) / sum by (branch) "
                "(increase(kailin_branch_comparisons_total[$__range]))",
                "{{branch}}",
            ),
            unit="percentunit",
            width=QUARTER,
        ),
        bars(
            "Why has a candidate no score?",
            "Candidates without alignment score, by generator and reason. Records without MeSH "
            "are parked.",
            (
                "sum by (generator, reason) (kailin_alignments_unscored_total)",
                "{{generator}}: {{reason}}",
            ),
            width=QUARTER,
            leads=Leads("Ingestion"),
        ),
    )


def _questions() -> Sequence[Panel]:
    kept, rejected = (
        f"sum by ({VERSION}) (increase(kailin_questions_{which}_total[$__range]))"
        for which in ("kept", "rejected")
    )
    return (
        bars(
            "Which part of the candidates is kept?",
            "Of the candidates of each version in the period shown, those that passed the filters.",
            (
                f"{kept} / ({kept} + ({rejected} or 0 * {kept}))",
                "{{generator}} {{revision}}",
            ),
            unit="percentunit",
            limits=Limits(0.8, 0.5),
            leads=Leads("Models"),
        ),
        bars(
            "Why are questions rejected?",
            "Candidates given up after their last attempt, by version and reason, by the workers "
            "now running.",
            (
                f"sum by ({VERSION}, reason) (kailin_questions_rejected_total)",
                "{{generator}} {{revision}}: {{reason}}",
            ),
        ),
        bars(
            "In which branches of MeSH do questions fail?",
            "Candidates without a score in the period shown, by branch of their record and by why "
            "the question was rejected or has no score.",
            (
                "sum by (branch, reason) (increase(kailin_branch_unscored_total[$__range]))",
                "{{branch}}: {{reason}}",
            ),
        ),
        bars(
            "Why is no question asked about an article?",
            "Articles that the generate and backlog stages pass over, by reason.",
            ("sum by (reason) (kailin_articles_not_asked_total)", "{{reason}}"),
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
        ),
        trend(
            "How well do the questions of each version of θ3 align?",
            "10th and 50th percentile of the alignment of θ3's questions, by registered version; "
            "below ideal.floor they make no ideal record.",
            "percentunit",
            *quantiles("kailin_ideal_score", "revision", (0.1, 0.5), legend="version {{revision}}"),
            leads=Leads("Training"),
        ),
    )
