"""A TLS-terminating proxy before a plain HTTP server, as one stands before a search cluster.

with tls_proxy("http://127.0.0.1:9200", certificate, key) as proxy:
    proxy.url, proxy.wants, proxy.seen
"""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

# What belongs to one connection, or is made anew for the next.
HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length"}


class TlsProxy:
    """Passes on the requests that carry the Authorization it `wants`; None wants none.

    `seen` holds what each request carried.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext) -> None:
        self.wants: str | None = None
        self.seen: list[str | None] = []
        self.url = ""
        self._upstream = upstream
        self._tls = tls

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**27)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization")
        self.seen.append(given)
        if self.wants is not None and given != self.wants:
            refused = {"type": "security_exception", "reason": "unable to authenticate"}
            return web.json_response({"error": refused, "status": 401}, status=401)
        async with self._session.request(
            request.method,
            f"{self._upstream}{request.raw_path}",
            headers={k: v for k, v in request.headers.items() if k.lower() not in HOP},
            data=await request.read() or None,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


@contextmanager
def tls_proxy(upstream: str, certificate: Path, key: Path) -> Iterator[TlsProxy]:
    """The proxy with this certificate, in a thread of its own."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    proxy, loop = TlsProxy(upstream, tls), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
