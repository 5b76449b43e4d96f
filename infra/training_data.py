"""What a target's table holds for its next job, and the policy that says when one is due."""

from datetime import datetime, timedelta

import pyarrow as pa
from deltalake import QueryBuilder

from infra.row_marks import moment
from infra.settings import Settings
from infra.tables import TableError, open_table
from streams.learning import Target
from trainers.triggers import TABLES, Data, Policy


def targets(settings: Settings) -> tuple[Target, ...]:
    """The targets that are trained for; an answer model only where the base model is named."""
    return tuple(
        target
        for target in dict.fromkeys(settings.training.targets)
        if target != "answers" or settings.training.answers_source
    )


def policy(settings: Settings) -> Policy:
    """When jobs are due, by the settings."""
    training = settings.training
    return Policy(
        rows=training.rows,
        least_rows=training.least_rows,
        age=timedelta(days=training.age_days),
        attempts=training.attempts,
        retry_first=timedelta(seconds=training.retry_first),
        retry_longest=timedelta(seconds=training.retry_longest),
    )


def read_data(settings: Settings, target: Target, since: datetime | None) -> Data:
    """The newest version of a target's table, and the rows of it appended after a time.

    Of `ideal` only answered rows are new: the others serve pre-training alone, and a job of an
    answer model that has none fails.
    Only files that have such rows are read. Nothing is there before the table is. Blocks; raises
    one of `STORE_ERRORS` where the store is away.
    """
    try:
        delta = open_table(settings, TABLES[target])
    except TableError:
        return Data(version=0, rows=0, new=0, newest=None)
    standing = "retracted is null" + (f" and appended > {moment(since)}" if since else "")
    if target == "answers":
        standing += " and answer is not null"
    query = f"select count(*) as n, max(appended) as newest from rows where {standing}"  # noqa: S608
    (found,) = pa.table(QueryBuilder().register("rows", delta).execute(query)).to_pylist()
    return Data(version=delta.version(), rows=delta.count(), new=found["n"], newest=found["newest"])
