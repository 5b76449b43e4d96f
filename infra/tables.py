"""The Delta tables under `tables_uri`: their columns, and how they are made and opened.

The append stage writes them. All are partitioned by `month`, that of the record's arrival. The
comments on the columns are kept in the tables themselves.
"""

import re
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from infra.settings import Settings

PREFERENCES = "preferences"
DROPPED = "dropped"
PARKED = "parked"
IDEAL = "ideal"

# An id is kept once over these; in `parked` a record only waits.
DECIDED = (PREFERENCES, IDEAL, DROPPED)

# Every commit lists the log: with that of a day, at a commit in five seconds, one takes a quarter
# of a second, with that of six hours a third of it. `infra.table_maintenance` removes what is
# older, but not what a job is pinned to, which a commit would not know of. A row's time of
# appending tells for ever which versions have it.
# By the statistics files are passed over, and two writers know that they do not meet.
CONFIGURATION: dict[str, str | None] = {
    "delta.checkpointInterval": "100",
    "delta.dataSkippingStatsColumns": "pmid,arrived,appended",
    "delta.deletedFileRetentionDuration": "interval 7 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 6 hours",
}

# delta-rs colours the causes in its messages.
ANSI = re.compile(r"\x1b\[[0-9;]*m")

UTC_TIME = pa.timestamp("us", tz="UTC")


class TableError(Exception):
    """A table is not there or not as expected; the message is one line."""


def _field(name: str, type: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, type, metadata={"comment": comment})


PASSAGE = pa.struct(
    [
        _field("pmid", pa.int64(), "PubMed identifier of the retrieved record"),
        _field("title", pa.string(), "its title"),
        _field("abstract", pa.string(), "its abstract"),
        _field("mesh", pa.list_(pa.string()), "UIs of its MeSH descriptors"),
        _field("bm25_rank", pa.int64(), "rank by BM25 from 1, null where BM25 did not return it"),
        _field("dense_rank", pa.int64(), "rank by vector from 1, null where not returned"),
        _field("score", pa.float64(), "fused score by which the context is ordered"),
    ]
)

GENERATED = (
    _field("generator", pa.string(), "which generator wrote the question (theta1, …)"),
    _field("model", pa.string(), "name that its model was served under"),
    _field("revision", pa.string(), "revision of the model"),
    _field("prompt", pa.string(), "name and version of the prompt"),
    _field("temperature", pa.float64(), "sampling temperature"),
    _field("top_p", pa.float64(), "nucleus of the sampling"),
    _field("max_tokens", pa.int64(), "bound on the completion"),
    _field("seed", pa.int64(), "seed of the last attempt"),
    _field("attempts", pa.int64(), "attempts it took"),
    _field("prompt_tokens", pa.int64(), "tokens of the prompt, of all attempts"),
    _field("completion_tokens", pa.int64(), "tokens that were written, in all attempts"),
)

ANSWERED = (
    _field("answer", pa.string(), "a, the answer to q given c (yes, no, maybe), null without one"),
    _field("answer_long", pa.string(), "its reasons, where the prompt asks for them"),
    _field("answer_rejected", pa.string(), "why no attempt could be read, where none could"),
    _field("answerer", pa.string(), "which static model answered, null where none was asked"),
    _field("answer_model", pa.string(), "name that this model was served under"),
    _field("answer_revision", pa.string(), "revision of this model"),
    _field("answer_prompt", pa.string(), "name and version of the answering prompt"),
    _field("answer_temperature", pa.float64(), "sampling temperature of the answer"),
    _field("answer_top_p", pa.float64(), "nucleus of the answer's sampling"),
    _field("answer_max_tokens", pa.int64(), "bound on the answer"),
    _field("answer_seed", pa.int64(), "seed of the last attempt to answer"),
    _field("answer_attempts", pa.int64(), "attempts that the answer took"),
    _field("answer_prompt_tokens", pa.int64(), "tokens of the answering prompt, of all attempts"),
    _field("answer_completion_tokens", pa.int64(), "tokens of the answer, in all attempts"),
)

SOURCE = (
    _field("id", pa.string(), "32 hex digits, a function of record, text, role and generators"),
    _field("pmid", pa.int64(), "PubMed identifier of the source record"),
    _field("version", pa.int64(), "version of the citation"),
    _field("text_hash", pa.string(), "hash of title and abstract that the question was asked of"),
    _field("title", pa.string(), "title of the source record"),
)

TEXT = (
    _field("abstract", pa.string(), "abstract of the source record, sections led by labels"),
    _field("mesh", pa.list_(pa.string()), "UIs of the source record's MeSH descriptors"),
    _field("indexing", pa.string(), "how NLM indexed it (Curated, Automated), null if unknown"),
)

MARGIN = _field(
    "margin", pa.float64(), "least gap between the scores that makes a preference, null for ideal"
)
FLOOR = _field("floor", pa.float64(), "least score that makes an ideal record, null for preference")

SCORING = (
    _field("mesh_edition", pa.string(), "edition of MeSH that the scores are of"),
    _field("frequency", pa.string(), "frequency of the information content (KAILIN, eq. 1)"),
)

STANDING = _field(
    "retracted",
    pa.string(),
    "why it stands no more (deleted, retracted, erratum, MeSH changed), null while it does",
)

TIMES = (
    _field("arrived", UTC_TIME, "when the source record came in"),
    _field("appended", UTC_TIME, "when this row was committed"),
    _field("month", pa.string(), "YYYY-MM of arrival in UTC; the partition"),
)


def _side(side: str) -> tuple[pa.Field, ...]:
    fields = (
        _field("question", pa.string(), "the question"),
        _field("score", pa.float64(), "alignment of its context with the source record, 0 to 1"),
        *GENERATED,
        _field("context", pa.list_(PASSAGE), "what was retrieved for it, best first"),
    )
    return tuple(field.with_name(f"{field.name}_{side}") for field in fields)


MODE = _field("mode", pa.string(), "how contexts were retrieved (bm25, dense, hybrid)")

CANDIDATE = pa.struct(
    [
        *GENERATED,
        _field("question", pa.string(), "the question, null for a rejected candidate"),
        _field("rejected", pa.string(), "why no attempt was kept"),
        _field("score", pa.float64(), "alignment of its context, null where there is none"),
        _field("unscored", pa.string(), "why there is no score"),
        _field("context", pa.list_(PASSAGE), "what was retrieved for it, best first"),
    ]
)

# What is not used keeps all that a later MeSH, or another edition of it, can be scored with.
UNDECIDED = pa.schema(
    [
        *SOURCE,
        _field("role", pa.string(), "what it was meant for (preference, ideal)"),
        *TEXT,
        _field("outcome", pa.string(), "tie, below the gate or unscorable"),
        _field("reason", pa.string(), "why it is neither preference nor ideal"),
        _field("candidates", pa.list_(CANDIDATE), "the questions there were, best first"),
        _field(
            "answered",
            pa.struct(ANSWERED),
            "the answer that it had as an ideal record, null where it never was one",
        ),
        MARGIN,
        FLOOR,
        *SCORING,
        MODE,
        STANDING,
        *TIMES,
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    PREFERENCES: pa.schema(
        [
            *SOURCE,
            *TEXT,
            *_side("chosen"),
            *_side("rejected"),
            MARGIN,
            *SCORING,
            MODE,
            STANDING,
            *TIMES,
        ]
    ),
    DROPPED: UNDECIDED,
    PARKED: UNDECIDED,
    IDEAL: pa.schema(
        [
            *SOURCE,
            *TEXT,
            _field("question", pa.string(), "q, written by theta3"),
            _field("score", pa.float64(), "alignment of c with the source record, 0 to 1"),
            *GENERATED,
            _field("context", pa.list_(PASSAGE), "c, what was retrieved for q, best first"),
            *ANSWERED,
            FLOOR,
            *SCORING,
            MODE,
            STANDING,
            *TIMES,
        ]
    ),
}


def location(settings: Settings, table: str) -> str:
    """Path or URI of a table."""
    return f"{settings.tables_uri.rstrip('/')}/{table}"


def open_table(settings: Settings, table: str) -> DeltaTable:
    """The newest version of a table. Raises `TableError` where there is none."""
    where = location(settings, table)
    try:
        return DeltaTable(where)
    except TableNotFoundError:
        raise TableError(
            f"there is no table `{table}` at {where}: it is made when the append stage first "
            "runs (`kailin up`), or `tables` in the settings points elsewhere"
        ) from None


def select(settings: Settings, table: str, query: str) -> list[dict[str, Any]]:
    """What a SQL query over a table, called `rows` in it, returns. Raises `TableError`.

    deltalake's own engine answers: reading through pyarrow's file system for Delta leaves threads
    behind that can abort a program which ends soon after.
    """
    engine = QueryBuilder().register("rows", open_table(settings, table))
    found: list[dict[str, Any]] = pa.table(engine.execute(query)).to_pylist()
    return found


def create(settings: Settings, table: str) -> DeltaTable:
    """The table, made empty where it is not there yet.

    Raises `TableError` where a table with other columns lies there.
    """
    try:
        opened = DeltaTable.create(
            location(settings, table),
            SCHEMAS[table],
            mode="ignore",
            partition_by=["month"],
            name=table,
            configuration=CONFIGURATION,
        )
    except (CommitFailedError, DeltaError):
        # Another worker may have made it a moment ago; a store that is away raises here again.
        opened = DeltaTable(location(settings, table))
    check_columns(table, opened)
    return opened


def check_columns(table: str, opened: DeltaTable) -> None:
    """See that a table has our columns, of our types. Raises `TableError`."""
    found = {field.name: field.type for field in pa.schema(opened.schema().to_arrow())}
    for field in SCHEMAS[table]:
        # A list's element is called differently in Delta, so types are compared by their shape.
        if field.name not in found or _shape(field.type) != _shape(found[field.name]):
            raise TableError(
                f"table {opened.table_uri}: column {field.name} should be {field.type}, is "
                f"{found.get(field.name, 'not there')}: written by another version of this "
                "program? Move it away or set `tables` to another place"
            )


def _shape(type: pa.DataType) -> object:
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_list_view(type):
        return ("list", _shape(type.value_type))
    if pa.types.is_struct(type):
        return ("struct", *((field.name, _shape(field.type)) for field in type))
    if pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return "string"
    return str(type)


def row_counts(settings: Settings) -> dict[str, int]:
    """Rows of each table, from the statistics in its log; 0 for one that is not there yet."""
    counts = {}
    for table in SCHEMAS:
        try:
            counts[table] = DeltaTable(location(settings, table)).count()
        except TableNotFoundError:
            counts[table] = 0
    return counts


# What deltalake raises where the store of the tables, or a file in it, cannot be read or written.
STORE_ERRORS = (DeltaError, OSError, pa.ArrowException)


def one_line(error: Exception) -> str:
    """What an error of deltalake says, without line ends and colours."""
    return " ".join(ANSI.sub("", str(error)).split())
