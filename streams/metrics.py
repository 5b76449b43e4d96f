"""Every metric that a process of this service exposes: names, labels, buckets.

Nothing is registered at import: a process makes one `Metrics` over its own registry and serves it.
Labels are bounded: stages, models, generators and topics come from the settings, reasons are fixed
phrases of the code.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
AGES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
SCORES = tuple(step / 20 for step in range(1, 21))


class Metrics:
    """The metrics of one process, on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        # Every stage.
        self.records_in = Counter(
            "kailin_records_in_total", "Messages a stage took.", ["stage"], registry=registry
        )
        self.records_out = Counter(
            "kailin_records_out_total",
            "Records a stage wrote and had confirmed.",
            ["stage"],
            registry=registry,
        )
        self.records_failed = Counter(
            "kailin_records_failed_total",
            "Messages that a stage could not use, by reason.",
            ["stage", "reason"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "kailin_dead_letters_total",
            "Dead letters written and confirmed.",
            ["stage", "reason"],
            registry=registry,
        )
        self.retries = Counter(
            "kailin_retries_total",
            "Attempts repeated because a component was away or overloaded.",
            ["stage", "reason"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "kailin_in_flight", "Messages being worked on.", ["stage"], registry=registry
        )
        self.handler_seconds = Histogram(
            "kailin_handler_seconds",
            "Time in a stage's handler for one message, retries included.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.end_to_end_seconds = Histogram(
            "kailin_end_to_end_seconds",
            "From a record's arrival to the end of this stage.",
            ["stage"],
            buckets=AGES,
            registry=registry,
        )
        self.behind = Gauge(
            "kailin_behind_seconds",
            "Age of the oldest message that a worker has begun and not finished, 0 where it has "
            "none.",
            ["stage"],
            registry=registry,
        )
        self.paused = Gauge(
            "kailin_paused",
            "1 while an operator has the stage stand still (`kailin pause`).",
            ["stage"],
            registry=registry,
        )
        self.consumer_lag = Gauge(
            "kailin_consumer_lag_records",
            "Messages after the last finished one, of the partitions this worker holds.",
            ["stage", "topic", "partition"],
            registry=registry,
        )

        # Models, by the name they are served under.
        self.model_waiting = Gauge(
            "kailin_model_requests_waiting",
            "Requests that wait until fewer than the server's `concurrency` are in flight.",
            ["model"],
            registry=registry,
        )
        self.model_in_flight = Gauge(
            "kailin_model_requests_in_flight",
            "Requests that a model server has and has not answered.",
            ["model"],
            registry=registry,
        )
        self.model_fill = Gauge(
            "kailin_model_fill_ratio",
            "Requests in flight at the server of a model, as a part of its `concurrency`.",
            ["model"],
            registry=registry,
        )
        self.model_requests = Counter(
            "kailin_model_requests_total",
            "Requests to a model server by outcome (ok, transient, refused).",
            ["model", "outcome"],
            registry=registry,
        )
        self.model_tokens = Counter(
            "kailin_model_tokens_total",
            "Tokens by kind (prompt, completion).",
            ["model", "kind"],
            registry=registry,
        )
        self.model_seconds = Histogram(
            "kailin_model_request_seconds",
            "Time of one request to a model server.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )

        # Generate.
        self.questions_kept = Counter(
            "kailin_questions_kept_total",
            "Candidates kept.",
            ["generator", "revision"],
            registry=registry,
        )
        self.questions_rejected = Counter(
            "kailin_questions_rejected_total",
            "Candidates given up after their last attempt, by reason.",
            ["generator", "revision", "reason"],
            registry=registry,
        )
        self.articles_skipped = Counter(
            "kailin_articles_not_asked_total",
            "Articles that no question is asked about, by reason.",
            ["reason"],
            registry=registry,
        )

        # Index.
        self.index_writes = Counter(
            "kailin_index_writes_total",
            "Writes to the index by outcome (put, deleted, stale).",
            ["outcome"],
            registry=registry,
        )

        # Score and prefer.
        self.alignment_score = Histogram(
            "kailin_alignment_score",
            "Alignment of a candidate's context with its record.",
            ["generator", "revision"],
            buckets=SCORES,
            registry=registry,
        )
        self.branch_alignment = Summary(
            "kailin_branch_alignment",
            "Alignment of candidates whose record has a descriptor in a branch of MeSH (A to Z).",
            ["branch", "generator"],
            registry=registry,
        )
        self.branch_unscored = Counter(
            "kailin_branch_unscored_total",
            "Candidates without a score whose record has a descriptor in a branch of MeSH, by why "
            "the question was rejected or has no score.",
            ["branch", "reason"],
            registry=registry,
        )
        self.branch_comparisons = Counter(
            "kailin_branch_comparisons_total",
            "Records compared that have a descriptor in a branch of MeSH, by outcome.",
            ["branch", "outcome"],
            registry=registry,
        )
        self.unscored = Counter(
            "kailin_alignments_unscored_total",
            "Candidates without a score, by reason.",
            ["generator", "reason"],
            registry=registry,
        )
        self.comparisons = Counter(
            "kailin_comparisons_total",
            "Records compared, by outcome (preference, tie, unscorable) and reason.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.preference_score = Histogram(
            "kailin_preference_score",
            "Alignment of the questions of preference records, by side (chosen, rejected).",
            ["side"],
            buckets=SCORES,
            registry=registry,
        )

        # Append.
        self.table_rows = Gauge(
            "kailin_table_rows", "Rows of a table.", ["table"], registry=registry
        )
        self.table_version = Gauge(
            "kailin_table_version", "Newest version of a table.", ["table"], registry=registry
        )
        self.rows_appended = Counter(
            "kailin_rows_appended_total", "Rows committed.", ["table"], registry=registry
        )
        self.rows_repeated = Counter(
            "kailin_rows_repeated_total",
            "Rows left out because the table holds their id.",
            ["table"],
            registry=registry,
        )
        self.rows_marked = Counter(
            "kailin_rows_marked_total",
            "Rows whose standing was written, by why they do not stand any more.",
            ["table", "reason"],
            registry=registry,
        )

        # Rescore.
        self.parked = Gauge(
            "kailin_parked_records",
            "Records that wait for their MeSH, by age (1 day: up to a day, and so on).",
            ["age"],
            registry=registry,
        )
        self.parked_oldest = Gauge(
            "kailin_parked_oldest_seconds",
            "Age of the record that has waited longest for its MeSH, 0 where none waits.",
            registry=registry,
        )
        self.parked_resumed = Counter(
            "kailin_parked_resumed_total",
            "Records taken out of the table parked to be scored, by what they had waited for.",
            ["reason"],
            registry=registry,
        )
        self.parked_given_up = Counter(
            "kailin_parked_given_up_total",
            "Records taken out of the table parked because they had waited too long.",
            registry=registry,
        )

        # Ingest.
        self.citations = Counter(
            "kailin_citations_total",
            "Citations read, by what they are to what is known (new, text, mesh, other, unchanged, "
            "older, deleted, reinstated, failed).",
            ["source", "change"],
            registry=registry,
        )
        self.ingest_units = Counter(
            "kailin_ingest_units_total",
            "Files, windows of a search and lists of PMIDs read, by how that ended (done, failed).",
            ["source", "outcome"],
            registry=registry,
        )
        self.ingest_failed = Gauge(
            "kailin_ingest_units_failed",
            "Files, windows and lists whose last reading failed and that wait for another.",
            ["source"],
            registry=registry,
        )
        self.ncbi_requests = Counter(
            "kailin_ncbi_requests_total",
            "Requests to NCBI by what came of them (ok, 429, server error, time-out, …).",
            ["endpoint", "outcome"],
            registry=registry,
        )
        self.ingest_current = Gauge(
            "kailin_ingest_current_timestamp_seconds",
            "As of when all that a source had is read, in Unix time.",
            ["source"],
            registry=registry,
        )

        # Answer.
        self.ideals = Counter(
            "kailin_ideals_total",
            "Records that θ3 asked about, by outcome (as in the record) and reason.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.ideal_score = Histogram(
            "kailin_ideal_score",
            "Alignment of the questions that θ3 asked.",
            ["revision"],
            buckets=SCORES,
            registry=registry,
        )
        self.answers = Counter(
            "kailin_answers_total",
            "Questions answered, by what the answer was (yes, no, maybe, or why it is none).",
            ["answerer", "decision"],
            registry=registry,
        )
        self.spent_money = Gauge(
            "kailin_spent_money",
            "Cost of a model's answers in this month (UTC), in the currency of its prices.",
            ["model"],
            registry=registry,
        )
        self.spent_tokens = Gauge(
            "kailin_spent_tokens",
            "Tokens of a model's answers in this month (UTC), by kind (prompt, completion).",
            ["model", "kind"],
            registry=registry,
        )
        self.budget_left = Gauge(
            "kailin_budget_left_ratio",
            "Part of the month's budget that is left, of money or tokens, 1 where there is none.",
            ["of"],
            registry=registry,
        )
        self.backlog_waiting = Gauge(
            "kailin_backlog_waiting",
            "1 while the backlog waits, by what for (theta3, live records).",
            ["reason"],
            registry=registry,
        )

        # The trainer, and what it starts.
        self.training_rows = Gauge(
            "kailin_training_new_rows",
            "Rows of a target's table since the data of its last job.",
            ["target"],
            registry=registry,
        )
        self.training_rows_due = Gauge(
            "kailin_training_rows_due",
            "New rows that make a target's next job due.",
            ["target"],
            registry=registry,
        )
        self.training_state = Gauge(
            "kailin_training_due",
            "1 where a job of this target is in this state (due, running, waiting, stopped).",
            ["target", "state"],
            registry=registry,
        )
        self.jobs = Counter(
            "kailin_jobs_total",
            "Jobs that ended, by how (passed, blocked, failed).",
            ["target", "outcome"],
            registry=registry,
        )
        self.job_seconds = Histogram(
            "kailin_job_seconds",
            "Time of one step of a job (train, register, gate).",
            ["target", "step"],
            buckets=AGES,
            registry=registry,
        )
        self.gate_rate = Gauge(
            "kailin_gate_win_ratio",
            "The last candidate's win rate over the champion (estimate, lower, upper).",
            ["target", "figure"],
            registry=registry,
        )
        self.gate_blocked_in_a_row = Gauge(
            "kailin_gate_blocked_in_a_row",
            "Candidates blocked since one last passed.",
            ["target"],
            registry=registry,
        )

        # The deployer, and who follows it.
        self.serving_revision = Gauge(
            "kailin_serving_revision",
            "The registered version that serves as a generator, as this process knows it; 0: none.",
            ["generator"],
            registry=registry,
        )
        self.deployments = Counter(
            "kailin_deployments_total",
            "Attempts to put a model in place, by outcome (done, failed).",
            ["generator", "outcome"],
            registry=registry,
        )
        self.deployment_failing = Gauge(
            "kailin_deployment_failing",
            "1 while the champion cannot be put in place and another model, or none, still serves.",
            ["generator"],
            registry=registry,
        )

        # The supervisor.
        self.component_up = Gauge(
            "kailin_component_up", "1 while a component is ready.", ["component"], registry=registry
        )
        self.component_restarts = Counter(
            "kailin_component_restarts_total",
            "Times a component was started again after it died.",
            ["component"],
            registry=registry,
        )
        self.component_stopped = Gauge(
            "kailin_component_stopped",
            "1 where a component has ended and is not started again: its dead-letter limit, a "
            "setting.",
            ["component"],
            registry=registry,
        )
        self.disk_free = Gauge(
            "kailin_disk_free_bytes",
            "Bytes that may still be written to the file system of a directory.",
            ["directory"],
            registry=registry,
        )
        self.disk_size = Gauge(
            "kailin_disk_size_bytes",
            "Bytes of the file system of a directory.",
            ["directory"],
            registry=registry,
        )
