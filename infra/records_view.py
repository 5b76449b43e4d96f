"""`kailin records TABLE`: the newest rows of a table, for a person to read.

`kailin records preferences --limit 5`; `--json` prints one JSON object a line.
"""

from collections.abc import Callable
from typing import Any

import orjson
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.settings import Settings
from infra.tables import DROPPED, PARKED, SCHEMAS, TableError, select

Row = dict[str, Any]


def show(
    table: str,
    settings: Settings,
    limit: int,
    *,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Print the `limit` rows appended last, newest first; the exit status.

    1 where there is no such table yet, 2 for a name that no table has.
    """
    out = console or Console()
    if table not in SCHEMAS:
        out.print(Text(f"there is no table {table!r}: expected one of {', '.join(SCHEMAS)}"))
        return 2
    try:
        rows = newest(table, settings, limit)
    except TableError as error:
        out.print(Text(str(error)), soft_wrap=True)
        return 1
    if as_json:
        for row in rows:
            line = orjson.dumps(row, option=orjson.OPT_UTC_Z).decode()
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
    if not rows:
        out.print(Text(f"table {table} has no rows yet"))
    render: Callable[[Row], Panel] = _undecided if table in (DROPPED, PARKED) else _record
    for row in rows:
        out.print(render(row))
    return 0


def newest(table: str, settings: Settings, limit: int) -> list[Row]:
    """The `limit` rows appended last, newest first. Raises `TableError` where there is no table."""
    return select(
        settings,
        table,
        f"select * from rows order by appended desc, id limit {limit}",  # noqa: S608
    )


def _record(row: Row) -> Panel:
    """A row of `preferences`, or of `ideal`."""
    parts: list[Any] = []
    for side, sign in (("_chosen", "q+"), ("_rejected", "q−"), ("", "q")):
        if f"question{side}" in row:
            generator = f"{row[f'generator{side}']}@{row[f'revision{side}']}"
            parts.append(_question(sign, row[f"question{side}"], row[f"score{side}"], generator))
            parts.append(_context(row[f"context{side}"]))
    if row.get("answerer"):
        parts.append(_answer(row))
    return _panel(row, parts, f"{row['mode']} retrieval")


def _undecided(row: Row) -> Panel:
    """A row of `dropped` or `parked`."""
    why = f"{row['outcome']}: {row['reason']}" if row["reason"] else row["outcome"]
    parts: list[Any] = [Text(why, style="yellow")]
    for candidate in row["candidates"]:
        text = candidate["question"] or f"(no question: {candidate['rejected']})"
        generator = f"{candidate['generator']}@{candidate['revision']}"
        score = candidate["score"] if candidate["unscored"] is None else candidate["unscored"]
        parts.append(_question("q ", text, score, generator))
    how = f"floor {row['floor']:g}" if row["role"] == "ideal" else f"margin {row['margin']:g}"
    return _panel(row, parts, how)


def _panel(row: Row, parts: list[Any], how: str) -> Panel:
    if row["retracted"]:
        parts.insert(0, Text(f"stands no more: {row['retracted']}", style="bold red"))
    return Panel(
        Group(*parts),
        title=Text(row["title"], style="bold", overflow="fold"),
        title_align="left",
        subtitle=Text(
            f"PMID {row['pmid']} · {how} · MeSH {row['mesh_edition']}, {row['frequency']} · "
            f"arrived {row['arrived']:%Y-%m-%d %H:%M} UTC"
        ),
        subtitle_align="left",
    )


def _question(sign: str, question: str, score: float | str | None, generator: str) -> Text:
    value = f"{score:.3f}" if isinstance(score, float) else (score or "no score")
    return Text.assemble((f"{sign}  ", "bold"), question, (f"  {value}", "cyan"), f"  {generator}")


def _answer(row: Row) -> Text:
    text = row["answer"] or f"(no answer: {row['answer_rejected']})"
    model = f"{row['answer_model']}@{row['answer_revision']}"
    answer = Text.assemble(("a  ", "bold"), text, f"  {row['answerer']} ({model})")
    return answer.append(f"\n   {row['answer_long']}") if row["answer_long"] else answer


def _context(passages: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(width=4)
    table.add_column(style="dim", justify="right")
    table.add_column()
    table.add_column(style="dim", no_wrap=True)
    for passage in passages:
        ranks = [
            f"{name} {passage[key]}"
            for name, key in (("BM25", "bm25_rank"), ("dense", "dense_rank"))
            if passage[key] is not None
        ]
        table.add_row("", str(passage["pmid"]), Text(passage["title"]), ", ".join(ranks))
    return table
