"""`kailin reindex`: a new search index in place of the old one, while records flow."""

from typing import Annotated

import typer

from infra.cli_context import WRONG, Config, give_up, settings_of


def reindex(
    context: typer.Context,
    config: Config = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Only fill the new index; the old one serves on.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Swap whatever the comparison says.")
    ] = False,
    remove_old: Annotated[
        bool, typer.Option("--remove-old", help="Delete the old index after the swap.")
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option(metavar="INDEX", help="Only delete this one, which does not serve."),
    ] = None,
) -> None:
    """Fill a new index from `pubmed.articles`, compare it with the old one, and swap the two.

    The service goes on meanwhile, and nothing that comes in is missing in the new index. It is as
    the settings have it: where their encoder is another than that of the old index, the stages
    index and retrieve must not be at work at the swap. Stopped or killed, run it again: it goes on
    where it was.

    Examples: [bold]kailin reindex[/], [bold]kailin reindex --remove kailin-articles-000001[/]

    Exit codes: 0 swapped (with --keep: filled; with --remove: deleted), 1 not, the lines say why,
    2 wrong usage or settings.
    """
    if remove and (keep or force or remove_old):
        give_up("--remove: expected by itself", WRONG)
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import logs
    from infra import reindex as command

    logs.configure(settings, "reindex")
    console = Console()
    if remove:
        raise typer.Exit(command.remove(settings, remove, console))
    options = command.Options(force=force, keep=keep, remove_old=remove_old)
    raise typer.Exit(command.run(settings, options, console))
