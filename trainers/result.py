"""What a job leaves: `result.json` in its output directory, written last."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

NAME = "result.json"
MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Result:
    """A finished job: what was trained, on what, and where the model is.

    `job` is the id in the job's configuration, `kind` the name of the job (dpo, cpt, …), `run`
    MLflow's. `model` is the directory of the weights, or of the adapter on `base` where `adapter`.
    `table` and `table_version` are None where files were read. `rows` counts the rows trained on,
    `digest` is of their ids.
    """

    job: str
    kind: str
    run: str
    model: Path
    adapter: bool
    base: str
    table: str | None
    table_version: int | None
    rows: int
    digest: str
    metrics: dict[str, float]

    def write(self, output: Path) -> None:
        """Put result.json into the output directory, whole or not at all."""
        write_json(output / NAME, _RESULT.dump_python(self, mode="json"))


_RESULT = TypeAdapter(Result)


def read(output: Path) -> Result | None:
    """The result in a job's output directory; None where the job is not done, or cannot be read."""
    try:
        return _RESULT.validate_json((output / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place, then rename it: a reader sees the old or the new one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
