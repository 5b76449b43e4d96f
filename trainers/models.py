"""The model that a job trains, and its tokenizer."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.import_utils import is_flash_attn_2_available

from trainers.config import Job, Lora
from trainers.device import Device
from trainers.errors import JobError

# Of base models that have no chat template: the texts as they are, an answer with its end.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n' }}{% endfor %}"
)
# A template is told all special tokens: those that the tokenizer adds by itself come only to plain
# texts, and a model that has always seen one at the beginning must go on seeing it.
BEGUN_TEMPLATE = "{{ bos_token }}" + PLAIN_TEMPLATE


def load_tokenizer(config: Job) -> PreTrainedTokenizerBase:
    """The adapter's tokenizer where it brings one, else the model's. Raises `JobError`."""
    source: Any = config.model
    if config.adapter and (config.adapter / "tokenizer_config.json").is_file():
        source = config.adapter
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise JobError(f"model {source}: its tokenizer cannot be loaded: {_line(error)}") from None
    if tokenizer.eos_token is None:
        raise JobError(f"model {source}: its tokenizer names no end-of-sequence token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = BEGUN_TEMPLATE if _adds_bos(tokenizer) else PLAIN_TEMPLATE
    return tokenizer


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    begun: list[int] = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and begun[:1] == [tokenizer.bos_token_id]


def load_model(config: Job, device: Device) -> Any:
    """The weights, with the adapter to go on from where there is one. Raises `JobError`.

    Weights that are trained themselves are float32, whatever is computed in: the small steps of
    training vanish when they are added to bfloat16. Under an adapter they are of the computing
    dtype, and the adapter is float32.
    """
    dtype = device.dtype if config.lora else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.model,
            dtype=dtype,
            # Other formats run code when they are read.
            use_safetensors=True,
            attn_implementation=_attention(device),
        )
        model.config.use_cache = False
        if config.adapter is None:
            return model
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(config.adapter), is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        what = f" with adapter {config.adapter}" if config.adapter else ""
        raise JobError(f"model {config.model}{what}: cannot be loaded: {_line(error)}") from None


def new_adapter(lora: Lora) -> Any:
    """PEFT's configuration of an adapter that begins as no change at all."""
    from peft import LoraConfig

    modules = "all-linear" if lora.modules == ("all-linear",) else list(lora.modules)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )


def _attention(device: Device) -> str:
    # Packed texts are kept apart by either; only this one does not compute what it then masks.
    flash = device.kind == "cuda" and device.dtype == torch.bfloat16
    return "flash_attention_2" if flash and is_flash_attn_2_available() else "sdpa"


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
