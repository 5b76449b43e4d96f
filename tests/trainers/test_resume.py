"""A job that is killed goes on, and ends with the weights of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file

from tiny_model import write_preferences, write_tiny_model
from trainers.result import Result, read

ROOT = Path(__file__).parents[2]
WORDS = [f"w{number}" for number in range(200)]
# Started so often by chance, then left to end.
KILLS = 5


def prepared_job(directory: Path) -> dict[str, Any]:
    """Two epochs over 32 rows and a little more, in 18 steps, with a checkpoint at each."""
    drawn = random.Random(0)

    def text(words: int) -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(words))

    directory.mkdir()
    write_tiny_model(directory / "base", WORDS)
    write_preferences(
        directory / "preferences",
        [
            {
                "id": f"{row:032x}",
                "pmid": row + 1,
                "title": text(4),
                "abstract": text(drawn.randint(5, 60)),
                "question_chosen": text(6),
                "question_rejected": text(5),
                "score_chosen": 0.8,
                "score_rejected": 0.2,
            }
            for row in range(40)
        ],
    )
    return {
        "id": "job",
        "output": str(directory / "output"),
        "model": str(directory / "base"),
        "dtype": "float32",
        "tracking": {"uri": f"sqlite:///{directory}/mlflow/mlflow.db"},
        "data": {"table": str(directory / "preferences")},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "optimisation": {
            "learning_rate": 1e-2, "epochs": 2.0, "batch": 2, "accumulation": 2, "save_every": 1,
            "log_every": 1, "evaluate_every": 6, "max_length": 128,
        },
    }  # fmt: skip


def write_adapter(directory: Path, base: Path) -> Path:
    """An adapter that has learnt something: both its halves are random, always the same ones."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(
            r=4,
            lora_alpha=8,
            lora_dropout=0.1,
            target_modules="all-linear",
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    )
    model.save_pretrained(directory)
    return directory


def assert_same_weights(ours: Path, theirs: Path, where: object) -> None:
    found, expected = (load_file(model / "adapter_model.safetensors") for model in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        assert (found[name] == weights).all(), f"{name} differs; killed at {where}"


def started(directory: Path, settings: dict[str, Any]) -> "subprocess.Popen[bytes]":
    path = directory / "dpo.json"
    path.write_text(json.dumps(settings))
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "trainers.dpo", "--config", str(path)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )


def finished(directory: Path, settings: dict[str, Any]) -> Result:
    status = started(directory, settings).wait(timeout=300)
    assert status == 0, (directory / "log").read_text()[-3000:]
    result = read(directory / "output")
    assert result is not None
    return result


def step(directory: Path) -> int:
    """The newest checkpoint there is, whole or not."""
    found = (directory / "output" / "checkpoints").glob("checkpoint-*")
    return max((int(path.name.partition("-")[2]) for path in found), default=0)


@pytest.mark.slow
def test_killed_at_random_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    plain = finished(tmp_path / "plain", prepared_job(tmp_path / "plain"))
    directory = tmp_path / "killed"
    settings = prepared_job(directory)
    drawn = random.Random(os.environ.get("KAILIN_SEED", "1"))
    killed_at = []
    for _ in range(KILLS):
        before = step(directory)
        process = started(directory, settings)
        # At work, not by the clock: some time after one more checkpoint has begun to be written.
        while process.poll() is None and step(directory) <= before:
            time.sleep(0.005)
        time.sleep(drawn.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(step(directory))
    result = finished(directory, settings)

    assert killed_at[0] > 0
    assert result.digest == plain.digest
    assert result.metrics["steps"] == plain.metrics["steps"]
    assert_same_weights(result.model, plain.model, killed_at)

    client = MlflowClient(settings["tracking"]["uri"])
    (experiment,) = client.search_experiments(filter_string="name = 'kailin'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == result.run
    steps = {metric.step for metric in client.get_metric_history(result.run, "loss")}
    assert steps == set(range(1, int(plain.metrics["steps"]) + 1))
    assert not (directory / "output" / "checkpoints").exists()


@pytest.mark.slow
def test_killed_as_it_goes_on_from_an_adapter_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    def going_on(name: str) -> dict[str, Any]:
        settings = prepared_job(tmp_path / name)
        adapter = write_adapter(tmp_path / name / "adapter", tmp_path / name / "base")
        return settings | {"adapter": str(adapter)}

    plain = finished(tmp_path / "plain", going_on("plain"))
    directory = tmp_path / "killed"
    settings = going_on("killed")
    process = started(directory, settings)
    while process.poll() is None and step(directory) < 8:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = step(directory)
    result = finished(directory, settings)
    assert 8 <= killed_at < plain.metrics["steps"]
    log = (directory / "log").read_text().splitlines()
    said = [json.loads(line) for line in log if line.startswith('{"time"')]
    assert any(line["message"].startswith("going on from checkpoint-") for line in said)
    assert {line["stage"] for line in said} == {"dpo"}
    assert result.metrics["steps"] == plain.metrics["steps"]
    assert_same_weights(result.model, plain.model, killed_at)


def test_killed_while_the_model_is_stored_it_is_stored(tmp_path: Path) -> None:
    directory = tmp_path / "job"
    settings = prepared_job(directory)
    settings["optimisation"]["steps"] = 2
    first = finished(directory, settings)
    # As it is between the model's rename and the end: the run is open, there is no result yet.
    (directory / "output" / "result.json").unlink()
    client = MlflowClient(settings["tracking"]["uri"])
    client.update_run(first.run, status="RUNNING")
    weights = (first.model / "adapter_model.safetensors").stat().st_mtime_ns
    assert finished(directory, settings) == first
    assert (first.model / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert client.get_run(first.run).info.status == "FINISHED"
