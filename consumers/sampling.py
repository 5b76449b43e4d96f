"""Asks a model until what it says can be used, each time with another seed."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from consumers.ports import Completion, Generate, Prompted
from streams.records import seed

T = TypeVar("T")


class Sampled(Protocol):
    """How a model is prompted and sampled: what a question generator and a static model share."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def ask(self) -> Generate: ...


async def sample(
    by: Sampled, id: str, text: str, read: Callable[[Completion], tuple[T, str | None]]
) -> tuple[T, str | None, dict[str, Any]]:
    """What `read` made of the last completion, why it cannot be used, and how it came about.

    `read` returns the first two; once there is no such reason, or after `by.attempts`, no more is
    asked. The third are the fields that a candidate and an answer have in common. Seeds are those
    of the record `id`. Raises what the port raises.
    """
    attempt = prompt_tokens = completion_tokens = 0
    while True:
        attempt += 1
        attempt_seed = seed(id, by.name, attempt)
        completion = await by.ask(
            Prompted(
                model=by.model,
                prompt=text,
                temperature=by.temperature,
                top_p=by.top_p,
                max_tokens=by.max_tokens,
                seed=attempt_seed,
            )
        )
        prompt_tokens += completion.prompt_tokens
        completion_tokens += completion.completion_tokens
        made, reason = read(completion)
        if not reason or attempt >= by.attempts:
            break
    return (
        made,
        reason,
        {
            "model": by.model,
            "revision": by.revision,
            "prompt": by.prompt,
            "temperature": by.temperature,
            "top_p": by.top_p,
            "max_tokens": by.max_tokens,
            "seed": attempt_seed,
            "attempts": attempt,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
        },
    )
