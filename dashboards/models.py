"""The dashboard Models: how fast they answer, how full they are, and what they cost."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import THIRD, Leads, Limits, Panel, bars, trend
from dashboards.queries import MODEL, quantiles, rate, total

FULL = Limits(0.9, 1.0)


def models() -> dashboard.Dashboard:
    return board(
        "Models",
        "Question generators and answerers, by the name that each version is served under.",
        {
            "How fast are they?": _speed(),
            "How full are they?": _load(),
            "What do they cost?": _cost(),
        },
        variables=("model",),
    )


def _speed() -> Sequence[Panel]:
    return (
        trend(
            "How many tokens do the models read and write?",
            "Tokens a second, by model and kind.",
            "suffix: tokens/s",
            (rate("kailin_model_tokens_total", "model, kind", MODEL), "{{model}} {{kind}}"),
            width=THIRD,
        ),
        trend(
            "How long does a model take for one request?",
            "Median and 95th percentile, by model; a version of θ3 has a name of its own. Its own "
            "server's view is in Runtime.",
            "s",
            *quantiles("kailin_model_request_seconds", "model", (0.5, 0.95), MODEL),
            limits=Limits(60, 300),
            width=THIRD,
            leads=Leads("Runtime"),
        ),
        trend(
            "How do requests to the models end?",
            "Requests a second: ok, transient (tried again) or refused.",
            "reqps",
            (rate("kailin_model_requests_total", "model, outcome", MODEL), "{{model}} {{outcome}}"),
            width=THIRD,
        ),
        trend(
            "Which part of the requests fails?",
            "Of the requests to a model, those that were not answered with ok. Refused ones become "
            "dead letters (`kailin dlq list --stage generate`), the others are tried again.",
            "percentunit",
            (
                "1 - sum by (model) (rate(kailin_model_requests_total"
                '{model=~"$model", outcome="ok"}[$__rate_interval])) / '
                "sum by (model) (rate(kailin_model_requests_total"
                '{model=~"$model"}[$__rate_interval]))',
                "{{model}}",
            ),
            limits=Limits(0.05, 0.5),
            width=THIRD,
            leads=Leads("Overview"),
        ),
        bars(
            "What is answered?",
            "Answers by what they were: yes, no, maybe, or why they could not be read, by the "
            "workers now running.",
            ("sum by (answerer, decision) (kailin_answers_total)", "{{answerer}}: {{decision}}"),
        ),
    )


def _load() -> Sequence[Panel]:
    return (
        trend(
            "How many requests does each model work on?",
            "Requests that a model's server has and has not answered; it works on them in a batch.",
            "short",
            (total("kailin_model_requests_in_flight", "model", MODEL), "{{model}}"),
            width=THIRD,
        ),
        trend(
            "How full is the batch?",
            "Requests in flight at the model's server, as a part of those that a stage may have "
            "there (servers.NAME.concurrency). Full all the time: the model is the limit. Empty: "
            "the stages do not bring enough.",
            "percentunit",
            (f"max by (model) (kailin_model_fill_ratio{MODEL})", "{{model}}"),
            limits=FULL,
            width=THIRD,
            leads=Leads("Runtime"),
        ),
        trend(
            "How many requests wait for a place in it?",
            "Requests that the stages hold back. They wait here, and not in the server, so that "
            "each has its time-out for itself.",
            "short",
            (total("kailin_model_requests_waiting", "model", MODEL), "{{model}}"),
            limits=Limits(64, 256),
            width=THIRD,
            leads=Leads("Overview"),
        ),
    )


def _cost() -> Sequence[Panel]:
    return (
        trend(
            "How much of the budget is left?",
            "Part of what [spending] allows in this month (UTC), in money and in tokens; all where "
            "there is no bound. At 0 answering waits, and nothing is lost.",
            "percentunit",
            ("min by (of) (kailin_budget_left_ratio)", "{{of}}"),
            limits=Limits(0.25, 0.1),
            width=THIRD,
        ),
        trend(
            "What has been spent this month?",
            "Cost of each model's answers in this month (UTC), in the currency of its prices.",
            "short",
            (f"max by (model) (kailin_spent_money{MODEL})", "{{model}}"),
            width=THIRD,
        ),
        trend(
            "What does an hour cost?",
            "How fast that grows, in the currency of the prices an hour.",
            "short",
            (f"max by (model) (deriv(kailin_spent_money{MODEL}[10m])) * 3600", "{{model}}"),
            width=THIRD,
        ),
        trend(
            "How many tokens have answers taken this month?",
            "Tokens of each model in this month (UTC), by kind.",
            "short",
            (f"max by (model, kind) (kailin_spent_tokens{MODEL})", "{{model}} {{kind}}"),
            width=THIRD,
        ),
    )
