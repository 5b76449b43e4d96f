"""How far training has come: a bar on a terminal, else lines in the log; and `progress.json`."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.result import write_json

log = logging.getLogger(__name__)

NAME = "progress.json"
Measured = Callable[[Mapping[str, float], int], None]


class Shown(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Shows the main process's progress, and hands what is measured on to `measured`.

    `progress.json` in the output directory holds `step`, `steps`, `loss` (of the last steps, null
    at first), `since` (when this process began, ISO 8601) and `at`; it is written at most once a
    second.
    """

    def __init__(self, output: Path, kind: str, measured: Measured) -> None:
        self._path = output / NAME
        self._measured = measured
        self._since = datetime.now(UTC)
        self._written = -math.inf
        self._loss: float | None = None
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn(kind),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
                console=console,
            )
            if sys.stderr.isatty()
            else None
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._write(state)
        if self._bar:
            self._bar.start()
            self._bar.add_task("", total=state.max_steps, completed=state.global_step, loss="")
        else:
            log.info("step %d of %d", state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if time.monotonic() - self._written >= 1:
            self._write(state)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        values = numbers(rest.get("logs") or {})
        self._measured(values, state.global_step)
        if "loss" in values:
            self._loss = values["loss"]
            self._write(state)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name in SHOWN)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], loss=shown)
        elif shown:
            log.info("step %d of %d: %s", state.global_step, state.max_steps, shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._write(state)
        if self._bar:
            self._bar.stop()

    def _write(self, state: TrainerState) -> None:
        self._written = time.monotonic()
        write_json(
            self._path,
            {
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": self._loss,
                "since": self._since.isoformat(),
                "at": datetime.now(UTC).isoformat(),
            },
        )


# The few figures of a step that tell how training goes.
SHOWN = ("loss", "eval_loss", "rewards/accuracies", "eval_rewards/accuracies", "learning_rate")


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those values that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
