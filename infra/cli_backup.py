"""`kailin backup` and `kailin restore`: what cannot be replayed, kept elsewhere and put back."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli_context import Config, settings_of


def backup(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Empty, or not there yet.")],
    config: Config = None,
    articles: Annotated[
        bool,
        typer.Option(
            "--articles/--without-articles",
            help="NLM has them, too: without, they are ingested and asked about again.",
        ),
    ] = True,
) -> None:
    """Copy what cannot be replayed: tables, topics, models, and the edition of MeSH in use.

    The service goes on meanwhile, only `kailin rescore` should not run. The search index is left
    out, since it is filled from the articles. DIR is a whole backup once it has a manifest.json.

    Example: [bold]kailin backup /mnt/backup/2026-03-07[/]

    Exit codes: 0 done, 1 not, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import backup as command
    from infra import logs

    logs.configure(settings, "backup")
    raise typer.Exit(command.run(settings, directory, articles=articles, console=Console()))


def restore(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A whole backup.")],
    config: Config = None,
) -> None:
    """Put a backup into an empty deployment, whose Kafka and Elasticsearch run and nothing else.

    The search index is not in it. Let the index stage fill it before the others go on: what is
    asked of an empty index finds nothing. So, each after the one before, with `kailin down` in
    between:

    kailin up --detach --only kafka --only elasticsearch, and kailin restore DIR

    kailin up --detach --only kafka --only elasticsearch --only index, until status shows no lag

    kailin up

    Exit codes: 0 done, 1 not: the backup is not whole, or something is there already, 2 wrong
    settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import logs
    from infra import restore as command

    logs.configure(settings, "restore")
    raise typer.Exit(command.run(settings, directory, Console()))
