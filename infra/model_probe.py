"""What a model server says of itself: its models, its load, and an answer to a trial request."""

from typing import Any

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from infra.openai_generate import client
from infra.settings import Embedder, Server

# A server that is busy, or compiles something, may take its time over the first request.
TRIAL = 120.0
LOOK = 10.0


class NoAnswer(Exception):
    """The server does not do what was asked; the message is one line."""


async def trial(server: Server, url: str, model: str) -> None:
    """One short request to the model. Raises `NoAnswer` where it is not this model that answers."""
    async with client(server, url, TRIAL) as ask:
        try:
            answer = await ask.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Write a question about aspirin."}],
                max_tokens=4,
                temperature=0.0,
            )
        except openai.APIError as error:
            raise NoAnswer(f"{url}: model {model}: {_reason(error)}") from error
    if answer.model != model or not answer.choices:
        raise NoAnswer(f"{url}: asked for model {model}, model {answer.model} answered")


async def models(server: Server | Embedder, url: str) -> dict[str, str | None]:
    """The names that it serves, and where each is loaded from if it says. Raises `NoAnswer`."""
    async with client(server, url, LOOK) as ask:
        try:
            # `root` is vLLM's own: the path of an adapter.
            return {model.id: getattr(model, "root", None) async for model in ask.models.list()}
        except openai.APIError as error:
            raise NoAnswer(f"{url}: {_reason(error)}") from error


async def post(server: Server, url: str, path: str, body: dict[str, Any]) -> None:
    """A request that is vLLM's own. Raises `NoAnswer` with what it said."""
    async with client(server, url, TRIAL) as ask:
        try:
            await ask.post(path, body=body, cast_to=httpx.Response)
        except openai.APIError as error:
            raise NoAnswer(f"{url}{path}: {_reason(error)}") from error


async def requests(server: Server, url: str, model: str, *, adapter: bool = False) -> int:
    """How many requests run or wait, as vLLM's /metrics tell. Raises `NoAnswer`.

    Of an `adapter` vLLM only tells whether there are any, so then it is at most 2.
    """
    async with client(server, url, LOOK) as ask:
        try:
            answer = await ask.get(url.removesuffix("/v1") + "/metrics", cast_to=httpx.Response)
        except openai.APIError as error:
            raise NoAnswer(f"{url}: {_reason(error)}") from error
    samples = [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]
    counted = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    number = int(sum(sample.value for sample in samples if sample.name in counted))
    told = [sample for sample in samples if sample.name == "vllm:lora_requests_info"]
    if not adapter or not number or not told:
        return number
    # A gauge for each combination there has been, whose value is when that was.
    newest = max(told, key=lambda sample: sample.value).labels
    kinds = ("running_lora_adapters", "waiting_lora_adapters")
    return sum(model in newest.get(kind, "").split(",") for kind in kinds)


def _reason(error: openai.APIError) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}: {' '.join(error.message.split())[:300]}"
    return str(error.__cause__ or error)
