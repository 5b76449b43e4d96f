"""The command line `kailin`. Each command imports what it needs, so that `--help` is quick."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from infra.settings import Settings

DONE, FAILED, WRONG = 0, 1, 2
BENCHES = Path(__file__).parent.parent / "tests" / "bench"

app = typer.Typer(
    name="kailin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
ingest_app = typer.Typer(no_args_is_help=True, help="Bring records in.")
app.add_typer(ingest_app, name="ingest")

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


@app.callback()
def kailin(context: typer.Context, config: Config = None) -> None:
    """Reads PubMed records, turns each into training data measured against MeSH.

    [bold]From nothing to a look at the result[/]

    kailin up --detach        start Kafka, Elasticsearch, vLLM and the stages

    kailin ingest files x.xml.gz        publish the records of a PubMed file

    kailin status --watch        see them go through the stages

    kailin records preferences        read what came out

    kailin down        stop everything

    [bold]Settings[/] come from a TOML file and the environment (KAILIN_KAFKA__PORT=9092 sets port
    of the section kafka); infra/kailin.example.toml explains each.

    [bold]Exit codes[/]: 0 done, 1 failed, 2 wrong usage or settings.
    """
    context.obj = config


@app.command()
def up(
    context: typer.Context,
    config: Config = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when everything is ready.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Start this one only; may be repeated."),
    ] = None,
) -> None:
    """Start every component and keep it running, until Ctrl-C or `kailin down`.

    Engines that the settings place elsewhere (kafka.bootstrap, elasticsearch.url,
    servers.NAME.url) are used there and not started. What dies is started again, but for a stage
    that reached its dead-letter limit. Logs are in <data>/logs.

    Examples: [bold]kailin up[/], [bold]kailin up --detach[/],
    [bold]kailin up --only kafka --only index[/]

    Exit codes: 0 stopped when told to (with --detach: ready), 1 could not start, 2 wrong settings.
    """
    settings, path = _settings(context, config)
    from rich.console import Console

    from infra import up as service

    names = service.component_names(settings)
    if unknown := [name for name in only or () if name not in names]:
        _stop(f"--only {unknown[0]}: expected one of {', '.join(names)}", WRONG)
    start = service.up_detached if detach else service.up
    try:
        start(settings, path, only or (), Console())
    except service.FAILURES as error:
        _stop(str(error), FAILED)
    except KeyboardInterrupt:
        _stop("stopped before everything was ready", FAILED)


@app.command()
def down(context: typer.Context, config: Config = None) -> None:
    """Stop the service that runs on the data directory, and wait until all of it is gone.

    Exit codes: 0 nothing runs any more, 1 something still does.
    """
    settings, _ = _settings(context, config)
    from rich.console import Console

    from infra.down import down as stop

    if not stop(settings.data, Console()):
        _stop(f"something of the service on {settings.data} is still running", FAILED)


@app.command()
def status(
    context: typer.Context,
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep it live.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show components, each stage's rate, lag and errors, and the tables' rows.

    Rates are of the last second. A stage that does not answer on its port is shown as down.

    Exit codes: 0 everything is ready, 1 something is not, or nothing runs.
    """
    settings, _ = _settings(context, config)
    from rich.console import Console

    from infra import status as view

    try:
        healthy = view.show(settings, Console(), watch=watch, as_json=as_json)
    except KeyboardInterrupt:
        return
    if not healthy:
        raise typer.Exit(FAILED)


@app.command()
def run(
    context: typer.Context,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="index, generate, retrieve, …")],
    config: Config = None,
) -> None:
    """Run one stage's worker in the foreground.

    Start it as often as there are partitions to share its work; each needs a port of its own
    (KAILIN_PORTS__GENERATE=29412).

    Example: [bold]kailin run generate[/]

    Exit codes: 0 stopped when told to, 1 failed, 2 wrong settings, 3 too many dead letters.
    """
    settings, _ = _settings(context, config)
    if stage not in settings.ports.stages:
        _stop(f"{stage}: expected a stage, one of {', '.join(settings.ports.stages)}", WRONG)
    from infra import stages

    raise typer.Exit(stages.run(stage, settings))


@ingest_app.command("files")
def ingest_files(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files or directories.")],
    config: Config = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="As corpus: searched, but not asked about.")
    ] = False,
) -> None:
    """Publish the citations of PubMed XML files, plain or gzip, each confirmed by the broker.

    Examples: [bold]kailin ingest files pubmed24n0001.xml.gz[/],
    [bold]kailin ingest files --backfill baseline/[/]

    Exit codes: 0 all published, 1 a file is damaged (what came before the damage is published).
    """
    settings, _ = _settings(context, config)
    from infra import ingest

    raise typer.Exit(ingest.ingest_files(paths, settings, backfill))


@app.command()
def records(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="preferences, ideal, dropped")],
    config: Config = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print records of a table for reading.

    Example: [bold]kailin records preferences --limit 5[/]
    """
    settings, _ = _settings(context, config)
    from infra import records_view

    raise typer.Exit(records_view.show(table, settings, limit, as_json=as_json))


@app.command()
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Without it: the list of benchmarks.")] = None,
) -> None:
    """Run a benchmark of this checkout (tests/bench) and print its ratios.

    Example: [bold]kailin bench parse[/]
    """
    names = sorted(path.stem for path in BENCHES.glob("[a-z]*.py"))
    if name is None:
        typer.echo("\n".join(names))
    elif name not in names:
        _stop(f"{name}: expected a benchmark, one of {', '.join(names)}", WRONG)
    else:
        done = subprocess.run([sys.executable, BENCHES / f"{name}.py"], check=False)
        raise typer.Exit(DONE if done.returncode == 0 else FAILED)


@app.command()
def demo(
    context: typer.Context,
    config: Config = None,
    corpus: Annotated[int, typer.Option(min=1, help="Records to be searched.")] = 3000,
    new: Annotated[int, typer.Option(min=1, help="Records to be asked about.")] = 100,
) -> None:
    """The main job: real records through every stage, and a look at what was made of them.

    Loads part of a PubMed baseline file as corpus, once, and then other records of it as new; run
    again, it goes on with records that were not asked about yet.

    Example: [bold]kailin demo --new 20[/]
    """
    settings, path = _settings(context, config)
    from infra import demo as main_job

    raise typer.Exit(main_job.run(settings, path, corpus=corpus, new=new))


def _settings(context: typer.Context, config: Path | None) -> "tuple[Settings, Path | None]":
    """The settings and the file they came from. Ends the program where they are wrong."""
    from infra.settings import SettingsError, load

    path = config or context.find_root().obj
    try:
        return load(path), path
    except SettingsError as error:
        _stop(str(error), WRONG)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
