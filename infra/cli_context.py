"""What every command of `kailin` starts from: the option for its settings, and how it gives up."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from infra.settings import Settings

DONE, FAILED, WRONG = 0, 1, 2

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="KAILIN_CONFIG",
        metavar="PATH",
        help="Settings file (TOML). Without it kailin.toml, where there is one.",
    ),
]

By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; else the user's own name.")
]


def settings_of(context: typer.Context, config: Path | None) -> "tuple[Settings, Path | None]":
    """The settings and the file they came from. Ends the program where they are wrong."""
    from infra.settings import SettingsError
    from infra.settings_file import load

    path = config or context.find_root().obj
    try:
        return load(path), path
    except SettingsError as error:
        give_up(str(error), WRONG)


def give_up(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def signed(by: str | None) -> str:
    """Who has decided: the name given, or the user's. Ends the program where there is none."""
    try:
        return (by or getpass.getuser()).strip() or "unknown"
    except (KeyError, OSError):
        give_up("--by: expected a name, since this user has none", WRONG)


def say(console: "Console", line: str) -> None:
    """Print a line as it is: neither wrapped nor coloured, whatever it holds."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
