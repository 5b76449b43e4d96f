"""`kailin tables`: the upkeep of the Delta tables."""

import typer

from infra.cli_context import FAILED, Config, give_up, settings_of

tables_app = typer.Typer(no_args_is_help=True)


@tables_app.callback()
def tables() -> None:
    """The upkeep of the Delta tables, which the append stage sees to by itself, too."""


@tables_app.command()
def maintain(context: typer.Context, config: Config = None) -> None:
    """Join small files, and remove files and log that nobody reads any more.

    Versions stay readable for as long as the tables' configuration says, and those that a job is
    pinned to until it has ended. The service may go on meanwhile.

    Exit codes: 0 done, 1 Kafka (which knows the jobs) or the tables cannot be used, 2 wrong
    settings.
    """
    settings, _ = settings_of(context, config)
    import asyncio

    from infra import table_maintenance
    from infra.kafka import BrokerUnreachable
    from infra.tables import STORE_ERRORS, one_line
    from streams.errors import Transient

    try:
        held = asyncio.run(table_maintenance.pinned(settings))
        for done in table_maintenance.maintain(settings, held):
            typer.echo(
                f"{done.table}: {done.rows:,} rows in {done.files:,} files, {done.files_before:,} "
                f"before; {done.removed:,} old ones removed; version {done.version}"
            )
    except (BrokerUnreachable, Transient) as error:
        give_up(str(error), FAILED)
    except STORE_ERRORS as error:
        give_up(f"tables at {settings.tables_uri}: {one_line(error)}", FAILED)
