"""The Generate port over any OpenAI-compatible chat endpoint: vLLM, a teacher, a closed model."""

import asyncio
import logging
import time
from typing import Self

import openai
from pydantic import BaseModel, ValidationError

from consumers.ports import Completion, Prompted
from consumers.spans import step
from infra.settings import Embedder, Server
from infra.trust import trust
from streams.errors import Invalid, Transient
from streams.metrics import Metrics

log = logging.getLogger(__name__)

# The client insists on a key; a server that has none ignores it.
NO_KEY = "none"

# Statuses that say "not now" of a request that is fine, besides 5xx.
OVERLOADED = {408, 409, 425, 429}
# Statuses that are about this request's own content.
REFUSED = {400, 413, 422}


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    # Some servers send null or -1 for what they did not count.
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(BaseModel):
    """What is read of a chat completion; servers differ in the rest."""

    choices: list[_Choice]
    usage: _Usage | None = None


class OpenAIGenerate:
    """Generate over one server, at most `concurrency` requests at once, the others in their order.

    `address` is where that server is reached if not at its own. Retries nothing: that is the
    stage's to do.
    """

    def __init__(self, server: Server, metrics: Metrics, address: str | None = None) -> None:
        self._client = client(server, address or server.address, server.timeout)
        self._metrics = metrics
        self._most, self._busy = server.concurrency, 0
        self._free = asyncio.Semaphore(self._most)

    async def __call__(self, request: Prompted) -> Completion:
        """Raises `Transient`, or `Invalid` where the server refuses this very request."""
        with self._metrics.model_waiting.labels(request.model).track_inprogress():
            await self._free.acquire()
        self._count(request.model, 1)
        try:
            return await self._counted(request)
        finally:
            self._count(request.model, -1)
            self._free.release()

    def _count(self, model: str, change: int) -> None:
        """One request more in flight, or one less."""
        self._busy += change
        self._metrics.model_in_flight.labels(model).inc(change)
        self._metrics.model_fill.labels(model).set_function(lambda: self._busy / self._most)

    async def _counted(self, request: Prompted) -> Completion:
        started = time.monotonic()
        outcome = "transient"
        try:
            with step("model request", {"gen_ai.request.model": request.model}) as span:
                completion = await self._ask(request)
                span.set_attribute("gen_ai.usage.input_tokens", completion.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", completion.completion_tokens)
            outcome = "ok"
        except Invalid:
            outcome = "refused"
            raise
        finally:
            self._metrics.model_requests.labels(request.model, outcome).inc()
            self._metrics.model_seconds.labels(request.model).observe(time.monotonic() - started)
        tokens = self._metrics.model_tokens
        tokens.labels(request.model, "prompt").inc(completion.prompt_tokens)
        tokens.labels(request.model, "completion").inc(completion.completion_tokens)
        return completion

    async def _ask(self, request: Prompted) -> Completion:
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=request.model,
                messages=[{"role": "user", "content": request.prompt}],
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                seed=request.seed,
            )
        except openai.APIError as error:
            raise verdict(error) from error
        try:
            answer = _Answer.model_validate_json(raw.content)
            choice = answer.choices[0]
        except (ValidationError, IndexError) as error:
            raise malformed(raw.content) from error
        usage = answer.usage or _Usage()
        return Completion(
            text=choice.message.content or "",
            finished=choice.finish_reason != "length",
            prompt_tokens=max(0, usage.prompt_tokens or 0),
            completion_tokens=max(0, usage.completion_tokens or 0),
        )

    async def close(self) -> None:
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def client(server: Server | Embedder, address: str, timeout: float) -> openai.AsyncOpenAI:
    """A client of one server: its key, its certificate authority, and no retries of its own.

    Raises `SettingsError` where the CA file cannot be used.
    """
    http = openai.DefaultAsyncHttpxClient(
        verify=trust(server.ca_file, "ca_file"),
        # A proxy in the environment is for the servers outside.
        trust_env=bool(server.url),
    )
    return openai.AsyncOpenAI(
        base_url=address,
        api_key=server.api_key.get_secret_value() or NO_KEY,
        max_retries=0,
        timeout=openai.Timeout(timeout, connect=5.0),
        http_client=http,
    )


def verdict(error: openai.APIError) -> Transient | Invalid:
    """What a failed request means for the record.

    A wrong key or model name is a fault of the settings, which would send a whole topic to the
    dead letters one record at a time, so the record waits until it is put right.
    """
    if isinstance(error, openai.APITimeoutError):
        return Transient("model server timed out")
    if not isinstance(error, openai.APIStatusError):
        return Transient("model server away", str(error.__cause__ or error))
    status = error.status_code
    detail = f"{error.request.url}: status {status}: {error.message}"[:500]
    if status in REFUSED:
        return Invalid("model refused", detail)
    if status in OVERLOADED:
        return Transient("model server overloaded", detail)
    if status >= 500:
        return Transient("model server failed", detail)
    if status == 404:
        log.warning("%s; wait while it is being deployed, else check url and model", detail)
        return Transient("model server: model not served", detail)
    fault = {401: "key refused", 403: "key refused"}
    log.error("%s; check url, model and api_key in the settings", detail)
    return Transient(f"model server: {fault.get(status, 'request not understood')}", detail)


def malformed(content: bytes) -> Transient:
    """An answer cut short or not in the API's form: a proxy's page, a server going down."""
    return Transient("model answer malformed", repr(content[:200]))
