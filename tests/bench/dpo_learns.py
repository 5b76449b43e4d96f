"""Does DPO learn what is preferred? θ3 against θ1 on held-out records, and the same with labels
shuffled, which must teach it nothing.

    python tests/bench/dpo_learns.py [--rows N] [--held-out N] [--steps N] [--model DIRECTORY]

A synthetic preference: of two questions about a record, the one that names its descriptor wins.
The descriptor stands once in the record's abstract; those of held-out records occur in no other.
θ1 is SmolLM2-135M as it is; θ3 comes out of the real job, from a Delta table, once with the labels
as they are and once with each pair's labels set by a coin. Both then write a question for each
held-out record, greedily. A record is won by the one that alone names the descriptor, else tied.
The figures are the win rate ((wins + ties / 2) / records) and its bootstrap interval (95 %).
"""
# ruff: noqa: E402

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from infra.models import model_directory
from infra.settings import Settings
from streams.prompts import question_prompt
from tiny_model import write_preferences
from trainers import dpo
from trainers.config import Dpo
from trainers.result import Result
from trainers.statistics import bootstrap_interval

DESCRIPTORS = (
    "asthma", "psoriasis", "malaria", "gout", "anemia", "migraine", "epilepsy", "glaucoma",
    "osteoporosis", "tuberculosis", "hepatitis", "leukemia", "lymphoma", "melanoma", "obesity",
    "pneumonia", "schizophrenia", "scoliosis", "sepsis", "stroke", "thrombosis", "vasculitis",
    "cholera", "cirrhosis", "dementia", "eczema", "fibromyalgia", "gastritis", "hypothyroidism",
    "influenza",
)  # fmt: skip
HELD_OUT_DESCRIPTORS = (
    "sarcoidosis", "endometriosis", "narcolepsy", "rickets", "appendicitis", "cystinuria",
    "bronchiolitis", "scurvy", "pancreatitis", "myopia", "rosacea", "tetanus",
)  # fmt: skip
TITLES = (
    "Outcomes of a cohort study in two hospitals",
    "A randomised trial of early treatment",
    "Five years of follow-up in primary care",
    "Results of a national registry",
)
BEFORE = (
    "We recruited participants from 12 clinics between 2009 and 2014.",
    "The aim was to compare early with late treatment in adults.",
    "Data were taken from a registry with complete follow-up.",
)
AFTER = (
    "Adverse events were rare and did not differ between the groups.",
    "The effect was larger in women and in those over 65.",
    "Adherence was high, and costs were lower than expected.",
)
NAMING = (
    "How does early treatment change the course of {}?",
    "Which patients with {} benefit most from treatment?",
    "Does treatment lower the risk of relapse in {}?",
    "What are the outcomes of {} after five years?",
)
VAGUE = (
    "What did the authors find in their study?",
    "How were the participants of the trial recruited?",
    "Did adverse events differ between the two groups?",
    "What were the costs of the treatment over time?",
)


@dataclass(frozen=True, slots=True)
class Record:
    title: str
    abstract: str
    descriptor: str


def record(drawn: random.Random, descriptors: Sequence[str]) -> Record:
    descriptor = drawn.choice(descriptors)
    middle = f"In total {drawn.randint(80, 900)} people had {descriptor} at entry."
    abstract = " ".join((drawn.choice(BEFORE), middle, drawn.choice(AFTER)))
    return Record(drawn.choice(TITLES), abstract, descriptor)


def row(number: int, drawn: random.Random, *, shuffled: bool) -> dict[str, Any]:
    of = record(drawn, DESCRIPTORS)
    pair = [drawn.choice(NAMING).format(of.descriptor), drawn.choice(VAGUE)]
    if drawn.random() < 0.5 and shuffled:
        pair.reverse()
    return {
        "id": f"{number:032x}", "pmid": number + 1, "title": of.title, "abstract": of.abstract,
        "question_chosen": pair[0], "question_rejected": pair[1],
        "score_chosen": 0.8, "score_rejected": 0.2,
    }  # fmt: skip


def trained(model: Path, directory: Path, options: argparse.Namespace, *, shuffled: bool) -> Result:
    drawn = random.Random(options.seed)
    rows = [row(number, drawn, shuffled=shuffled) for number in range(options.rows)]
    write_preferences(directory / "preferences", rows)
    return dpo.train(
        Dpo.model_validate(
            {
                "id": "shuffled" if shuffled else "as-preferred",
                "output": directory / "output",
                "model": str(model),
                "dtype": options.dtype,
                "tracking": {"uri": f"sqlite:///{directory}/mlflow/mlflow.db"},
                "data": {"table": str(directory / "preferences")},
                "optimisation": {
                    "learning_rate": 2e-4, "batch": 4, "accumulation": 1, "max_length": 256,
                    "steps": options.steps, "schedule": "constant", "evaluate_every": 1000,
                    "save_every": 1000, "evaluate_rows": 8,
                },
            }
        )
    )  # fmt: skip


def questions(model: Any, tokenizer: Any, records: Sequence[Record]) -> list[str]:
    """One question for each record, the likeliest by word."""
    import torch

    asked = [
        tokenizer.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": question_prompt("question/1", title=r.title, abstract=r.abstract),
                }
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        for r in records
    ]
    written = []
    for at in range(0, len(asked), 32):
        batch = tokenizer(asked[at : at + 32], return_tensors="pt", padding=True).to(model.device)
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=32, do_sample=False)
        written += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], True)
    return written


def named(written: Sequence[str], records: Sequence[Record]) -> list[bool]:
    return [r.descriptor in text.lower() for text, r in zip(written, records, strict=True)]


def compare(model: Path, result: Result, options: argparse.Namespace) -> tuple[float, float, float]:
    """Win rate of θ3 over θ1 and its interval."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    drawn = random.Random(options.seed + 1)
    records = [record(drawn, HELD_OUT_DESCRIPTORS) for _ in range(options.held_out)]
    tokenizer = AutoTokenizer.from_pretrained(result.model, padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    both = PeftModel.from_pretrained(base, str(result.model)).eval()
    both.to(torch.accelerator.current_accelerator() or "cpu")
    with both.disable_adapter():
        before = questions(both, tokenizer, records)
    after = questions(both, tokenizer, records)
    first, third = named(before, records), named(after, records)
    wins = [0.5 + (theirs - ours) / 2 for ours, theirs in zip(first, third, strict=True)]
    low, high = bootstrap_interval(wins, confidence=0.95, resamples=10_000, seed=0)
    rate = sum(wins) / len(wins)
    print(
        f"{result.job:13} θ1 names it in {sum(first)} of {len(records)}, θ3 in {sum(third)}; "
        f"win rate {rate:.3f} [{low:.3f}, {high:.3f}]; held-out pairs told apart "
        f"{result.metrics.get('eval_rewards/accuracies', float('nan')):.2f}"
    )
    print(f"    θ1: {before[0].strip()[:100]!r}\n    θ3: {after[0].strip()[:100]!r}")
    return rate, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model = options.model or model_directory(Settings().servers["local"].source)
    lower = {}
    for shuffled in (False, True):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            result = trained(model, Path(directory), options, shuffled=shuffled)
            took = time.monotonic() - began
            _, lower[shuffled], _ = compare(model, result, options)
            print(f"    trained in {took:.0f} s, {time.monotonic() - began:.0f} s in all")
    learnt, nothing = lower[False] > 0.5, lower[True] <= 0.5
    print(f"learns the preference: {learnt}; learns nothing from shuffled labels: {nothing}")
    sys.exit(not (learnt and nothing))


if __name__ == "__main__":
    main()
