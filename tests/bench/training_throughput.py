"""Padding and tokens a second of our jobs against TRL's defaults on the same rows.

    python tests/bench/training_throughput.py [--rows N] [--steps N] [--model DIRECTORY]

Rows are of the lengths of PubMed's abstracts (log-normal: mean 450 tokens with the prompt, 5th and
95th percentile 240 and 680), of random words. Ours puts rows of like length in a batch, and for
SFT is measured packed too; TRL's draws batches at random. Both train an adapter on SmolLM2-135M in
the dtype named. A token counts once, whether it is padded or not. Seconds are CPU time of the
steps, so that other work on the machine counts for less; on a GPU, which works on its own, they are
those of the clock.
"""
# ruff: noqa: E402

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from infra.models import model_directory
from infra.settings import Settings
from trainers.lengths import LENGTH, fitted
from trainers.order import by_length

WORDS = (
    "the",
    "of",
    "in",
    "patients",
    "with",
    "treatment",
    "was",
    "risk",
    "study",
    "cells",
    "after",
)
MAX_LENGTH = 1024
DEFAULTS = "TRL's"


class Counted(TrainerCallback):  # type: ignore[misc]
    """Seconds of the steps after the first, which also warms up."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.ended = time.perf_counter()
        else:
            self.ended = time.process_time()
        if state.global_step == 1:
            self.began = self.ended


class Padding:
    """A collator that counts what it is given and what it makes of it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.batches = inner, []

    def __call__(self, examples: Any) -> Any:
        made = self.inner(examples)
        mask = made.get("attention_mask")
        cells = made["input_ids"].numel()
        self.batches.append((int(mask.sum()) if mask is not None else cells, cells))
        return made


def rows(number: int) -> Dataset:
    drawn = random.Random(0)

    def text(words: int) -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(words))

    def message(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return Dataset.from_list(
        [
            {
                "id": str(row),
                "prompt": message("user", text(min(900, int(drawn.lognormvariate(5.9, 0.35))))),
                "chosen": message("assistant", text(drawn.randint(8, 25))),
                "rejected": message("assistant", text(drawn.randint(8, 25))),
            }
            for row in range(number)
        ]
    )


def measured(kind: str, how: str, options: argparse.Namespace, dtype: torch.dtype) -> float:
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    data, _ = fitted(rows(options.rows), tokenizer, MAX_LENGTH)
    if kind == "sft":
        data = data.rename_column("chosen", "completion").remove_columns("rejected")
    batch = options.batch
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": 1 if how == "packed" else batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "max_length": MAX_LENGTH,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1000,
        "train_sampling_strategy": "sequential" if how == "by length" else "random",
    }
    counted = Counted()
    with tempfile.TemporaryDirectory() as directory:
        common: dict[str, Any] = {
            "model": model,
            "train_dataset": data,
            "processing_class": tokenizer,
            "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
            "callbacks": [counted],
        }
        arguments["output_dir"] = directory
        trainer = (
            DPOTrainer(args=DPOConfig(**arguments), **common)
            if kind == "dpo"
            else SFTTrainer(args=SFTConfig(packing=how == "packed", **arguments), **common)
        )
        trainer.remove_callback(PrinterCallback)
        if how == "by length":
            lengths = list(trainer.train_dataset[LENGTH])
            order = by_length(lengths, total=options.steps * batch, batch=batch, seed=0)
            trainer.train_dataset = trainer.train_dataset.select(order)
        padding = Padding(trainer.data_collator)
        trainer.data_collator = padding
        trainer.train()
    used = padding.batches[1 : options.steps]
    tokens, cells = (sum(column) for column in zip(*used, strict=True))
    rate = tokens / (counted.ended - counted.began)
    print(
        f"{kind} {how:9} {str(dtype)[6:]:8} padding {1 - tokens / cells:6.1%}, "
        f"{tokens:,} tokens in {counted.ended - counted.began:.1f} s: {rate:,.0f} tokens/s",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=["dpo", "sft"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    options.model = options.model or model_directory(Settings().servers["local"].source)
    datasets.disable_progress_bars()
    for kind in options.kinds:
        rates = {
            how: measured(kind, how, options, getattr(torch, options.dtype))
            for how in (DEFAULTS, "by length", *(["packed"] if kind == "sft" else []))
        }
        for how, rate in rates.items():
            print(f"{kind}: {how} is {rate / rates[DEFAULTS]:.2f} of TRL's")


if __name__ == "__main__":
    main()
