"""`kailin train` and `kailin trainer`: the jobs, by hand and by themselves."""

import asyncio
import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.cli_context import FAILED, WRONG, Config, give_up, settings_of

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.train_command import Name
    from trainers.config import Job

train_app = typer.Typer(no_args_is_help=True)

JobConfig = Annotated[
    Path | None,
    typer.Option(
        "--job-config", metavar="FILE", help="The job's own configuration, in place of settings."
    ),
]
Steps = Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after so many.")]
Output = Annotated[Path | None, typer.Option(metavar="DIR", help="For checkpoints and the model.")]


@train_app.callback()
def train() -> None:
    """Train a model in the foreground, or see how training stands."""


@train_app.command("dpo")
def train_dpo(
    context: typer.Context,
    config: Config = None,
    job_config: JobConfig = None,
    max_steps: Steps = None,
    output: Output = None,
) -> None:
    """θ1 and the preference rows to θ3, with the newest rows.

    Nothing is judged or put in place; `kailin trainer` does that with the jobs it starts.

    Example: [bold]kailin train dpo --max-steps 20[/]

    Exit codes: 0 trained, 1 failed, 2 wrong settings, or too little data.
    """
    _from_settings(context, config, "dpo", job_config, max_steps, output)


@train_app.command("cpt")
def train_cpt(
    context: typer.Context,
    config: Config = None,
    job_config: JobConfig = None,
    max_steps: Steps = None,
    output: Output = None,
) -> None:
    """Continued pre-training of the answer model on ideal records.

    Exit codes: 0 trained, 1 failed, 2 wrong settings, or too little data.
    """
    _from_settings(context, config, "cpt", job_config, max_steps, output)


@train_app.command("sft-answers")
def train_sft_answers(
    context: typer.Context,
    config: Config = None,
    job_config: JobConfig = None,
    max_steps: Steps = None,
    output: Output = None,
) -> None:
    """Fine-tuning of the answer model on answered ideal records.

    From the model of the settings; to go on from what `cpt` left, or to train on PubMedQA's PQA-A,
    say so in a configuration of its own (adapter, model, pqa).

    Exit codes: 0 trained, 1 failed, 2 wrong settings, or too little data.
    """
    _from_settings(context, config, "sft-answers", job_config, max_steps, output)


@train_app.command("sft-generators")
def train_sft_generators(
    context: typer.Context,
    config: Config = None,
    generator: Annotated[str, typer.Option(help="theta1 or theta2: whose model is trained.")] = (
        "theta1"
    ),
    bioasq: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="BioASQ task B; may be repeated.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines of pmid, title and abstract of documents."),
    ] = None,
    job_config: JobConfig = None,
    max_steps: Steps = None,
    output: Output = None,
) -> None:
    """A question generator from its base model, with BioASQ task B and Prompt 1.

    It leaves whole weights in <data>/training/<job>/output/model. To serve them, name them in the
    settings: source = "file://…" under [servers.NAME].

    Example: [bold]kailin train sft-generators --generator theta2 --bioasq training12b.json[/]

    Exit codes: 0 trained, 1 failed, 2 wrong usage or settings, or too little data.
    """
    settings, _ = settings_of(context, config)
    names = [each.name for each in settings.generators]
    if generator not in names:
        give_up(f"--generator {generator}: expected one of {', '.join(names)}", WRONG)
    if not (bioasq or job_config):
        give_up("kailin train sft-generators: expected --bioasq FILE or --job-config FILE", WRONG)
    from infra import train_command

    _run(
        settings,
        "sft-generators",
        lambda: train_command.sft_generators(settings, generator, tuple(bioasq or ()), records),
        job_config,
        max_steps,
        output,
    )


@train_app.command()
def status(
    context: typer.Context,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show what runs, what is due, what waits for what, and the last jobs and verdicts.

    Exit codes: 0 shown, 1 Kafka or the tables cannot be reached, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import train_status

    with _reaching():
        found = asyncio.run(train_status.read_status(settings))
        train_status.show(settings, found, Console(), as_json=as_json)


@train_app.command()
def retry(context: typer.Context, config: Config = None) -> None:
    """Have the job of each target that failed tried again at once, as often as one that is new.

    Exit codes: 0 done, 1 Kafka cannot be reached, 2 wrong settings.
    """
    settings, _ = settings_of(context, config)
    from infra import train_status

    with _reaching():
        tried = asyncio.run(train_status.retry(settings, getpass.getuser()))
    for job in tried:
        typer.echo(f"{job.target}: job {job.id} is tried again: {job.reason}")
    if not tried:
        typer.echo("no job waits for that")


def trainer(
    context: typer.Context,
    config: Config = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is due.")] = False,
) -> None:
    """Start training jobs when they are due, have each judged by the gate, one at a time a target.

    `kailin up` runs this where training is enabled. Several may run, on as many machines: one
    works, the others stand in line. With --once it is a job for a scheduler, which gives it a GPU
    now and then: what is due is carried to its end, and what is stopped is gone on with next time.

    Exit codes: 0 done or stopped when told to, 1 failed, 2 wrong settings.
    """
    settings, path = settings_of(context, config)
    from infra import trainer as process
    from infra.up import kailin

    raise typer.Exit(
        process.work(
            settings,
            lambda job: (
                *(*kailin(path), "models", "judge"),
                *("--target", job.target, "--job", job.id),
            ),
            once=once,
        )
    )


def _from_settings(
    context: typer.Context,
    config: Path | None,
    name: Literal["dpo", "cpt", "sft-answers"],
    job_config: Path | None,
    max_steps: int | None,
    output: Path | None,
) -> None:
    settings, _ = settings_of(context, config)
    from infra import train_command

    made = lambda: train_command.from_settings(settings, name)  # noqa: E731
    _run(settings, name, made, job_config, max_steps, output)


def _run(
    settings: "Settings",
    name: "Name",
    made: "Callable[[], Job]",
    job_config: Path | None,
    max_steps: int | None,
    output: Path | None,
) -> None:
    from infra import train_command
    from infra.artifacts import ArtifactError
    from infra.component import ComponentError
    from infra.settings import SettingsError
    from streams.mesh import MeshError
    from trainers.config import ConfigError

    try:
        job = train_command.from_file(name, job_config) if job_config else made()
    except (ConfigError, SettingsError) as error:
        give_up(str(error), WRONG)
    except (ArtifactError, ComponentError, MeshError, OSError) as error:
        give_up(str(error), FAILED)
    raise typer.Exit(train_command.run(settings, name, job, steps=max_steps, output=output))


@contextmanager
def _reaching() -> Iterator[None]:
    from infra.kafka import BrokerUnreachable
    from infra.tables import STORE_ERRORS, one_line
    from streams.errors import Transient

    try:
        yield
    except (BrokerUnreachable, Transient) as error:
        give_up(str(error), FAILED)
    except STORE_ERRORS as error:
        give_up(one_line(error), FAILED)
