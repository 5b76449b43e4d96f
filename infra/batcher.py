"""Gather single items from many tasks into batches, for a function that is faster that way."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Batch = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]


class Batcher(Generic[Item, Result]):
    """`await batcher(item)` returns the result for that item.

    `batch` is called with up to `size` items: once `size` are waiting, or `linger` seconds after
    the first of them came. One batch runs at a time; meanwhile the next one fills. `batch` returns
    a result or an exception for each item, in order; what it raises fails the callers of that
    batch and no others. The item of a cancelled caller is left out, if it has not been sent yet.
    """

    def __init__(self, batch: Batch[Item, Result], *, size: int, linger: float) -> None:
        self._batch = batch
        self._size = size
        self._linger = linger
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue = False
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    async def __call__(self, item: Item) -> Result:
        if self._closed:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._timer is None and not self._overdue:
            self._timer = loop.call_later(self._linger, self._due)
        self._send()
        return await future

    async def close(self) -> None:
        """See through what was taken; what comes after is refused with a `RuntimeError`."""
        self._closed = self._overdue = True
        self._send()
        while self._running:
            await asyncio.wait([self._running])

    def _due(self) -> None:
        self._overdue = True
        self._send()

    def _send(self) -> None:
        """Start a batch, if none runs and what waits is enough or has waited long enough."""
        if self._running:
            return
        self._waiting = [(item, future) for item, future in self._waiting if not future.done()]
        if self._waiting and (self._overdue or len(self._waiting) >= self._size):
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            # It is no caller's own work, so what it logs must not be said of one of them.
            self._running = asyncio.create_task(self._run(batch), context=Context())
            self._running.add_done_callback(self._ran)
        if not self._waiting:
            self._overdue = self._closed
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running = None
        self._send()

    async def _run(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await self._batch([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results came for a batch of {len(batch)}")
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
