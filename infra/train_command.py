"""Runs a job in the foreground: `kailin train JOB`."""

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from infra import train_config
from infra.component import write
from infra.models import model_directory
from infra.settings import Settings
from trainers import config
from trainers.config import Optimisation

Name = Literal["sft-generators", "dpo", "cpt", "sft-answers"]

CONFIGS: Mapping[Name, type[config.Job]] = {
    "sft-generators": config.SftGenerators,
    "dpo": config.Dpo,
    "cpt": config.Cpt,
    "sft-answers": config.SftAnswers,
}


def from_file(name: Name, path: Path) -> config.Job:
    """A job's own configuration. Raises `ConfigError`."""
    return config.read(CONFIGS[name], path)


def from_settings(settings: Settings, name: Literal["dpo", "cpt", "sft-answers"]) -> config.Job:
    """A job on the newest data, as the settings have it. Raises as `train_config.prepare` does."""
    id = _new_id(name)
    place = train_config.directory(settings, id)
    return train_config.single(settings, name, id, place)


def sft_generators(
    settings: Settings, generator: str, bioasq: tuple[Path, ...], records: Path | None
) -> config.Job:
    """The job that makes a generator of the model its server has, from BioASQ task B.

    It leaves whole weights, which a server can have as its source. Raises `SettingsError` and
    `ComponentError`.
    """
    id = _new_id(f"sft-{generator}")
    return config.SftGenerators(
        id=id,
        output=train_config.directory(settings, id) / train_config.OUTPUT,
        model=str(model_directory(train_config.generator_source(settings, generator))),
        tracking=train_config.tracking(settings),
        optimisation=Optimisation(learning_rate=2e-5, epochs=3.0),
        merge=True,
        bioasq=tuple(path.resolve() for path in bioasq),
        records=records.resolve() if records else None,
        held_out=settings.training.held_out,
        excluded=train_config.excluded(settings),
        prompt=next(one.prompt for one in settings.generators if one.name == generator),
    )


def run(
    settings: Settings, name: Name, job: config.Job, *, steps: int | None, output: Path | None
) -> int:
    """Run a job and return its exit status; `steps` and `output` replace what it has of them.

    The configuration is written beside the output.
    """
    changes: dict[str, Any] = {"output": (output or job.output).resolve()}
    if steps is not None:
        changes["optimisation"] = job.optimisation.model_copy(update={"steps": steps})
    settled = job.model_copy(update=changes)
    file = settled.output.with_name(f"{settled.output.name}-config.json")
    write(file, settled.model_dump_json(indent=2))
    process = subprocess.Popen(
        train_config.command(settings, train_config.MODULES[name], file),
        env={**os.environ, **train_config.environment(settings)},
    )
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has told the job as well, which ends by itself.
            continue


def _new_id(name: str) -> str:
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
