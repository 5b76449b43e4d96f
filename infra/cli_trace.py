"""`kailin trace PMID`: what became of one record."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from infra.cli_context import Config, settings_of


def trace(
    context: typer.Context,
    pmid: Annotated[int, typer.Argument(metavar="PMID", min=1, max=9_999_999_999)],
    config: Config = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Read the topics from here on (UTC). Else all, or where they are long since the "
            "record is known of.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a record's history: each stage, when, and with what outcome.

    From the topics (each read in the one partition that the record is in), the tables and the
    search index: its arrivals, questions, contexts with their ranks, scores, rows, dead letters,
    and the stages that have not done with it. What has left the topics is told by the rows.

    Example: [bold]kailin trace 31775930[/]

    Exit codes: 0 shown, 1 nothing is known of it or a part could not be looked at, 2 wrong usage.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import history_view

    begin = since.replace(tzinfo=UTC) if since else None
    raise typer.Exit(history_view.show(settings, pmid, begin, Console(), as_json=as_json))
