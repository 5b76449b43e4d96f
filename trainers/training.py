"""How every job trains, whichever it is: from its configuration to `result.json`.

A job that is started again with the same configuration goes on where it stopped: from its last
whole checkpoint, or, where the model is there already, with storing it in MLflow.
"""

import gc
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback

from trainers import checkpoints, result, settled
from trainers.config import Job
from trainers.device import Device, detect
from trainers.errors import DataError, in_a_line
from trainers.lengths import LENGTH, Lengths, fitted
from trainers.merge import merge
from trainers.model_card import hyperparameters, model_card
from trainers.models import load_model, load_tokenizer, new_adapter
from trainers.order import by_length, whole_rounds
from trainers.prepared import Prepared, Report
from trainers.progress import Shown, numbers
from trainers.result import MODEL, Result, write_json
from trainers.rows import Digest
from trainers.source_version import source_version
from trainers.tracking import Run, open_run

log = logging.getLogger(__name__)

ADAPTER = "adapter"
TRAINED = "trained.json"
# What the other processes wait for the first, which reads the data and merges weights.
WAIT = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job makes its trainer of. `arguments` are those that all of TRL's trainers take."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    adapter: Any
    train: Dataset
    held_out: Dataset | None
    arguments: dict[str, Any]
    callbacks: list[TrainerCallback]

    def common(self) -> dict[str, Any]:
        """The arguments of a trainer but `args`."""
        return {
            "model": self.model,
            "processing_class": self.tokenizer,
            "peft_config": self.adapter,
            "train_dataset": self.train,
            "eval_dataset": self.held_out,
            "callbacks": self.callbacks,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What is known once the weights are there."""

    adapter: bool
    table: str | None
    table_version: int | None
    rows: int
    digest: str
    metrics: dict[str, float]


def train(
    config: Job,
    kind: str,
    prepare: Callable[[], Prepared],
    trainer: Callable[[Parts], Trainer],
    *,
    packs: bool = False,
) -> Result:
    """Run a job to its end, or from where it stopped. Raises `DataError` and `JobError`.

    `prepare` makes the data sets, `trainer` TRL's trainer of them, which `packs` or does not.
    """
    settled.check(config, kind)
    if done := result.read(config.output):
        log.info("job %s is done already: %s", config.id, config.output / result.NAME)
        return done
    _quieten()
    config.output.mkdir(parents=True, exist_ok=True)
    device = detect(config.dtype)
    processes = PartialState(cpu=device.cpu, timeout=WAIT)
    if processes.is_main_process:
        settled.write(config, kind)
    else:
        logging.getLogger("trainers").setLevel(logging.WARNING)
    run = open_run(config.tracking, config.id, kind) if processes.is_main_process else None
    try:
        if not (config.output / MODEL).is_dir():
            with in_a_line():
                _train(config, kind, prepare, trainer, device, run, packs=packs)
        processes.wait_for_everyone()
        return _stored(config, kind, run)
    # Also our own faults, and Ctrl-C: a run must not look as if it went on.
    except BaseException:
        if run:
            run.fail()
        raise


def _train(
    config: Job,
    kind: str,
    prepare: Callable[[], Prepared],
    make_trainer: Callable[[Parts], Trainer],
    device: Device,
    run: Run | None,
    *,
    packs: bool,
) -> None:
    how = config.optimisation
    tokenizer = load_tokenizer(config)
    # The other processes then find what the first has made.
    with PartialState().main_process_first():
        prepared = prepare()
    report = prepared.report
    training, lengths = fitted(prepared.train, tokenizer, how.max_length, split=packs)
    held_out, _ = fitted(_some(prepared.held_out, config), tokenizer, how.max_length)
    _say(lengths, config)
    if not len(training):
        raise DataError(
            f"{', '.join(report.source)}: none of {report.train:,} examples fits in "
            f"{how.max_length} tokens; raise optimisation.max_length"
        )
    rows, digest = len(training), _digest(training, report)
    facts = {**device.facts(), "code": source_version()}
    if run:
        params = hyperparameters(config) | {
            "rows": rows,
            "digest": digest,
            "tokens": lengths.tokens,
            "data": ", ".join(report.source),
            "data_version": report.version,
            "excluded_pmids": report.excluded,
        }
        if not report.excluded:
            log.warning(
                "no PMID is excluded: records of benchmarks may be trained on; set "
                "training.excluded (in a job's own configuration: excluded)"
            )
        run.describe(params, {**facts, "kind": kind})
        run.measure(_counts(report, lengths), 0)

    parts = Parts(
        model=load_model(config, device),
        tokenizer=tokenizer,
        adapter=new_adapter(config.lora) if config.lora and not config.adapter else None,
        train=training,
        held_out=held_out if len(held_out) else None,
        arguments=arguments(config, device, evaluated=bool(len(held_out)), packs=packs),
        callbacks=[
            checkpoints.Listed(),
            Shown(config.output, kind, run.measure if run else lambda values, step: None),
        ],
    )
    trainer = make_trainer(parts)
    trainer.remove_callback(PrinterCallback)
    if not packs:
        _put_in_order(trainer, config)
    metrics = _fit(trainer, config.output / checkpoints.DIRECTORY)
    if run:
        run.measure(metrics, trainer.state.global_step)

    weights = config.output / (ADAPTER if config.lora and config.merge else MODEL)
    unfinished = _saved(trainer, weights)
    if PartialState().is_main_process:
        trained = _Trained(
            adapter=bool(config.lora) and not config.merge,
            table=report.source[0] if report.version is not None else None,
            table_version=report.version,
            rows=rows,
            digest=digest,
            metrics=metrics,
        )
        write_json(config.output / TRAINED, asdict(trained))
        card = model_card(
            config,
            kind=kind,
            run=run.id if run else "",
            adapter=trained.adapter,
            report=report,
            lengths=lengths,
            rows=rows,
            digest=digest,
            metrics=metrics,
            facts=facts,
        )
        (unfinished / "README.md").write_text(card)
        if weights.name == ADAPTER:
            shutil.rmtree(weights, ignore_errors=True)
        unfinished.rename(weights)
        if weights.name == ADAPTER:
            del trainer, parts
            gc.collect()
            merge(config.model, weights, config.output / MODEL, readme=card)


def arguments(config: Job, device: Device, *, evaluated: bool, packs: bool) -> dict[str, Any]:
    """The arguments that all of TRL's trainers take.

    What is not packed is put in order for all epochs at once, so it is passed over once.
    """
    how = config.optimisation
    return {
        "output_dir": str(config.output / checkpoints.DIRECTORY),
        "learning_rate": how.learning_rate,
        "num_train_epochs": how.epochs if packs else 1,
        "max_steps": how.steps,
        "per_device_train_batch_size": how.batch,
        "per_device_eval_batch_size": how.batch,
        "gradient_accumulation_steps": how.accumulation,
        "gradient_checkpointing": how.checkpointing,
        "max_length": how.max_length,
        # Below 1 it is a share of the steps.
        "warmup_steps": min(how.warmup, 0.999),
        "weight_decay": how.weight_decay,
        "lr_scheduler_type": how.schedule,
        "logging_steps": how.log_every,
        "logging_first_step": True,
        "save_steps": how.save_every,
        # While one is being written, the one before it is whole.
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": how.evaluate_every,
        "train_sampling_strategy": "random" if packs else "sequential",
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": device.cpu,
        # Autocast is for weights of float32; under an adapter they are of the dtype already.
        "bf16": device.dtype == torch.bfloat16 and config.lora is None,
        "dataloader_pin_memory": not device.cpu,
        "ddp_find_unused_parameters": False,
        "ddp_timeout": int(WAIT.total_seconds()),
        "report_to": "none",
        "disable_tqdm": True,
    }


def _put_in_order(trainer: Trainer, config: Job) -> None:
    """Examples of like length together, for all epochs, in whole rounds of several processes.

    Packed texts are put in order by the trainer, which fills the last round of an epoch with a few
    packs once more.
    """
    how, data = config.optimisation, cast(Dataset, trainer.train_dataset)
    lengths = list(data[LENGTH])
    total, processes = round(how.epochs * len(lengths)), PartialState().num_processes
    if how.steps > 0:
        total = how.steps * how.batch * how.accumulation * processes
    total = whole_rounds(max(total, 1), batch=how.batch, processes=processes)
    order = by_length(lengths, total=total, batch=how.batch, seed=config.seed)
    trainer.train_dataset = data.select(order)


def _fit(trainer: Trainer, directory: Path) -> dict[str, float]:
    """Train to the end, from the newest whole checkpoint; the figures of the end."""
    checkpoint = None
    with PartialState().main_process_first():
        checkpoint = checkpoints.newest(directory)
    if checkpoint:
        log.info("going on from %s", checkpoint.name)
    done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # What the trainer itself says of the loss counts the steps before a restart as nothing.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {
        "train_loss": sum(losses) / len(losses) if losses else done.training_loss,
        "steps": float(trainer.state.global_step),
    }
    # The trainer measures once more after the last step.
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if evaluated:
        metrics |= {
            name: value
            for name, value in numbers(evaluated[-1]).items()
            if name == "eval_loss" or name.startswith("eval_rewards/")
        }
    return metrics


def _saved(trainer: Trainer, place: Path) -> Path:
    """The trained weights in a directory beside their place; every process takes part."""
    unfinished = place.with_name(f".{place.name}.tmp")
    if PartialState().is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    PartialState().wait_for_everyone()
    if trainer.is_fsdp_enabled:
        # Checkpoints are in shards, the model is whole.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    # Off for training only: whoever loads the model writes with it.
    cast(Any, trainer.model).config.use_cache = True
    trainer.save_model(str(unfinished))
    if PartialState().is_main_process:
        # The arguments of training, pickled.
        (unfinished / "training_args.bin").unlink(missing_ok=True)
        shutil.rmtree(unfinished / checkpoints.REFERENCE, ignore_errors=True)
    return unfinished


def _stored(config: Job, kind: str, run: Run | None) -> Result:
    trained = _Trained(**json.loads((config.output / TRAINED).read_text()))
    done = Result(
        job=config.id,
        kind=kind,
        run=run.id if run else "",
        model=(config.output / MODEL).resolve(),
        base=config.model,
        **asdict(trained),
    )
    if run:
        run.keep(config.output / MODEL, MODEL)
        run.finish()
        # Only the model is needed from here on, and checkpoints are twice as large as it.
        shutil.rmtree(config.output / checkpoints.DIRECTORY, ignore_errors=True)
        # Last: a job that has a result is not looked at again.
        done.write(config.output)
        log.info("done: %s, MLflow run %s", done.model, run.id)
    return done


def _digest(training: Dataset, report: Report) -> str:
    """The digest of the rows that are trained on, once those that are too long are out."""
    if len(training) == report.train:
        return report.digest
    digest = Digest()
    for batch in training.select_columns("id").iter(batch_size=1000):
        for id in batch["id"]:
            digest.add(id)
    return digest.hex


def _some(held_out: Dataset, config: Job) -> Dataset:
    """As many held-out rows as the loss is to be measured on, always the same ones."""
    most = config.optimisation.evaluate_rows
    if len(held_out) <= most:
        return held_out
    return held_out.shuffle(seed=config.seed).select(range(most))


def _counts(report: Report, lengths: Lengths) -> dict[str, float]:
    left_out = {f"left out/{_plain(reason)}": n for reason, n in report.left_out.items()}
    return {
        "data/rows": report.rows,
        "data/held out": report.held_out,
        **{f"data/{name}": count for name, count in asdict(lengths).items()},
        **{f"data/{name}": count for name, count in left_out.items()},
    }


def _plain(name: str) -> str:
    """A name that MLflow takes for a metric."""
    return "".join(sign if sign.isalnum() or sign in " _-./" else " " for sign in name)


def _say(lengths: Lengths, config: Job) -> None:
    log.info(
        "lengths: %d of at most %d tokens, %d dropped, %d cut, %d split; longest %d; %d tokens",
        lengths.kept,
        config.optimisation.max_length,
        lengths.dropped,
        lengths.cut,
        lengths.split,
        lengths.longest,
        lengths.tokens,
    )


def _quieten() -> None:
    """Leave the terminal to our own lines."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for chatty in ("datasets", "httpx", "accelerate", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
