"""Merge a LoRA adapter into its base model: whole weights that need no adapter to be served.

    python -m trainers.merge --base DIRECTORY --adapter DIRECTORY --output DIRECTORY

The output appears whole or not at all; where it is there already, nothing is done.
"""

import argparse
import shutil
import sys
from pathlib import Path

from trainers.errors import JobError


def merge(base: str, adapter: Path, output: Path, readme: str | None = None) -> None:
    """Write base and adapter as one model, in the base's dtype, with the README.md given.

    Raises `JobError`.
    """
    if output.is_dir():
        return
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unfinished = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    has_tokenizer = (adapter / "tokenizer_config.json").is_file()
    try:
        with torch.inference_mode():
            model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", use_safetensors=True)
            merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        output.parent.mkdir(parents=True, exist_ok=True)
        merged.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(adapter if has_tokenizer else base).save_pretrained(
            unfinished
        )
        if readme is not None:
            (unfinished / "README.md").write_text(readme)
        unfinished.rename(output)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise JobError(f"adapter {adapter} on {base}: cannot be merged: {said}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", required=True, help="a model's directory, or a name on the Hub")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        merge(options.base, options.adapter, options.output)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
