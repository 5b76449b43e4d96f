"""`kailin pause` and `kailin resume`: have stages stand still, and go on."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from infra.cli_context import FAILED, WRONG, By, Config, give_up, settings_of, signed

Stages = Annotated[
    list[str], typer.Argument(metavar="STAGE…", help="A stage, ingest (as followed) or trainer.")
]
Why = Annotated[str, typer.Option(help="Why; `kailin status` shows it.")]


def pause(
    context: typer.Context,
    stages: Stages,
    config: Config = None,
    why: Why = "",
    by: By = None,
) -> None:
    """Have stages take nothing more, in all their workers on every machine, until `kailin resume`.

    They finish and commit what they have in hand, and keep their partitions; what comes meanwhile
    waits in Kafka. It holds across restarts. Of ingest only what follows sources stands still,
    while `kailin ingest` by hand goes on; the trainer finishes the job at hand.

    Example: [bold]kailin pause generate answer --why "the teacher is being moved"[/]

    Exit codes: 0 done, 1 Kafka cannot be reached, 2 wrong usage or settings.
    """
    _tell(context, config, stages, paused=True, who=signed(by), why=why)


def resume(
    context: typer.Context,
    stages: Stages,
    config: Config = None,
    why: Why = "",
    by: By = None,
) -> None:
    """Have stages that are paused go on, at once.

    Example: [bold]kailin resume generate answer[/]

    Exit codes: 0 done, 1 Kafka cannot be reached, 2 wrong usage or settings.
    """
    _tell(context, config, stages, paused=False, who=signed(by), why=why)


def _tell(
    context: typer.Context,
    config: Path | None,
    stages: list[str],
    *,
    paused: bool,
    who: str,
    why: str,
) -> None:
    settings, _ = settings_of(context, config)
    from infra import pause as control
    from infra.kafka import BrokerUnreachable
    from streams.errors import Transient

    if unknown := [stage for stage in stages if stage not in control.PAUSABLE]:
        give_up(f"{unknown[0]}: expected one of {', '.join(control.PAUSABLE)}", WRONG)
    try:
        changed = asyncio.run(control.tell(settings, stages, paused=paused, who=who, why=why))
    except (BrokerUnreachable, Transient) as error:
        give_up(str(error), FAILED)
    for told in changed:
        typer.echo(control.line(told))
    for stage in dict.fromkeys(stages):
        if stage not in {told.stage for told in changed}:
            typer.echo(f"{stage} is paused already" if paused else f"{stage} is not paused")
