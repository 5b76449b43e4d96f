"""A model and a tokenizer small enough to train in a test, and rows to train them on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from infra.tables import IDEAL, PREFERENCES, SCHEMAS

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def write_tiny_model(directory: Path, words: Sequence[str], *, template: bool = True) -> Path:
    """A Llama of 2 layers with random weights (always the same), and a tokenizer of these words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    if template:
        tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_preferences(table: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table `preferences` with these columns, and the others as they may be."""
    _write(table, PREFERENCES, rows)


def write_ideal(table: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table `ideal` with these columns, and the others as they may be."""
    _write(table, IDEAL, rows)


def _write(table: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    schema = SCHEMAS[name]
    now = datetime(2026, 11, 1, tzinfo=UTC)
    usual = {"arrived": now, "appended": now, "month": "2026-11", "retracted": None}
    full = [
        {field.name: {**usual, **row}.get(field.name, _usual(field.type)) for field in schema}
        for row in rows
    ]
    write_deltalake(str(table), pa.Table.from_pylist(full, schema=schema), mode="append")


def _usual(type: pa.DataType) -> Any:
    if pa.types.is_list(type):
        return []
    if pa.types.is_string(type):
        return "x"
    if pa.types.is_floating(type):
        return 0.5
    return 1 if pa.types.is_integer(type) else None
