"""The configurations for many GPUs, which this machine can only read; and two processes on CPUs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tiny_model import write_preferences, write_tiny_model
from trainers.config import Cpt, Dpo, Job, read
from trainers.result import read as read_result

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "trainers" / "accelerate"
NAMES = ("8b", "8b-lora", "70b", "70b-lora")
# DPO of all parameters needs a second model, which is not sharded well enough for 70B.
JOBS: dict[str, type[Job]] = {
    "dpo-8b": Dpo,
    "dpo-8b-lora": Dpo,
    "cpt-70b": Cpt,
    "dpo-70b-lora": Dpo,
}


def test_each_configuration_has_its_job() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(NAMES)
    assert {path.stem for path in CONFIGS.glob("*.toml")} == JOBS.keys()
    assert {name.partition("-")[2] for name in JOBS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = str(CONFIGS / f"{name}.yaml")
    loaded = load_config_from_file(path)
    parser = launch_command_parser()
    asked = ["--config_file", path, "-m", "trainers.dpo", "--config", "dpo.toml"]
    args, _, _ = _validate_launch_command(parser.parse_args(asked))
    assert args.num_processes == loaded.num_processes
    sharded = name != "8b-lora"
    assert args.use_fsdp == sharded
    if sharded:
        assert set(loaded.fsdp_config) <= vars(args).keys(), "a key that accelerate does not know"
        for key, value in prepare_multi_gpu_env(args).items():
            if key.startswith("FSDP_"):
                monkeypatch.setenv(key, value)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2
        assert plugin.activation_checkpointing
        assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"


@pytest.mark.parametrize("name", JOBS)
def test_the_job_is_a_configuration(name: str) -> None:
    job = read(JOBS[name], CONFIGS / f"{name}.toml")
    assert (job.lora is not None) == name.endswith("lora")


def test_where_dpo_compares_with_a_second_model_each_process_reads_its_weights() -> None:
    loaded = yaml.safe_load((CONFIGS / "8b.yaml").read_text())
    assert loaded["fsdp_config"]["fsdp_cpu_ram_efficient_loading"] is False


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(50)]
    drawn = random.Random(0)
    write_tiny_model(tmp_path / "base", words)
    write_preferences(
        tmp_path / "preferences",
        [
            {
                "id": f"{row:032x}",
                "pmid": row + 1,
                "title": "w1 w2",
                "abstract": " ".join(drawn.choices(words, k=20)),
                "question_chosen": " ".join(drawn.choices(words, k=6)),
                "question_rejected": " ".join(drawn.choices(words, k=6)),
            }
            for row in range(40)
        ],
    )
    settings = {
        "id": "job",
        "output": str(tmp_path / "output"),
        "model": str(tmp_path / "base"),
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow/mlflow.db"},
        "data": {"table": str(tmp_path / "preferences")},
        "optimisation": {
            "learning_rate": 1e-3, "steps": 3, "batch": 2, "accumulation": 1, "save_every": 1,
            "log_every": 1,
        },
    }  # fmt: skip
    (tmp_path / "dpo.json").write_text(json.dumps(settings))
    launch = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    job = ["-m", "trainers.dpo", "--config", str(tmp_path / "dpo.json")]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("accelerate")), *launch, *job],
        cwd=ROOT,
        # What accelerate calls several GPUs are, with this, as many processes on CPUs.
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = read_result(tmp_path / "output")
    assert result is not None
    assert result.metrics["steps"] == 3
    assert (result.model / "adapter_model.safetensors").is_file()
    assert done.stderr.count("step 3 of 3: loss") == 1
