"""Each job from its configuration to its result, with a model of two layers."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_model import write_ideal, write_preferences, write_tiny_model

ROOT = Path(__file__).parents[2]
WORDS = [f"w{number}" for number in range(200)]
HERS = ["Yes", "No", "Maybe", "Title:", "Context:", "question", "context", "?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base", [*WORDS, *HERS])


def text(drawn: random.Random, words: int) -> str:
    return " ".join(drawn.choice(WORDS) for _ in range(words))


def preferences(table: Path, rows: int = 60, longest: int = 60) -> Path:
    drawn = random.Random(0)
    write_preferences(
        table,
        [
            {
                "id": f"{row:032x}",
                "pmid": row + 1,
                "title": text(drawn, 4),
                "abstract": text(drawn, drawn.randint(5, longest)),
                "question_chosen": text(drawn, 6),
                "question_rejected": text(drawn, drawn.randint(3, 9)),
                "score_chosen": 0.8,
                "score_rejected": 0.2,
            }
            for row in range(rows)
        ],
    )
    return table


def config(directory: Path, model: Path, **more: Any) -> dict[str, Any]:
    optimisation = {
        "learning_rate": 1e-2, "max_length": 128, "batch": 2, "accumulation": 2,
        "save_every": 2, "log_every": 1, "evaluate_every": 5,
    }  # fmt: skip
    return {
        "id": "job-1",
        "output": str(directory / "output"),
        "model": str(model),
        "dtype": "float32",
        "tracking": {"uri": f"sqlite:///{directory}/mlflow/mlflow.db"},
        **more,
        "optimisation": optimisation | more.get("optimisation", {}),
    }


def started(job: str, settings: dict[str, Any], path: Path) -> "subprocess.Popen[str]":
    path.write_text(json.dumps(settings))
    return subprocess.Popen(
        [sys.executable, "-m", f"trainers.{job}", "--config", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(job: str, settings: dict[str, Any], path: Path) -> tuple[int, str]:
    process = started(job, settings, path)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], Any]:
    """Run a job in this process, which has loaded torch already; its result."""

    def train(job: str, settings: dict[str, Any]) -> Any:
        import importlib

        import torch

        from trainers import config as configs

        kinds = {
            "dpo": configs.Dpo,
            "cpt": configs.Cpt,
            "sft_answers": configs.SftAnswers,
            "sft_generators": configs.SftGenerators,
        }
        torch.set_num_threads(1)
        module = importlib.import_module(f"trainers.{job}")
        return module.train(kinds[job].model_validate(settings))

    return train


def test_dpo_from_a_table_to_a_model_that_loads(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    table = preferences(tmp_path / "preferences")
    result = in_process("dpo", config(tmp_path, model, data={"table": str(table)}))

    from mlflow import MlflowClient

    from trainers.result import read

    output = tmp_path / "output"
    assert read(output) == result
    assert (result.job, result.kind, result.adapter) == ("job-1", "dpo", True)
    assert (result.table, result.table_version) == (str(table), 0)
    assert 40 <= result.rows < 60
    assert result.metrics["steps"] == -(-result.rows // 4)
    assert {"train_loss", "eval_loss", "eval_rewards/accuracies"} <= result.metrics.keys()

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    run = client.get_run(result.run)
    assert run.info.status == "FINISHED"
    assert run.data.tags["job"] == "job-1"
    assert run.data.params["digest"] == result.digest
    assert run.data.params["data_version"] == "0"
    assert run.data.params["optimisation.learning_rate"] == "0.01"
    assert len(client.get_metric_history(result.run, "loss")) == result.metrics["steps"]
    stored = {file.path for file in client.list_artifacts(result.run, "model")}
    assert "model/adapter_model.safetensors" in stored
    assert not any(name.endswith((".bin", ".pkl", ".pt")) for name in stored)

    card = (output / "model" / "README.md").read_text()
    assert result.digest in card
    assert str(table) in card
    progress = json.loads((output / "progress.json").read_text())
    assert progress["step"] == progress["steps"] == result.metrics["steps"]

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    loaded = PeftModel.from_pretrained(base, str(result.model))
    changed = [weights for name, weights in loaded.named_parameters() if "lora_B" in name]
    assert changed
    assert all(weights.abs().sum() > 0 for weights in changed)


def test_a_job_that_is_done_is_not_done_again(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    table = preferences(tmp_path / "preferences")
    settings = config(tmp_path, model, data={"table": str(table)}, optimisation={"steps": 2})
    first = in_process("dpo", settings)
    weights = (first.model / "adapter_model.safetensors").stat()
    assert in_process("dpo", settings) == first
    assert (first.model / "adapter_model.safetensors").stat() == weights


def test_what_was_trained_with_other_settings_is_not_gone_on_from(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    from trainers.errors import DataError

    data = {"table": str(preferences(tmp_path / "preferences"))}
    settings = config(tmp_path, model, data=data, optimisation={"steps": 2})
    first = in_process("dpo", settings)
    often = settings["optimisation"] | {"log_every": 2, "save_every": 1}
    assert in_process("dpo", settings | {"optimisation": often}) == first
    slower = settings["optimisation"] | {"learning_rate": 1e-4}
    said = r"trained with another beta, optimisation.learning_rate: give the job another `output`"
    with pytest.raises(DataError, match=said):
        in_process("dpo", settings | {"beta": 0.2, "optimisation": slower})


def test_a_job_is_done_once_mlflow_has_been_told(
    tmp_path: Path, model: Path, in_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from trainers.errors import JobError
    from trainers.result import read
    from trainers.tracking import Run

    def away(run: Run) -> None:
        raise JobError("MLflow is away")

    output, data = tmp_path / "output", {"table": str(preferences(tmp_path / "preferences"))}
    settings = config(tmp_path, model, data=data, optimisation={"steps": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", away)
        with pytest.raises(JobError):
            in_process("dpo", settings)
    assert read(output) is None
    result = in_process("dpo", settings)
    assert read(output) == result
    assert not (output / "checkpoints").exists()
    client = MlflowClient(tracking_uri=settings["tracking"]["uri"])
    assert client.get_run(result.run).info.status == "FINISHED"


def test_the_run_of_a_job_that_breaks_has_failed(tmp_path: Path, model: Path) -> None:
    from mlflow import MlflowClient

    from trainers import training
    from trainers.config import Dpo

    settings = config(tmp_path, model, data={"table": "nowhere"})
    with pytest.raises(ZeroDivisionError):
        training.train(Dpo.model_validate(settings), "dpo", lambda: 1 // 0, lambda parts: parts)  # type: ignore[arg-type,return-value]
    client = MlflowClient(tracking_uri=settings["tracking"]["uri"])
    (experiment,) = client.search_experiments(filter_string="name = 'kailin'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_what_is_excluded_is_said(
    tmp_path: Path, model: Path, in_process: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    data = {"table": str(preferences(tmp_path / "preferences"))}
    few = {"steps": 1}
    in_process("dpo", config(tmp_path / "all", model, data=data, optimisation=few))
    assert "no PMID is excluded: " in caplog.text
    assert "Excluded: none." in (tmp_path / "all" / "output" / "model" / "README.md").read_text()

    caplog.clear()
    (tmp_path / "pmids").write_text("1\n2\n90000\n")
    data["excluded"] = [str(tmp_path / "pmids")]
    result = in_process("dpo", config(tmp_path / "some", model, data=data, optimisation=few))
    assert "no PMID is excluded" not in caplog.text
    card = (result.model / "README.md").read_text()
    assert f"Excluded: 3 PMIDs of `{tmp_path / 'pmids'}`." in card
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/some/mlflow/mlflow.db")
    assert client.get_run(result.run).data.params["excluded_pmids"] == "3"


def test_dpo_goes_on_from_an_adapter_and_compares_with_it(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    table = preferences(tmp_path / "preferences")
    data = {"table": str(table)}
    first = in_process("dpo", config(tmp_path / "first", model, data=data))
    second = in_process(
        "dpo",
        config(
            tmp_path / "second", model, data=data, adapter=str(first.model),
            optimisation={"steps": 1, "log_every": 1},
        ),
    )  # fmt: skip
    # Before the first step the policy is its reference, so the loss is that of a coin.
    assert second.metrics["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert {path.name for path in second.model.iterdir() if path.is_dir()} == set()


def test_all_parameters_are_trained_without_an_adapter(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file

    table = preferences(tmp_path / "preferences")
    result = in_process(
        "dpo",
        config(
            tmp_path, model, data={"table": str(table)}, lora=False,
            optimisation={"learning_rate": 1e-3},
        ),
    )  # fmt: skip
    assert not result.adapter
    before = load_file(model / "model.safetensors")
    after = load_file(result.model / "model.safetensors")
    assert all((after[name] != weights).any() for name, weights in before.items())


def test_merged_weights_answer_as_base_and_adapter_do(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    table = preferences(tmp_path / "preferences")
    result = in_process("dpo", config(tmp_path, model, data={"table": str(table)}, merge=True))
    assert not result.adapter
    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(10, 40)[None]
    plain = base(ids).logits
    both = PeftModel.from_pretrained(base, str(tmp_path / "output" / "adapter"))(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(result.model)(ids).logits
    torch.testing.assert_close(merged, both, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-3)
    assert (result.model / "tokenizer.json").is_file()
    assert result.digest in (result.model / "README.md").read_text()


@pytest.mark.parametrize("packing", [True, False])
def test_cpt_and_answers_from_ideal_rows(
    tmp_path: Path, model: Path, packing: bool, in_process: Callable[..., Any]
) -> None:
    drawn = random.Random(1)
    passage = {
        "pmid": 10_000, "title": text(drawn, 3), "abstract": text(drawn, 20),
        "mesh": [], "bm25_rank": 1, "dense_rank": None, "score": 1.0,
    }  # fmt: skip
    table = tmp_path / "ideal"
    write_ideal(
        table,
        [
            {
                "id": f"{row:032x}",
                "pmid": row + 1,
                "title": text(drawn, 4),
                "abstract": text(drawn, 20),
                "question": text(drawn, 5),
                "context": [passage],
                "answer": drawn.choice(["yes", "no", "maybe"]),
                "answer_prompt": "answer/1",
            }
            for row in range(30)
        ],
    )
    more: dict[str, Any] = {
        "data": {"table": str(table)},
        "optimisation": {"packing": packing, "evaluate_every": 2, "max_length": 200},
    }
    for job in ("cpt", "sft_answers"):
        result = in_process(job, config(tmp_path / job, model, **more))
        assert result.kind == job.replace("_", "-")
        assert result.rows > 20
        assert result.metrics["eval_loss"] > 0
        assert (result.model / "adapter_model.safetensors").is_file()


def test_generators_from_bioasq(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    drawn = random.Random(2)
    questions = [
        {
            "id": f"q{row}",
            "body": f"{text(drawn, 6)} ?",
            "documents": [f"http://www.ncbi.nlm.nih.gov/pubmed/{row + 1}"],
            "snippets": [
                {
                    "document": f"http://www.ncbi.nlm.nih.gov/pubmed/{row + 1}",
                    "beginSection": section,
                    "endSection": section,
                    "text": text(drawn, 5),
                    "offsetInBeginSection": 0,
                    "offsetInEndSection": 5,
                }
                for section in ("title", "abstract")
            ],
        }
        for row in range(30)
    ]
    path = tmp_path / "bioasq.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"questions": questions}).encode()))
    result = in_process("sft_generators", config(tmp_path, model, bioasq=[str(path)]))
    assert result.kind == "sft-generators"
    assert result.table is None
    assert result.rows > 20


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimisation": {"learning_rate": -1}}, "optimisation.learning_rate"),
        ({"betta": 1}, "betta"),
        ({"model": "/nowhere"}, "model: /nowhere holds no config.json"),
        ({"adapter": "/nowhere"}, "adapter: /nowhere holds no adapter_config.json"),
        ({"lora": False, "adapter": "/nowhere"}, "adapter: all parameters are to be trained"),
    ],
)
def test_a_wrong_configuration_is_told_at_once(
    tmp_path: Path, model: Path, wrong: dict[str, Any], said: str
) -> None:
    settings = config(tmp_path, model, data={"table": "nowhere"}) | wrong
    began = time.process_time()
    status, output = run("dpo", settings, tmp_path / "dpo.json")
    assert time.process_time() - began < 2
    assert status == 2
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "output").exists()


def test_too_little_data_and_no_mlflow_are_one_line(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model, data={"table": str(tmp_path / "nowhere")})
    status, output = run("dpo", settings, tmp_path / "dpo.json")
    assert status == 2
    assert str(tmp_path / "nowhere") in output.splitlines()[-1]
    assert "Traceback" not in output

    settings["tracking"] = {"uri": "http://127.0.0.1:9"}
    status, output = run("dpo", settings, tmp_path / "dpo.json")
    assert status == 1
    assert output.splitlines()[-1].startswith("MLflow at http://127.0.0.1:9: cannot be used: ")
    assert "Traceback" not in output


def test_examples_that_are_too_long_are_counted_and_left_out(
    tmp_path: Path, model: Path, in_process: Callable[..., Any]
) -> None:
    from trainers.errors import DataError

    table = preferences(tmp_path / "preferences", longest=120)
    some = in_process(
        "dpo",
        config(
            tmp_path / "some", model, data={"table": str(table)},
            optimisation={"steps": 1, "max_length": 100},
        ),
    )  # fmt: skip
    every = in_process(
        "dpo",
        config(
            tmp_path / "all", model, data={"table": str(table)},
            optimisation={"steps": 1, "max_length": 400},
        ),
    )  # fmt: skip
    assert 0 < some.rows < every.rows
    assert some.digest != every.digest
    assert "longer than 100 tokens" in (some.model / "README.md").read_text()
    settings = config(
        tmp_path / "none", model, data={"table": str(table)}, optimisation={"max_length": 16}
    )
    with pytest.raises(DataError, match=r"none of .* examples fits in 16 tokens"):
        in_process("dpo", settings)
