"""`kailin ingest`: the commands that bring records in."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from infra.cli_context import WRONG, Config, give_up, settings_of

ingest_app = typer.Typer(no_args_is_help=True, help="Bring records in.")

Backfill = Annotated[
    bool, typer.Option("--backfill", help="As corpus: searched, but not asked about.")
]
Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on for ever with what is new and changed.")
]


@ingest_app.command("files")
def ingest_files(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files or directories.")],
    config: Config = None,
    backfill: Backfill = False,
) -> None:
    """Publish the citations of PubMed XML files, plain or gzip, each confirmed by the broker.

    Examples: [bold]kailin ingest files pubmed24n0001.xml.gz[/],
    [bold]kailin ingest files --backfill baseline/[/]

    Exit codes: 0 all published, 1 a file is damaged (what came before the damage is published).
    """
    settings, _ = settings_of(context, config)
    from infra import ingest_commands

    raise typer.Exit(ingest_commands.ingest_files(paths, settings, backfill))


@ingest_app.command("pmids")
def ingest_pmids(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="One PMID a line; # for remarks.")],
    config: Config = None,
    backfill: Backfill = False,
) -> None:
    """Fetch the citations of a list of PMIDs from PubMed.

    Those that NCBI does not give are named, and asked for again by `kailin ingest retry`.

    Exit codes: 0 all are read, 1 some are not, 2 the list or the settings are wrong.
    """
    settings, _ = settings_of(context, config)
    from infra import ingest_commands

    raise typer.Exit(ingest_commands.ingest_pmids(path, settings, backfill))


@ingest_app.command("entrez")
def ingest_entrez(
    context: typer.Context,
    query: Annotated[str, typer.Option(metavar="Q", help="As typed into PubMed's search box.")],
    config: Config = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="What entered or changed from this day on (YYYY-MM-DD)."
        ),
    ] = None,
    follow: Follow = False,
    backfill: Backfill = False,
) -> None:
    """Fetch what a query finds in PubMed, whole windows at a time.

    The first run reads everything that the query finds, a later one what entered or changed since
    the last. NCBI wants an e-mail address in the settings (ncbi.email), and with an API key it
    answers 10 requests a second instead of 3. Windows that fail are shown by `kailin status`.

    Examples: [bold]kailin ingest entrez --query "diabetes[mh]" --since 2026-01-01[/],
    [bold]kailin ingest entrez --query "diabetes[mh]" --follow[/]

    Exit codes: 0 all windows are read, 1 some are not, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from infra import ingest_commands

    day = since.date() if since else None
    raise typer.Exit(
        ingest_commands.ingest_entrez(settings, query, since=day, backfill=backfill, follow=follow)
    )


@ingest_app.command("nlm")
def ingest_nlm(
    context: typer.Context,
    config: Config = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="The yearly baseline, as corpus.")
    ] = False,
    updates: Annotated[
        bool, typer.Option("--updates", help="The update files, as new records.")
    ] = False,
    follow: Follow = False,
) -> None:
    """Apply NLM's baseline and update files, each once and in their order.

    Records that came from an earlier year's files and are not in a new baseline are deleted once
    the whole of it is applied. A file that is missing from the sequence is named.

    Examples: [bold]kailin ingest nlm --baseline --updates --follow[/]

    Exit codes: 0 all files are applied, 1 some are not, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    if not (baseline or updates):
        give_up("kailin ingest nlm: expected --baseline, --updates or both", WRONG)
    from infra import ingest_commands

    raise typer.Exit(
        ingest_commands.ingest_nlm(settings, baseline=baseline, updates=updates, follow=follow)
    )


@ingest_app.command("follow")
def ingest_follow(context: typer.Context, config: Config = None) -> None:
    """Follow the sources that the settings name (follow.nlm, follow.entrez), for ever.

    `kailin up` runs this where they name any.

    Exit codes: 0 stopped when told to, 1 failed, 2 wrong settings, or none that name a source.
    """
    settings, _ = settings_of(context, config)
    if not settings.follow.any:
        give_up('follow: names no source; set follow.nlm = ["updates"] or follow.entrez', WRONG)
    from infra import ingest_commands

    raise typer.Exit(ingest_commands.follow_all(settings))


@ingest_app.command("retry")
def ingest_retry(context: typer.Context, config: Config = None) -> None:
    """Read once more the windows and files that failed, and the citations that were not given.

    Exit codes: 0 all are read now, 1 some are not, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from infra import ingest_commands

    raise typer.Exit(ingest_commands.retry(settings))
