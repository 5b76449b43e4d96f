"""Convert a GGUF file to a directory in Hugging Face's format, weights in bfloat16.

    python -m infra.gguf_to_hf model.gguf directory

A program of its own, because it loads torch and the weights: whoever needs the result runs it as
a child and stays small. `infra/models.py` does, once for each file.
"""

import sys
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def special_tokens(gguf: Path) -> dict[str, tuple[int, str]]:
    """Id and text of the special tokens that the file's own metadata name."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    vocabulary = reader.get_field("tokenizer.ggml.tokens")
    if vocabulary is None:
        raise ValueError(f"{gguf}: holds no tokenizer")
    found: dict[str, tuple[int, str]] = {}
    for name, key in SPECIAL_TOKENS.items():
        field = reader.get_field(key)
        if field is not None:
            token = int(field.contents())
            found[name] = (token, vocabulary.contents(token))
    if "eos_token" not in found:
        raise ValueError(f"{gguf}: names no end-of-sequence token")
    return found


def convert(gguf: Path, directory: Path) -> None:
    """Write model, tokenizer, chat template and generation settings of `gguf` to `directory`."""
    tokens = special_tokens(gguf)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **source)
    # The weights are plain now: whatever still says "GGUF" makes a loader look for the file.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    ids = {f"{name}_id": id for name, (id, _) in tokens.items() if name != "unk_token"}
    for name, id in ids.items():
        setattr(model.config, name, id)
    model.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **source)
    # transformers takes a default of the architecture for the end of a sequence: a model that
    # ends its answers with another token would never stop.
    tokenizer.add_special_tokens({name: text for name, (_, text) in tokens.items()})
    tokenizer.save_pretrained(directory)


def main(arguments: list[str]) -> None:
    try:
        gguf, directory = map(Path, arguments)
    except ValueError:
        sys.exit("usage: python -m infra.gguf_to_hf model.gguf directory")
    try:
        convert(gguf, directory)
    except (ValueError, OSError) as error:
        sys.exit(f"{gguf}: cannot be converted: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
