"""`kailin acls`: what each process may do on Kafka, for a user of its own."""

import asyncio
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli_context import FAILED, WRONG, Config, give_up, settings_of

if TYPE_CHECKING:
    from infra.acls import Binding
    from infra.settings import Settings


def show_acls(
    context: typer.Context,
    processes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROCESS",
            help="Only of these: a stage, ingest, operator, ….",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    principal: Annotated[
        str,
        typer.Option(help="Who the processes are to the broker, {process} being each one's name."),
    ] = "User:kailin-{process}",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make them on the broker, as the settings' own user.")
    ] = False,
) -> None:
    """Show the access control lists that the processes need, as commands of kafka-acls.sh.

    Each process then runs with a user of its own (KAILIN_KAFKA__USERNAME). With --apply what the
    broker lacks is made, and what these users hold beside is shown as commands that remove it.

    Example: [bold]kailin acls --principal "User:CN={process}" score[/]

    Exit codes: 0 done, 1 the broker refuses or cannot be reached, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    from infra.access import ACCESS
    from infra.acls import bindings

    if unknown := set(processes or ()) - ACCESS.keys():
        give_up(f"{', '.join(sorted(unknown))}: expected one of {', '.join(ACCESS)}", WRONG)
    if not all(principal.partition(":")):
        give_up(f"--principal {principal}: expected TYPE:NAME, as User:kailin-{{process}}", WRONG)
    wanted = bindings(settings, principal, processes or ACCESS)
    if apply:
        _apply(settings, wanted)
    else:
        _show(settings, wanted, as_json=as_json)


def _apply(settings: "Settings", wanted: "list[Binding]") -> None:
    from infra.acls import AclError, apply, commands
    from infra.kafka import BrokerUnreachable

    try:
        made, beside = asyncio.run(apply(settings, wanted))
    except (AclError, BrokerUnreachable) as error:
        give_up(str(error), FAILED)
    typer.echo(f"{len(made)} made, {len(wanted) - len(made)} there already")
    if beside:
        typer.echo(f"{len(beside)} that no process needs; they are taken away by")
        for line in commands(settings, beside, remove=True):
            typer.echo(line)


def _show(settings: "Settings", wanted: "Iterable[Binding]", *, as_json: bool) -> None:
    from infra import acls

    lines = (
        map(json.dumps, map(acls.as_json, wanted)) if as_json else acls.commands(settings, wanted)
    )
    for line in lines:
        typer.echo(line)
