"""The configuration of every job: typed, checked and printed before torch is imported.

A job reads one file, TOML or JSON by its name: `python -m trainers.dpo --config dpo.toml`.
"""

import json
import sys
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from streams.prompts import ANSWER_PROMPTS, PRETRAINING_PROMPTS, QUESTION_PROMPTS

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

HELD_OUT = 0.1

C = TypeVar("C", bound="Job")


def _one_of(known: Mapping[str, str], name: str) -> str:
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}, got {name!r}")
    return name


QuestionPrompt = Annotated[str, AfterValidator(partial(_one_of, QUESTION_PROMPTS))]
PretrainingPrompt = Annotated[str, AfterValidator(partial(_one_of, PRETRAINING_PROMPTS))]
AnswerPrompt = Annotated[str, AfterValidator(partial(_one_of, ANSWER_PROMPTS))]


class ConfigError(Exception):
    """A job's configuration is wrong; a line for each fault: key, value, what was expected."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Section):
    """Adapters of rank `rank` on the named modules, or on all linear layers."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    modules: tuple[str, ...] = ("all-linear",)


# `lora = false` is how TOML says None: all parameters are trained.
Adapter = Annotated[Lora | None, BeforeValidator(lambda given: None if given is False else given)]


class Optimisation(Section):
    """How a job trains. Lengths in tokens; `steps` of -1 means as many as `epochs` take.

    A batch is of one device; the effective one is `batch` × `accumulation` × devices. With
    `packing`, which SFT jobs alone can do, an example of a batch is `max_length` tokens of as many
    texts as fit. `evaluate_rows` bounds how many held-out rows the loss is measured on.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(gt=0)] = 1.0
    steps: int = -1
    batch: Positive = 4
    accumulation: Positive = 4
    max_length: Annotated[int, Field(ge=16)] = 1024
    warmup: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    packing: bool = True
    checkpointing: bool = False
    save_every: Positive = 50
    log_every: Positive = 5
    evaluate_every: Positive = 50
    evaluate_rows: Positive = 200


class Selection(Section):
    """Which preference rows are trained on.

    `margin` is the least gap of the two scores; `days` the longest since a row was appended;
    `revisions` maps a generator's name to those of its revisions that count (else all do);
    `branch_share` bounds the share of rows in one MeSH branch (A to Z); `most` the number of rows.
    """

    margin: Share = 0.0
    days: Annotated[float, Field(gt=0)] | None = None
    revisions: Mapping[str, tuple[str, ...]] = {}
    branch_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    most: Positive | None = None


class Data(Section):
    """The table that a job reads (a path or URI), pinned to a version.

    `held_out` is the share of PMIDs that are never trained on. `excluded` are files of PMIDs:
    PubMedQA's or BioASQ's JSON, or a PMID on each line. What an object store asks for is taken
    from the environment, as by the append stage.
    """

    table: str
    version: Annotated[int, Field(ge=0)] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = HELD_OUT
    excluded: tuple[Path, ...] = ()
    # A file with a descriptor UI, a tab and its branches' letters on each line (dpo only).
    branches: Path | None = None


class Tracking(Section):
    """Where the run is logged: an MLflow tracking URI, and the experiment's name."""

    uri: str
    experiment: str = "kailin"


class Job(Section):
    """What every job has. `id` names the run, so that a job that is started again goes on with it.

    `model` is a directory in Hugging Face's format, or a name on the Hub; `adapter` a LoRA adapter
    on it to go on from. Checkpoints, the model and result.json go to `output`. With `merge`, the
    model is whole weights where it would else be an adapter. `dtype` is what is computed in; `auto`
    is bfloat16 where the device has it.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    output: Path
    model: str
    adapter: Path | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    seed: int = 0
    tracking: Tracking
    optimisation: Optimisation
    lora: Adapter = Lora()
    merge: bool = False

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.adapter and not self.lora:
            raise ValueError(
                "adapter: all parameters are to be trained (lora is false); expected a model that "
                "the adapter is merged into (`python -m trainers.merge`), and no adapter"
            )
        return self


class Dpo(Job):
    """θ1 with P to θ3 (KAILIN, section 2)."""

    data: Data
    selection: Selection = Selection()
    beta: Annotated[float, Field(gt=0)] = 0.1
    prompt: QuestionPrompt = "question/1"


class SftGenerators(Job):
    """A question generator from a base model on BioASQ task B with Prompt 1.

    `bioasq` are its JSON files. `records` is a JSON-lines file of {pmid, title, abstract} for the
    documents; what it lacks is made of the questions' snippets.
    """

    bioasq: tuple[Path, ...] = Field(min_length=1)
    records: Path | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = HELD_OUT
    excluded: tuple[Path, ...] = ()
    prompt: QuestionPrompt = "question/1"


class Cpt(Job):
    """Continued pre-training on I1 (KAILIN, Figure 4)."""

    data: Data
    prompt: PretrainingPrompt = "pretraining/1"


class SftAnswers(Job):
    """SFT on I2, or on a file in PQA-A's layout in place of `data` (KAILIN, Figure 3).

    `held_out` and `excluded` are those of the file.
    """

    data: Data | None = None
    pqa: Path | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = HELD_OUT
    excluded: tuple[Path, ...] = ()
    prompt: AnswerPrompt = "answer/1"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.pqa is None):
            raise ValueError("expected either data, a table, or pqa, a file of PubMedQA")
        if self.data is not None and (self.excluded or self.held_out != HELD_OUT):
            raise ValueError("held_out and excluded: expected under data, where the table is")
        return self


def read(config: type[C], path: Path) -> C:
    """A job's configuration. Raises `ConfigError`."""
    try:
        text = path.read_text()
        values: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not valid {kind}: {error}") from None
    try:
        return config.model_validate(values)
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(map(str, wrong['loc'])) or 'all of it'}: {wrong['msg']}"
            for wrong in error.errors()
        )
        raise ConfigError("\n".join(lines)) from None


def check_paths(config: Job, path: Path) -> None:
    """Raise `ConfigError` where a model that is a directory, or an adapter, is not one."""
    model, looks = Path(config.model).expanduser(), ("/", "./", "../", "~")
    if config.model.startswith(looks) and not (model / "config.json").is_file():
        raise ConfigError(
            f"{path}: model: {model} holds no config.json; expected a model's directory in Hugging "
            "Face's format, or a name on its Hub"
        )
    if config.adapter and not (config.adapter / "adapter_config.json").is_file():
        raise ConfigError(
            f"{path}: adapter: {config.adapter} holds no adapter_config.json; expected the "
            "directory of a LoRA adapter"
        )


def show(config: Job) -> None:
    """Print the configuration as it will be used, but for passwords."""
    tracking = config.tracking.model_copy(update={"uri": shown(config.tracking.uri)})
    printed = config.model_copy(update={"tracking": tracking})
    sys.stdout.write(printed.model_dump_json(indent=2) + "\n")


def shown(uri: str) -> str:
    """A URI without the name and password that may be in it."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=f"…@{parts.netloc.rpartition('@')[2]}").geturl()
