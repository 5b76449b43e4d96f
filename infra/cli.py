"""The command line `kailin`. Each command imports what it needs, so that `--help` is quick."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.cli_acls import show_acls
from infra.cli_backup import backup, restore
from infra.cli_context import DONE, FAILED, WRONG, Config, give_up, settings_of
from infra.cli_dlq import dlq_app
from infra.cli_doctor import doctor
from infra.cli_eval import eval_app
from infra.cli_ingest import ingest_app
from infra.cli_mesh import mesh_app, rescore
from infra.cli_models import models_app
from infra.cli_pause import pause, resume
from infra.cli_reindex import reindex
from infra.cli_tables import tables_app
from infra.cli_trace import trace
from infra.cli_train import train_app, trainer

BENCHES = Path(__file__).parent.parent / "tests" / "bench"

app = typer.Typer(
    name="kailin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(ingest_app, name="ingest")
app.add_typer(dlq_app, name="dlq")
app.add_typer(eval_app, name="eval")
app.add_typer(models_app, name="models")
app.add_typer(tables_app, name="tables")
app.add_typer(train_app, name="train")
app.command()(trainer)
app.command()(rescore)
app.command()(trace)
app.command()(doctor)
app.command()(reindex)
app.command()(backup)
app.command()(restore)
app.command()(pause)
app.command()(resume)
app.command("acls")(show_acls)
app.add_typer(mesh_app, name="mesh")


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
    settings, path = settings_of(context, config)
    from rich.console import Console

    from infra import up as service

    names = service.component_names(settings)
    if unknown := [name for name in only or () if name not in names]:
        give_up(f"--only {unknown[0]}: expected one of {', '.join(names)}", WRONG)
    start = service.up_detached if detach else service.up
    try:
        start(settings, path, only or (), Console())
    except service.FAILURES as error:
        give_up(str(error), FAILED)
    except KeyboardInterrupt:
        give_up("stopped before everything was ready", FAILED)


@app.command()
def down(context: typer.Context, config: Config = None) -> None:
    """Stop the service that runs on the data directory, and wait until all of it is gone.

    Exit codes: 0 nothing runs any more, 1 something still does.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra.down import down as stop

    if not stop(settings.data, Console()):
        give_up(f"something of the service on {settings.data} is still running", FAILED)


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
    settings, _ = settings_of(context, config)
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
    stay: Annotated[
        bool, typer.Option("--stay", help="At the dead-letter limit, stand still and do not end.")
    ] = False,
) -> None:
    """Run one stage's worker in the foreground.

    Start it as often as there are partitions to share its work; each needs a port of its own
    (KAILIN_PORTS__GENERATE=29512). --stay is for what starts again whatever ends, as Kubernetes
    does: a broken stage would drain its topic into the dead letters, a hundred at a time.

    Example: [bold]kailin run generate[/]

    Exit codes: 0 stopped when told to, 1 failed, 2 wrong settings, 3 too many dead letters.
    """
    settings, _ = settings_of(context, config)
    if stage not in settings.ports.stages:
        give_up(f"{stage}: expected a stage, one of {', '.join(settings.ports.stages)}", WRONG)
    from infra import worker

    raise typer.Exit(worker.run(stage, settings, stay=stay))


@app.command()
def deployer(context: typer.Context, config: Config = None) -> None:
    """Keep the champion among the trained models serving, without a gap between two of them.

    `kailin up` runs this where training is enabled; `kailin models` shows and changes the champion.

    Exit codes: 0 stopped when told to, 1 failed, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from infra import deployer_worker

    raise typer.Exit(deployer_worker.run(settings))


@app.command()
def records(
    context: typer.Context,
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="preferences, dropped, parked, ideal")
    ],
    config: Config = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print records of a table for reading.

    Example: [bold]kailin records preferences --limit 5[/]
    """
    settings, _ = settings_of(context, config)
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
        give_up(f"{name}: expected a benchmark, one of {', '.join(names)}", WRONG)
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
    settings, path = settings_of(context, config)
    from infra import demo as main_job

    raise typer.Exit(main_job.run(settings, path, corpus=corpus, new=new))


@app.command("demo-loop")
def demo_loop(
    context: typer.Context,
    config: Config = None,
    corpus: Annotated[int, typer.Option(min=1, help="Records to be searched.")] = 1000,
    new: Annotated[int, typer.Option(min=1, help="Records to be asked about at first.")] = 160,
    ideal: Annotated[int, typer.Option(min=1, help="Ideal rows to wait for.")] = 10,
    patience: Annotated[float, typer.Option(min=1, help="Seconds that a step may take.")] = 1500,
) -> None:
    """The learning loop once around: preference rows, DPO, the gate, a new model, ideal rows.

    Begins from empty tables: what an earlier run left in the data directory is removed. The
    settings of infra/demo_loop.toml are made for two cores.

    Example: [bold]kailin --config infra/demo_loop.toml demo-loop[/]
    """
    settings, path = settings_of(context, config)
    from infra import demo_loop as loop

    raise typer.Exit(
        loop.run(settings, path, corpus=corpus, new=new, ideal=ideal, patience=patience)
    )


def main() -> None:
    app()


if __name__ == "__main__":
    main()
