"""Every metric that a process of this service exposes: names, labels, buckets.

Nothing is registered at import: a process makes one `Metrics` over its own registry and serves it.
Labels are bounded: stages, models, generators and topics come from the settings, reasons are fixed
phrases of the code.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
AGES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
SCORES = tuple(step / 20 for step in range(1, 21))


class Metrics:
    """The metrics of one process, on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        summary = partial(Summary, registry=registry)

        # Every stage.
        self.records_in = counter("kailin_records_in_total", "Messages a stage took.", ["stage"])
        self.records_out = counter(
            "kailin_records_out_total",
            "Records a stage wrote and had confirmed.",
            ["stage"],
        )
        self.records_failed = counter(
            "kailin_records_failed_total",
            "Messages that a stage could not use, by reason.",
            ["stage", "reason"],
        )
        self.dead_letters = counter(
            "kailin_dead_letters_total",
            "Dead letters written and confirmed.",
            ["stage", "reason"],
        )
        self.retries = counter(
            "kailin_retries_total",
            "Attempts repeated because a component was away or overloaded.",
            ["stage", "reason"],
        )
        self.in_flight = gauge("kailin_in_flight", "Messages being worked on.", ["stage"])
        self.handler_seconds = histogram(
            "kailin_handler_seconds",
            "Time in a stage's handler for one message, retries included.",
            ["stage"],
            buckets=SECONDS,
        )
        self.end_to_end_seconds = histogram(
            "kailin_end_to_end_seconds",
            "From a record's arrival to the end of this stage.",
            ["stage"],
            buckets=AGES,
        )
        self.behind = gauge(
            "kailin_behind_seconds",
            "Age of the oldest message that a worker has begun and not finished, 0 where it has "
            "none.",
            ["stage"],
        )
        self.paused = gauge(
            "kailin_paused",
            "1 while an operator has the stage stand still (`kailin pause`).",
            ["stage"],
        )
        self.consumer_lag = gauge(
            "kailin_consumer_lag_records",
            "Messages after the last finished one, of the partitions this worker holds.",
            ["stage", "topic", "partition"],
        )

        # Models, by the name they are served under.
        self.model_waiting = gauge(
            "kailin_model_requests_waiting",
            "Requests that wait until fewer than the server's `concurrency` are in flight.",
            ["model"],
        )
        self.model_in_flight = gauge(
            "kailin_model_requests_in_flight",
            "Requests that a model server has and has not answered.",
            ["model"],
        )
        self.model_fill = gauge(
            "kailin_model_fill_ratio",
            "Requests in flight at the server of a model, as a part of its `concurrency`.",
            ["model"],
        )
        self.model_requests = counter(
            "kailin_model_requests_total",
            "Requests to a model server by outcome (ok, transient, refused).",
            ["model", "outcome"],
        )
        self.model_tokens = counter(
            "kailin_model_tokens_total",
            "Tokens by kind (prompt, completion).",
            ["model", "kind"],
        )
        self.model_seconds = histogram(
            "kailin_model_request_seconds",
            "Time of one request to a model server.",
            ["model"],
            buckets=SECONDS,
        )

        # Generate.
        self.questions_kept = counter(
            "kailin_questions_kept_total",
            "Candidates kept.",
            ["generator", "revision"],
        )
        self.questions_rejected = counter(
            "kailin_questions_rejected_total",
            "Candidates given up after their last attempt, by reason.",
            ["generator", "revision", "reason"],
        )
        self.articles_skipped = counter(
            "kailin_articles_not_asked_total",
            "Articles that no question is asked about, by reason.",
            ["reason"],
        )

        # Index.
        self.index_writes = counter(
            "kailin_index_writes_total",
            "Writes to the index by outcome (put, deleted, stale).",
            ["outcome"],
        )

        # Score and prefer.
        self.alignment_score = histogram(
            "kailin_alignment_score",
            "Alignment of a candidate's context with its record.",
            ["generator", "revision"],
            buckets=SCORES,
        )
        self.branch_alignment = summary(
            "kailin_branch_alignment",
            "Alignment of candidates whose record has a descriptor in a branch of MeSH (A to Z).",
            ["branch", "generator"],
        )
        self.branch_unscored = counter(
            "kailin_branch_unscored_total",
            "Candidates without a score whose record has a descriptor in a branch of MeSH, by why "
            "the question was rejected or has no score.",
            ["branch", "reason"],
        )
        self.branch_comparisons = counter(
            "kailin_branch_comparisons_total",
            "Records compared that have a descriptor in a branch of MeSH, by outcome.",
            ["branch", "outcome"],
        )
        self.unscored = counter(
            "kailin_alignments_unscored_total",
            "Candidates without a score, by reason.",
            ["generator", "reason"],
        )
        self.comparisons = counter(
            "kailin_comparisons_total",
            "Records compared, by outcome (preference, tie, unscorable) and reason.",
            ["outcome", "reason"],
        )
        self.preference_score = histogram(
            "kailin_preference_score",
            "Alignment of the questions of preference records, by side (chosen, rejected).",
            ["side"],
            buckets=SCORES,
        )

        # Append.
        self.table_rows = gauge("kailin_table_rows", "Rows of a table.", ["table"])
        self.table_version = gauge("kailin_table_version", "Newest version of a table.", ["table"])
        self.rows_appended = counter("kailin_rows_appended_total", "Rows committed.", ["table"])
        self.rows_repeated = counter(
            "kailin_rows_repeated_total",
            "Rows left out because the table holds their id.",
            ["table"],
        )
        self.rows_marked = counter(
            "kailin_rows_marked_total",
            "Rows whose standing was written, by why they do not stand any more.",
            ["table", "reason"],
        )

        # Rescore.
        self.parked = gauge(
            "kailin_parked_records",
            "Records that wait for their MeSH, by age (1 day: up to a day, and so on).",
            ["age"],
        )
        self.parked_oldest = gauge(
            "kailin_parked_oldest_seconds",
            "Age of the record that has waited longest for its MeSH, 0 where none waits.",
        )
        self.parked_resumed = counter(
            "kailin_parked_resumed_total",
            "Records taken out of the table parked to be scored, by what they had waited for.",
            ["reason"],
        )
        self.parked_given_up = counter(
            "kailin_parked_given_up_total",
            "Records taken out of the table parked because they had waited too long.",
        )

        # Ingest.
        self.citations = counter(
            "kailin_citations_total",
            "Citations read, by what they are to what is known (new, text, mesh, other, unchanged, "
            "older, deleted, reinstated, failed).",
            ["source", "change"],
        )
        self.ingest_units = counter(
            "kailin_ingest_units_total",
            "Files, windows of a search and lists of PMIDs read, by how that ended (done, failed).",
            ["source", "outcome"],
        )
        self.ingest_failed = gauge(
            "kailin_ingest_units_failed",
            "Files, windows and lists whose last reading failed and that wait for another.",
            ["source"],
        )
        self.ncbi_requests = counter(
            "kailin_ncbi_requests_total",
            "Requests to NCBI by what came of them (ok, 429, server error, time-out, …).",
            ["endpoint", "outcome"],
        )
        self.ingest_current = gauge(
            "kailin_ingest_current_timestamp_seconds",
            "As of when all that a source had is read, in Unix time.",
            ["source"],
        )

        # Answer.
        self.ideals = counter(
            "kailin_ideals_total",
            "Records that θ3 asked about, by outcome (as in the record) and reason.",
            ["outcome", "reason"],
        )
        self.ideal_score = histogram(
            "kailin_ideal_score",
            "Alignment of the questions that θ3 asked.",
            ["revision"],
            buckets=SCORES,
        )
        self.answers = counter(
            "kailin_answers_total",
            "Questions answered, by what the answer was (yes, no, maybe, or why it is none).",
            ["answerer", "decision"],
        )
        self.spent_money = gauge(
            "kailin_spent_money",
            "Cost of a model's answers in this month (UTC), in the currency of its prices.",
            ["model"],
        )
        self.spent_tokens = gauge(
            "kailin_spent_tokens",
            "Tokens of a model's answers in this month (UTC), by kind (prompt, completion).",
            ["model", "kind"],
        )
        self.budget_left = gauge(
            "kailin_budget_left_ratio",
            "Part of the month's budget that is left, of money or tokens, 1 where there is none.",
            ["of"],
        )
        self.backlog_waiting = gauge(
            "kailin_backlog_waiting",
            "1 while the backlog waits, by what for (theta3, live records).",
            ["reason"],
        )

        # The trainer, and what it starts.
        self.training_rows = gauge(
            "kailin_training_new_rows",
            "Rows of a target's table since the data of its last job.",
            ["target"],
        )
        self.training_rows_due = gauge(
            "kailin_training_rows_due",
            "New rows that make a target's next job due.",
            ["target"],
        )
        self.training_state = gauge(
            "kailin_training_due",
            "1 where a job of this target is in this state (due, running, waiting, stopped).",
            ["target", "state"],
        )
        self.jobs = counter(
            "kailin_jobs_total",
            "Jobs that ended, by how (passed, blocked, failed).",
            ["target", "outcome"],
        )
        self.job_seconds = histogram(
            "kailin_job_seconds",
            "Time of one step of a job (train, register, gate).",
            ["target", "step"],
            buckets=AGES,
        )
        self.gate_rate = gauge(
            "kailin_gate_win_ratio",
            "The last candidate's win rate over the champion (estimate, lower, upper).",
            ["target", "figure"],
        )
        self.gate_blocked_in_a_row = gauge(
            "kailin_gate_blocked_in_a_row",
            "Candidates blocked since one last passed.",
            ["target"],
        )

        # The deployer, and who follows it.
        self.serving_revision = gauge(
            "kailin_serving_revision",
            "The registered version that serves as a generator, as this process knows it; 0: none.",
            ["generator"],
        )
        self.deployments = counter(
            "kailin_deployments_total",
            "Attempts to put a model in place, by outcome (done, failed).",
            ["generator", "outcome"],
        )
        self.deployment_failing = gauge(
            "kailin_deployment_failing",
            "1 while the champion cannot be put in place and another model, or none, still serves.",
            ["generator"],
        )

        # The supervisor.
        self.component_up = gauge(
            "kailin_component_up", "1 while a component is ready.", ["component"]
        )
        self.component_restarts = counter(
            "kailin_component_restarts_total",
            "Times a component was started again after it died.",
            ["component"],
        )
        self.component_stopped = gauge(
            "kailin_component_stopped",
            "1 where a component has ended and is not started again: its dead-letter limit, a "
            "setting.",
            ["component"],
        )
        self.disk_free = gauge(
            "kailin_disk_free_bytes",
            "Bytes that may still be written to the file system of a directory.",
            ["directory"],
        )
        self.disk_size = gauge(
            "kailin_disk_size_bytes",
            "Bytes of the file system of a directory.",
            ["directory"],
        )
