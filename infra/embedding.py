"""The Embed port: a sentence encoder in this process, or behind an OpenAI-compatible endpoint."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from consumers.ports import Vector
from infra.batcher import Batcher
from infra.models import cpu_dtype, model_directory
from infra.openai_generate import client, malformed, verdict
from infra.settings import Embedder, SettingsError
from streams.errors import Invalid, Transient

log = logging.getLogger(__name__)

# Seconds that a text waits for others to share its batch with.
LINGER = 0.02
# Texts that go through the encoder together, sorted by length: few, so that little is padding.
FORWARD = 8
# Seconds for a batch over HTTP.
TIMEOUT = 60.0


class Embedding:
    """Embed, in batches. `close` lets go of the encoder or the connections."""

    def __init__(
        self,
        batch: Callable[[Sequence[str]], Awaitable[Sequence[Vector | Exception]]],
        size: int,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._batcher: Batcher[str, Vector] = Batcher(batch, size=size, linger=LINGER)
        self._close = close

    async def __call__(self, text: str) -> Vector:
        return await self._batcher(text)

    async def close(self) -> None:
        await self._batcher.close()
        await self._close()


def embedding(settings: Embedder) -> Embedding:
    """The encoder that the settings name. In process, it is loaded here, which blocks for seconds.

    Raises `ComponentError` or `SettingsError` where it cannot be used.
    """
    return over_http(settings) if settings.url else in_process(settings)


def in_process(settings: Embedder) -> Embedding:
    """A sentence-transformers model in a thread of its own, so that the event loop stays free.

    Texts longer than the model reads are cut at its limit.
    """
    directory = model_directory(settings.source)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedding")

    def load() -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        # Of the calling thread only: it has to be the one that computes.
        torch.set_num_threads(settings.threads)
        # Never on a GPU: a model server has most of its memory.
        dtype = getattr(torch, cpu_dtype())
        return SentenceTransformer(
            str(directory), device="cpu", model_kwargs={"dtype": dtype}, local_files_only=True
        )

    def encode(texts: list[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(
            texts, batch_size=FORWARD, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors

    model = worker.submit(load).result()
    dimensions = worker.submit(encode, ["a"]).result().shape[1]
    if dimensions != settings.dimensions:
        raise SettingsError(
            f"embedder.dimensions = {settings.dimensions}: {settings.source} has {dimensions}"
        )

    async def batch(texts: Sequence[str]) -> list[Vector | Exception]:
        loop = asyncio.get_running_loop()
        return _unit(await loop.run_in_executor(worker, encode, list(texts)))

    async def close() -> None:
        worker.shutdown(wait=False)

    return Embedding(batch, settings.batch, close)


class _Embedded(BaseModel):
    index: int
    # null is how JSON has a number that is not one.
    embedding: list[float | None]


class _Answer(BaseModel):
    data: list[_Embedded]


def over_http(settings: Embedder) -> Embedding:
    """An OpenAI-compatible /v1/embeddings. Raises the same errors for a text as Generate does."""
    server = client(settings, settings.url, TIMEOUT)

    async def ask(texts: Sequence[str]) -> list[Vector | Exception]:
        try:
            raw = await server.embeddings.with_raw_response.create(
                model=settings.model,
                input=list(texts),
                encoding_format="float",
                # vLLM: cut a text at the model's length, where it would refuse it.
                extra_body={"truncate_prompt_tokens": -1},
            )
        except openai.APIError as error:
            raise verdict(error) from error
        try:
            answer = _Answer.model_validate_json(raw.content)
        except ValidationError as error:
            raise malformed(raw.content) from error
        rows = sorted(answer.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(len(texts))):
            raise malformed(raw.content)
        for row in rows:
            if len(row.embedding) != settings.dimensions:
                log.error(
                    "embedder.dimensions = %d: %s at %s has %d",
                    *(settings.dimensions, settings.model, settings.url, len(row.embedding)),
                )
                raise Transient("embedding of another length than embedder.dimensions")
        return _unit(np.array([row.embedding for row in rows], dtype=np.float32))

    async def batch(texts: Sequence[str]) -> Sequence[Vector | Exception]:
        try:
            return await ask(texts)
        except Invalid:
            if len(texts) == 1:
                raise
        # One text was refused: find which, so that it takes no others with it.
        alone = await asyncio.gather(*(ask([text]) for text in texts), return_exceptions=True)
        return [_only(result) for result in alone]

    return Embedding(batch, settings.batch, server.close)


def _only(result: list[Vector | Exception] | BaseException) -> Vector | Exception:
    if isinstance(result, Exception):
        return result
    if isinstance(result, BaseException):
        raise result
    return result[0]


def _unit(vectors: NDArray[Any]) -> list[Vector | Exception]:
    """Rows scaled to length 1, in float32; `Invalid` in place of one that has no direction."""
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1)
    return [
        row / norm
        if np.isfinite(norm) and norm > 0
        else Invalid("no embedding", f"expected a vector of a finite length, got length {norm}")
        for row, norm in zip(rows, norms, strict=True)
    ]
