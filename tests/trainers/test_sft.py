"""What SFT learns from: the completion alone, and packed texts as if each stood alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tiny_model import write_tiny_model
from trainers.config import SftAnswers
from trainers.device import Device
from trainers.lengths import fitted
from trainers.models import load_model
from trainers.sft import sft_trainer
from trainers.training import Parts, arguments

WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base", WORDS)


def examples(number: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                "id": str(row),
                "prompt": [{"role": "user", "content": " ".join(WORDS[row : row + 3 + row])}],
                "completion": [{"role": "assistant", "content": f"w{50 + row}"}],
            }
            for row in range(number)
        ]
    )


def trainer_of(directory: Path, model: Path, data: Dataset, *, packing: bool) -> Any:
    config = SftAnswers.model_validate(
        {
            "id": "job", "output": directory, "model": str(model), "lora": False,
            "tracking": {"uri": "sqlite:///unused"}, "pqa": "unused.json",
            "optimisation": {
                "learning_rate": 1e-3, "max_length": 64, "batch": 2, "packing": packing,
            },
        }
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    device = Device("cpu", "cpu", 1, torch.float32)
    return sft_trainer(
        config,
        Parts(
            model=load_model(config, device),
            tokenizer=tokenizer,
            adapter=None,
            train=fitted(data, tokenizer, 64)[0],
            held_out=None,
            arguments=arguments(config, device, evaluated=False, packs=packing),
            callbacks=[],
        ),
    )


def test_the_loss_is_on_the_completion_only(tmp_path: Path, model: Path) -> None:
    trainer = trainer_of(tmp_path, model, examples(4), packing=False)
    for row, example in enumerate(trainer.train_dataset):
        learnt = [token for token in example["labels"] if token != -100]
        assert trainer.processing_class.decode(learnt).split() == [f"w{50 + row}", "</s>"]


def test_packed_texts_do_not_see_each_other(tmp_path: Path, model: Path) -> None:
    packed = trainer_of(tmp_path / "packed", model, examples(5), packing=True)
    plain = trainer_of(tmp_path / "plain", model, examples(5), packing=False)
    (pack,) = [packed.data_collator([example]) for example in packed.train_dataset]
    assert pack["input_ids"].shape[0] == 1

    def losses(trainer: Any, batch: Any) -> torch.Tensor:
        labels = batch.pop("labels")
        with torch.no_grad():
            # As a job loads it: with a cache, packed texts would not be told apart.
            logits = trainer.model.eval()(**batch).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none"
        )
        return each[labels[:, 1:] != -100].sort().values

    alone = torch.cat(
        [losses(plain, plain.data_collator([example])) for example in plain.train_dataset]
    )
    torch.testing.assert_close(losses(packed, dict(pack)), alone.sort().values)
