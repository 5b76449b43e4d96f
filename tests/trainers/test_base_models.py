"""The tokenizer that a base model is trained and served with."""

from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tiny_model import TEMPLATE, write_tiny_model
from trainers.config import Dpo
from trainers.models import load_tokenizer

MESSAGES = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w2"}]
WORDS = ["w1", "w2"]


def loaded(model: Path) -> PreTrainedTokenizerBase:
    settings = {
        "id": "job",
        "output": "output",
        "model": str(model),
        "tracking": {"uri": "sqlite://"},
        "optimisation": {"learning_rate": 1e-5},
        "data": {"table": "nowhere"},
    }
    return load_tokenizer(Dpo.model_validate(settings))


@pytest.mark.parametrize("begins", [True, False])
def test_a_base_model_sees_what_it_has_always_seen_at_the_beginning(
    tmp_path: Path, begins: bool
) -> None:
    model = write_tiny_model(tmp_path / "base", WORDS, template=False)
    if begins:
        plain = AutoTokenizer.from_pretrained(model)
        plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", plain.bos_token_id)]
        )
        plain.save_pretrained(model)
    tokenizer = loaded(model)
    asked = tokenizer.apply_chat_template(MESSAGES, tokenize=True, return_dict=True)
    ids = list(asked["input_ids"])
    assert tokenizer("w1")["input_ids"][:1] == ([tokenizer.bos_token_id] if begins else ids[:1])
    assert ids.count(tokenizer.bos_token_id) == begins
    assert (ids[0] == tokenizer.bos_token_id) == begins
    assert ids[-1] == tokenizer.eos_token_id


def test_a_models_own_template_stays(tmp_path: Path) -> None:
    assert loaded(write_tiny_model(tmp_path / "base", WORDS)).chat_template == TEMPLATE
