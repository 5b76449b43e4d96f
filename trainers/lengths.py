"""What `max_length` leaves of a data set, counted before training: TRL drops and cuts unseen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Columns = Mapping[str, Sequence[Any]]
# The column that holds an example's tokens, by which examples of like length are put together.
LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Examples by what became of them, and the tokens of those that are trained on.

    A prompt is never cut: where it and its completion are too long the example is dropped. A text
    alone is cut at the end, or split where texts are packed.
    """

    kept: int
    cut: int
    split: int
    dropped: int
    tokens: int
    longest: int


def fitted(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    split: bool = False,
) -> tuple[Dataset, Lengths]:
    """The examples that fit, with a column `length`, and the count of all.

    Takes TRL's layouts: `prompt` with `completion`, or with `chosen` and `rejected`
    (conversational; the longer one counts), or `text`, which packing will `split`.
    """
    count = _counter(tokenizer, data.column_names)
    measured = data.map(
        lambda examples: {LENGTH: count(examples)},
        batched=True,
        batch_size=256,
        desc="Counting tokens",
        # What a tokenizer's state hashes to differs between runs, so nothing would be found again.
        new_fingerprint=f"{data._fingerprint}-length",
        load_from_cache_file=False,
    )
    lengths = [int(length) for length in measured[LENGTH]]
    over = sum(length > max_length for length in lengths)
    texts = "text" in data.column_names
    if over and not texts:
        measured = measured.select(
            [row for row, length in enumerate(lengths) if length <= max_length]
        )
    if texts and split:
        tokens = sum(lengths)
    elif texts:
        tokens = sum(min(length, max_length) for length in lengths)
    else:
        tokens = sum(length for length in lengths if length <= max_length)
    return measured, Lengths(
        kept=len(lengths) - over,
        cut=over if texts and not split else 0,
        split=over if texts and split else 0,
        dropped=0 if texts else over,
        tokens=tokens,
        longest=max(lengths, default=0),
    )


def _counter(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[str]
) -> Callable[[Columns], list[int]]:
    def conversations(examples: Columns, completion: str) -> list[int]:
        both = [
            prompt + answer
            for prompt, answer in zip(examples["prompt"], examples[completion], strict=True)
        ]
        ids: Any = tokenizer.apply_chat_template(both, tokenize=True, return_dict=True)
        return [len(one) for one in ids["input_ids"]]

    def count(examples: Columns) -> list[int]:
        if "text" in columns:
            # TRL ends each with the end-of-sequence token.
            return [len(ids) + 1 for ids in tokenizer(list(examples["text"]))["input_ids"]]
        if "completion" in columns:
            return conversations(examples, "completion")
        chosen, rejected = (conversations(examples, side) for side in ("chosen", "rejected"))
        return [max(pair) for pair in zip(chosen, rejected, strict=True)]

    return count
