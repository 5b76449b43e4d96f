"""A TCP proxy on loopback that cuts, holds up and slows down what it passes on.

with running_proxy(target_port) as way:
    ... connect to way.port ...
    way.cut(); way.restore()
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 16 << 10
HOST = "127.0.0.1"


class TcpProxy:
    """Passes connections to its `port` on to `target`; the faults hold until `restore`.

    The counts say what the faults have really done: connections `broken` in the midst and
    `refused`, chunks `held` back and `slowed`.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.opened = self.broken = self.refused = self.held = self.slowed = 0
        self._refusing = False
        self._delay = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def felt(self) -> int:
        """How often any fault was felt by a connection."""
        return self.broken + self.refused + self.held + self.slowed

    def cut(self) -> None:
        """Break every connection, with what is on its way, and refuse new ones."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._break)

    def stall(self) -> None:
        """Let nothing through; connections stay open, as behind a cable that was pulled."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def slow(self, seconds: float) -> None:
        """Pass on each chunk (16 KiB at most) this much later, one after the other."""
        self._delay = seconds

    def restore(self) -> None:
        """End every fault."""
        self._refusing = False
        self._delay = 0.0
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _break(self) -> None:
        self.broken += len(self._open) // 2
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.refused += 1
            writer.transport.abort()
            return
        try:
            there, to_there = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        self.opened += 1
        self._open |= {writer, to_there}
        try:
            await asyncio.gather(self._pass(reader, to_there), self._pass(there, writer))
        except OSError:
            pass
        finally:
            self._open -= {writer, to_there}
            for end in (writer, to_there):
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self._delay:
                self.slowed += 1
                await asyncio.sleep(self._delay)
            if not self._flowing.is_set():
                self.held += 1
                await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def running_proxy(target: int, port: int = 0) -> Iterator[TcpProxy]:
    """A proxy in a thread of its own, on `port` or a free one."""
    proxy = TcpProxy(target)
    proxy.port = port
    thread = threading.Thread(target=proxy._loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy._listen(), proxy._loop).result(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy._end(), proxy._loop).result(10)
        proxy._loop.call_soon_threadsafe(proxy._loop.stop)
        thread.join()
        proxy._loop.close()
