"""`kailin doctor`: is everything there that the service needs, and as it should be?"""

from typing import Annotated

import typer

from infra.cli_context import Config


def doctor(
    context: typer.Context,
    config: Config = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For scripts; with the settings, without secrets.")
    ] = False,
) -> None:
    """Check settings, secrets, versions, connections, topics, index, tables, disk and ports.

    Each line is ok, a warning or a problem, and says what to do. Nothing is changed, and what is
    down is no reason not to look at the rest. Secrets are never shown.

    Exit codes: 0 no problem (there may be warnings), 1 a problem.
    """
    import asyncio
    import logging

    from rich.console import Console

    from infra import doctor as doctors
    from infra.settings import SettingsError
    from infra.settings_file import load

    # What the clients meet is told here, in lines of ours.
    logging.disable(logging.CRITICAL)
    try:
        settings = load(config or context.find_root().obj)
        found = asyncio.run(doctors.examine(settings))
    except SettingsError as error:
        settings, found = None, doctors.misconfigured(str(error))
    raise typer.Exit(doctors.show(found, settings, Console(), as_json=as_json))
