"""The configuration of each job from the settings, as a file that `python -m trainers.JOB` reads.

A job lies in <data>/training/<id>: for each step a configuration, and a directory for its output.
The output goes with the configuration. Where the settings have changed meanwhile, it is removed and
the step begins again: checkpoints of other settings must not be gone on from.
"""

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra import mesh_edition, mlflow_environment
from infra.component import write
from infra.mesh_files import read_mesh, source_path
from infra.models import model_directory
from infra.settings import Settings, SettingsError
from infra.tables import location
from streams.learning import Job, JobKind, Target
from trainers import config, result
from trainers.config import Cpt, Data, Dpo, SftAnswers, Tracking
from trainers.triggers import OPEN, STEPS, TABLES

MODULES: Mapping[str, str] = {
    "sft-generators": "trainers.sft_generators",
    "dpo": "trainers.dpo",
    "cpt": "trainers.cpt",
    "sft-answers": "trainers.sft_answers",
}
OUTPUT = "output"
# Jobs of a target whose directories stay.
KEPT = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a job that is a process of its own. It is done once `output` has a result."""

    kind: JobKind
    config: Path
    output: Path

    @property
    def module(self) -> str:
        return MODULES[self.kind]

    @property
    def done(self) -> bool:
        return result.read(self.output) is not None


def directory(settings: Settings, job: str) -> Path:
    """Where a job lies."""
    return settings.data.resolve() / "training" / job


def log_file(settings: Settings, job: str) -> Path:
    """Where the processes of a job write what they have to say."""
    return settings.data.resolve() / "logs" / f"job-{job}.log"


def output_of(place: Path, target: Target, kind: JobKind) -> Path:
    """Where a step of the job that lies in `place` leaves its result and its model."""
    return place / (OUTPUT if kind == STEPS[target][-1] else kind)


def prepare(settings: Settings, job: Job) -> tuple[Step, ...]:
    """The steps of a job, their configurations written.

    Blocks: a model may have to be fetched or converted. Raises `SettingsError`, `ComponentError`,
    `ArtifactError`, `MeshError` and `OSError`.
    """
    place = directory(settings, job.id)
    made = configs(settings, job.target, job.id, place, version=job.data_version)
    steps = []
    changed = False
    for kind, settled in made:
        path = place / ("config.json" if settled.output.name == OUTPUT else f"{kind}.json")
        text = settled.model_dump_json(indent=2)
        # What a later step was made of is made anew, then.
        changed = changed or not path.exists() or path.read_text() != text
        if changed and settled.output.exists():
            shutil.rmtree(settled.output)
        write(path, text)
        steps.append(Step(kind, path, settled.output))
    return tuple(steps)


def configs(
    settings: Settings, target: Target, id: str, place: Path, *, version: int | None
) -> tuple[tuple[JobKind, config.Job], ...]:
    """The configuration of each step of a job in the directory `place`, in their order.

    None for `version` is the newest when the step begins. Raises as `prepare` does.
    """
    data = Data(
        table=location(settings, TABLES[target]),
        version=version,
        held_out=settings.training.held_out,
        excluded=excluded(settings),
    )
    made: tuple[config.Job, ...]
    if target == "theta3":
        pinned = data.model_copy(update={"branches": _branches(settings, place)})
        made = (_dpo(settings, id, place, pinned),)
    else:
        made = _answers(settings, id, place, data)
    return tuple(zip(STEPS[target], made, strict=True))


def single(settings: Settings, kind: JobKind, id: str, place: Path) -> config.Job:
    """The configuration of one step by itself, on the newest data. Raises as `prepare` does."""
    if kind == "dpo":
        return configs(settings, "theta3", id, place, version=None)[0][1]
    (_, cpt), (_, sft) = configs(settings, "answers", id, place, version=None)
    if kind == "cpt":
        return cpt
    return sft.model_copy(update={"model": cpt.model, "adapter": None, "merge": False})


def command(settings: Settings, module: str, file: Path) -> tuple[str, ...]:
    """The command line of a job."""
    return (*(settings.training.launcher or (sys.executable,)), "-m", module, "--config", str(file))


def environment(settings: Settings) -> dict[str, str]:
    """What a job's environment has besides that of this process; it holds secrets."""
    # Programs such as accelerate lie beside Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**mlflow_environment.environment(settings), "PATH": path}


def excluded(settings: Settings) -> tuple[Path, ...]:
    """The files of PMIDs that are never trained on; also those of the gate."""
    files = (*settings.training.excluded, settings.gate.pubmedqa, settings.gate.pubmedqa_test)
    return tuple(dict.fromkeys(file.expanduser().resolve() for file in files if file))


def tracking(settings: Settings) -> Tracking:
    """Where runs are logged; credentials come by the environment."""
    return Tracking(uri=settings.mlflow_uri, experiment=settings.mlflow.experiment)


def generator_source(settings: Settings, name: str) -> str:
    """The model that a generator is trained from. Raises `SettingsError` where none is named."""
    generator = next(each for each in settings.generators if each.name == name)
    server = settings.servers[generator.server]
    if server.embedded or "source" in server.model_fields_set:
        return server.source
    raise SettingsError(
        f"servers.{generator.server}.source: expected the model that {name} is trained from "
        "(hf://, file:// or pypi://), since the server itself is elsewhere (url)"
    )


def tidy(settings: Settings, jobs: Collection[Job], serving: Collection[str]) -> None:
    """Remove the directories of old jobs: of each target the last `KEPT` stay.

    So do those of jobs that have not ended, and of models that serve, by name. Raises `OSError`.
    """
    for target in STEPS:
        ours = [job for job in jobs if job.target == target]
        ours.sort(key=lambda job: (job.newest, job.data_version), reverse=True)
        for job in ours[KEPT:]:
            place = directory(settings, job.id)
            if job.state not in OPEN and job.model not in serving and place.exists():
                shutil.rmtree(place)


def _dpo(settings: Settings, id: str, place: Path, data: Data) -> Dpo:
    return Dpo(
        id=id,
        output=place / OUTPUT,
        model=str(model_directory(generator_source(settings, settings.theta3.origin))),
        tracking=tracking(settings),
        optimisation=settings.dpo.optimisation,
        lora=settings.dpo.lora,
        data=data,
        selection=settings.dpo.selection,
        beta=settings.dpo.beta,
        prompt=settings.theta3.prompt,
    )


def _answers(settings: Settings, id: str, place: Path, data: Data) -> tuple[Cpt, SftAnswers]:
    """Both steps. What the first leaves in `place` must not be needed once the second is done.

    So an adapter is gone on with as it is, and where only one of them has an adapter, its weights
    are merged.
    """
    first, second = settings.cpt.lora, settings.sft_answers.lora
    chained = first is not None and second is not None
    if not settings.training.answers_source:
        raise SettingsError(
            "training.answers_source: expected the model that the answer model is trained from "
            "(hf://, file:// or pypi://)"
        )
    base = str(model_directory(settings.training.answers_source))
    cpt = Cpt(
        id=f"{id}-cpt",
        output=place / "cpt",
        model=base,
        tracking=tracking(settings),
        optimisation=settings.cpt.optimisation,
        lora=first,
        merge=first is not None and not chained,
        data=data,
    )
    trained = cpt.output / result.MODEL
    sft = SftAnswers(
        id=id,
        output=place / OUTPUT,
        model=base if chained else str(trained),
        adapter=trained if chained else None,
        tracking=tracking(settings),
        optimisation=settings.sft_answers.optimisation,
        lora=second,
        merge=second is not None and not chained,
        data=data,
    )
    return cpt, sft


def _branches(settings: Settings, place: Path) -> Path:
    """The letters of each descriptor's branches, of the edition in use, as a file in the job.

    It is written once, so that a job that is started again chooses the same rows.
    """
    path = place / "branches.tsv"
    if not path.exists():
        edition = mesh_edition.current(settings)
        lines = (
            f"{each.ui}\t{letters}\n"
            for each in read_mesh(source_path(edition), edition.edition).descriptors
            if (letters := "".join(sorted({number[0] for number in each.tree_numbers})))
        )
        write(path, "".join(lines))
    return path
