"""The settings that what lies in a job's output directory was trained with: they stay the same.

Checkpoints of other settings, gone on from, would make a model that no settings describe.
"""

import json

from trainers import checkpoints, result
from trainers.config import Job
from trainers.errors import DataError
from trainers.model_card import hyperparameters

NAME = "settings.json"
# What the weights do not follow from.
_FREE = ("save_every", "log_every", "evaluate_every", "evaluate_rows")


def check(config: Job, kind: str) -> None:
    """Raise `DataError` where there are checkpoints or a model of a job with other settings."""
    try:
        before = json.loads((config.output / NAME).read_bytes())
    except FileNotFoundError:
        return
    now = _settings(config, kind)
    differ = sorted(name for name in before | now if before.get(name) != now.get(name))
    trained = (checkpoints.DIRECTORY, result.MODEL, result.NAME)
    if differ and any((config.output / name).exists() for name in trained):
        raise DataError(
            f"{config.output}: what lies there was trained with another {', '.join(differ)}: give "
            "the job another `output`, or remove it"
        )


def write(config: Job, kind: str) -> None:
    """Put the settings into the output directory."""
    result.write_json(config.output / NAME, _settings(config, kind))


def _settings(config: Job, kind: str) -> dict[str, object]:
    """By dotted name."""
    named = {"kind": kind, "id": config.id, **hyperparameters(config)}
    return {name: named[name] for name in named if name.rpartition(".")[2] not in _FREE}
