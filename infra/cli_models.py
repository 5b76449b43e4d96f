"""`kailin models`: the trained models, which of them serves, and putting another in its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from infra.cli_context import FAILED, WRONG, By, Config, give_up, settings_of, signed

models_app = typer.Typer(no_args_is_help=True)

Which = Annotated[
    Literal["theta3", "answers"], typer.Option("--target", help="What the models are for.")
]
Reason = Annotated[
    str, typer.Option(help="Why; it is kept with the version, and told with `serving.models`.")
]


@models_app.callback()
def models() -> None:
    """The trained models: what the gate said of them, and which one serves."""


@models_app.command("list")
def list_models(
    context: typer.Context,
    config: Config = None,
    target: Which = "theta3",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show every version: champion, candidate, the gate's verdict and its reason, newest first.

    Exit codes: 0 shown, 1 MLflow cannot be reached, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import models_view
    from infra.model_registry import ModelRegistry

    with _failing():
        models_view.show(ModelRegistry(settings), target, Console(), as_json=as_json)


@models_app.command()
def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Its number, as in the list.")],
    reason: Reason,
    config: Config = None,
    target: Which = "theta3",
    by: By = None,
) -> None:
    """Make a version the champion, whatever the gate said of it.

    One of theta3 serves within minutes. With one of answers the gate compares the next job's
    model; none of them is served.

    Example: [bold]kailin models promote 3 --reason "blocked by two records, looked at by hand"[/]

    Exit codes: 0 done, 1 no such version, not whole, or MLflow cannot be reached, 2 wrong usage.
    """
    settings, _ = settings_of(context, config)
    who = _signed(by, reason)
    from infra.model_registry import ModelRegistry

    with _failing():
        registry = ModelRegistry(settings)
        chosen = registry.version(target, version)
        before = registry.champion(target)
        if before is not None and before.version == chosen.version:
            typer.echo(f"{chosen.name} is champion already")
            return
        registry.promote(chosen, by=who, reason=reason)
        typer.echo(
            f"{chosen.name} is champion now, in place of {before.name if before else 'none'}"
        )


@models_app.command()
def rollback(
    context: typer.Context,
    reason: Reason,
    config: Config = None,
    target: Which = "theta3",
    by: By = None,
) -> None:
    """Make the version champion that was it before the present one.

    Example: [bold]kailin models rollback --reason "questions in Latin"[/]

    Exit codes: 0 done, 1 there is none to go back to, or MLflow cannot be reached, 2 wrong usage.
    """
    settings, _ = settings_of(context, config)
    who = _signed(by, reason)
    from infra.model_registry import ModelRegistry

    with _failing():
        left, champion = ModelRegistry(settings).rollback(target, by=who, reason=reason)
        typer.echo(f"{champion.name} is champion again, in place of {left.name}")


@models_app.command()
def judge(
    context: typer.Context,
    job: Annotated[str, typer.Option(metavar="ID", help="The job, as in `kailin train status`.")],
    config: Config = None,
    target: Which = "theta3",
) -> None:
    """Register a finished job's model and let the gate decide on it; the trainer does this itself.

    The model is served beside the champion while both write questions for the same held-out
    records (or, for answers, answer PubMedQA's test questions). Run again after whatever stopped
    it, it goes on, and a job that has its verdict keeps it.

    Exit codes: 0 decided, 1 not, 2 wrong usage or settings, 75 not, since something it needs is
    away: run it again.
    """
    settings, _ = settings_of(context, config)
    from infra import judge_command

    raise typer.Exit(judge_command.run(settings, job, target))


def _signed(by: str | None, reason: str) -> str:
    if not reason.strip():
        give_up("--reason: expected why, in a few words", WRONG)
    return signed(by)


@contextmanager
def _failing() -> Iterator[None]:
    from infra.model_registry import RegistryError
    from streams.errors import Transient

    try:
        yield
    except (RegistryError, Transient) as error:
        give_up(str(error), FAILED)
