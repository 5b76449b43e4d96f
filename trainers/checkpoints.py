"""Checkpoints that can be told from half-written ones.

The trainer writes a checkpoint file by file. When all are there, a list of them and their sizes is
added, renamed into its place; what has no list, or does not agree with it, is passed over.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.result import write_json

DIRECTORY = "checkpoints"
LIST = "files.json"


# What DPO that goes on from an adapter compares with: a copy of it, made anew at each start.
REFERENCE = "ref"


class Listed(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Adds the list of files to each checkpoint, once every process has written its part.

    The reference is taken out: transformers loads adapters in subdirectories in place of the one
    that was trained, not besides it.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            shutil.rmtree(checkpoint / REFERENCE, ignore_errors=True)
            listed(checkpoint)


def listed(checkpoint: Path) -> None:
    """Say that a checkpoint is whole as it is now."""
    write_json(checkpoint / LIST, _files(checkpoint))


def newest(directory: Path) -> Path | None:
    """The newest whole checkpoint, or None; those that are not whole are removed."""
    numbered = {
        int(found[1]): path
        for path in directory.glob("checkpoint-*")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    for _, checkpoint in sorted(numbered.items(), reverse=True):
        if _whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _whole(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / LIST).read_bytes()) == _files(checkpoint))
    except (OSError, ValueError):
        return False


def _files(checkpoint: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(f".{LIST}") and path.name != LIST
    }
