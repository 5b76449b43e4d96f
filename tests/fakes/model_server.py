"""A scripted OpenAI-compatible server: chat completions and embeddings over real HTTP.

In a test:

    async with ModelServer(lambda request: Reply(text="Does aspirin help?")) as server:
        ... server.url, server.requests

As a program, for tests that kill and restart things (prints its address, then serves):

    PYTHONPATH=.:tests python -m fakes.model_server --port 8000 --refuse POISON --away 60

Given models it behaves as vLLM does: it serves those names and no others, tells its load at
/metrics, and loads adapters. What a model says is made of the file `says.txt` of its directory, so
that an answer tells which weights it comes from, whatever name they were asked for under.
"""

import argparse
import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from fakes.embed import hashed

DIMENSIONS = 384


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server does with one request.

    `body` replaces the JSON that would be sent; `cut` closes the connection in its middle. With a
    status of 400 or more, `text` is the error's message. None as text: a question made from the
    prompt, or, for embeddings, vectors made from the texts.
    """

    text: str | None = None
    status: int = 200
    delay: float = 0.0
    finish_reason: str = "stop"
    body: bytes | None = None
    cut: bool = False


Script = Callable[[dict[str, Any]], Reply]


def ordinary(request: dict[str, Any]) -> Reply:
    return Reply()


def prompt_of(request: dict[str, Any]) -> str:
    """All the text of a chat or embeddings request."""
    if "messages" in request:
        return "\n".join(str(message["content"]) for message in request["messages"])
    texts = request["input"]
    return texts if isinstance(texts, str) else "\n".join(texts)


def refusing(marker: str, otherwise: Script = ordinary) -> Script:
    """Answers 400 to whatever contains `marker`."""

    def script(request: dict[str, Any]) -> Reply:
        if marker in prompt_of(request):
            return Reply(status=400, text=f"{marker} is refused")
        return otherwise(request)

    return script


def away(seconds: float, otherwise: Script = ordinary) -> Script:
    """Answers 503 for `seconds` from the first request on."""
    began: list[float] = []

    def script(request: dict[str, Any]) -> Reply:
        began.append(time.monotonic())
        if time.monotonic() - began[0] < seconds:
            return Reply(status=503, text="starting")
        return otherwise(request)

    return script


def in_turn(*replies: Reply) -> Script:
    """Gives `replies` one after the other, then the last for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def question(prompt: str, seed: int, model: str) -> str:
    """A question that passes the filters, the same for the same prompt, seed and model."""
    digest = hashlib.blake2b(f"{prompt}\x00{seed}\x00{model}".encode(), digest_size=6).hexdigest()
    return f"Does factor {digest[:6]} change the outcome of condition {digest[6:]}?"


SAYS = "says.txt"


def said(says: str, prompt: str, seed: int) -> str:
    """A question that passes the filters and names the weights that it comes from."""
    digest = hashlib.blake2b(f"{prompt}\x00{seed}".encode(), digest_size=6).hexdigest()
    return f"Does {says} change the outcome of condition {digest}?"


class ModelServer:
    """Serves while entered; `requests` holds every decoded request body, `keys` its API keys.

    `models` maps each name to what it says; without it, every name is served. Until it is
    `healthy`, /health says so.
    """

    def __init__(
        self,
        script: Script = ordinary,
        *,
        port: int = 0,
        dimensions: int = DIMENSIONS,
        tls: ssl.SSLContext | None = None,
        models: Mapping[str, str] | None = None,
    ) -> None:
        self.script = script
        self.models = dict(models) if models is not None else None
        self.adapters: dict[str, str] = {}
        self.paths: dict[str, str] = {}
        self.healthy = True
        self.running = 0
        self._tls = tls
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._port = port
        self._dimensions = dimensions

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        names = [*(self.models or ()), *self.adapters]
        model = {"object": "model", "created": 0, "owned_by": "tests"}
        data = [{**model, "id": name, "root": self.paths.get(name)} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            text="# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{model_name="m",engine="0"}} {self.running}.0\n'
            "# TYPE vllm:num_requests_waiting gauge\n"
            'vllm:num_requests_waiting{model_name="m",engine="0"} 0.0\n'
        )

    async def _load(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name, says = asked["lora_name"], Path(asked["lora_path"]) / SAYS
        if name in self.adapters:
            return web.json_response({"error": {"message": "already been loaded"}}, status=400)
        if not says.exists():
            return web.json_response({"error": {"message": f"No adapter in {says}"}}, status=404)
        self.adapters[name] = says.read_text()
        self.paths[name] = asked["lora_path"]
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return web.json_response({"error": {"message": f"{name} cannot be found"}}, status=404)
        return web.Response(text="Success")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        try:
            return await self._complete(request)
        finally:
            self.running -= 1

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["model"]
        says = {**self.models, **self.adapters}.get(name) if self.models is not None else None
        if self.models is not None and says is None:
            message = f"The model `{name}` does not exist."
            return web.json_response({"error": {"message": message, "code": 404}}, status=404)
        asked, reply = await self._take(request)
        prompt, seed = prompt_of(asked), asked.get("seed") or 0
        text = reply.text
        if text is None:
            text = said(says, prompt, seed) if says else question(prompt, seed, asked["model"])
        return await self._answer(
            request,
            reply,
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": asked["model"],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": reply.finish_reason,
                    }
                ],
                "usage": {
                    "prompt_tokens": len(prompt.split()),
                    "completion_tokens": len(text.split()),
                    "total_tokens": len(prompt.split()) + len(text.split()),
                },
            },
        )

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        asked, reply = await self._take(request)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [3.0 * float(x) for x in hashed(text, self._dimensions)],
            }
            for index, text in enumerate(asked["input"])
        ]
        usage = {"prompt_tokens": len(prompt_of(asked).split()), "total_tokens": 0}
        return await self._answer(
            request,
            reply,
            # Backwards, since the order of `data` is not part of the API: `index` is.
            {"object": "list", "model": asked["model"], "data": data[::-1], "usage": usage},
        )

    async def _take(self, request: web.Request) -> tuple[dict[str, Any], Reply]:
        asked = await request.json()
        self.requests.append(asked)
        self.keys.append(request.headers.get("Authorization", "").removeprefix("Bearer ") or None)
        reply = self.script(asked)
        await asyncio.sleep(reply.delay)
        return asked, reply

    async def _answer(
        self, request: web.Request, reply: Reply, answer: dict[str, Any]
    ) -> web.StreamResponse:
        if reply.status >= 400:
            answer = {"error": {"message": reply.text or "", "type": "error", "code": reply.status}}
        body = json.dumps(answer).encode() if reply.body is None else reply.body
        if not reply.cut:
            return web.Response(body=body, status=reply.status, content_type="application/json")
        half = web.StreamResponse(status=reply.status)
        half.content_type = "application/json"
        half.content_length = len(body)
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort()
        return half


async def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS, help="of an embedding")
    parser.add_argument("--refuse", metavar="MARKER", help="answer 400 to prompts that hold it")
    parser.add_argument("--away", type=float, default=0.0, help="seconds of 503 at first")
    parser.add_argument("--model", type=Path, metavar="DIR", help=f"a directory with {SAYS}")
    parser.add_argument("--served-model-name", metavar="NAME", help="the only one then")
    parser.add_argument("--ill", action="store_true", help="never become healthy")
    options = parser.parse_args()

    script: Script = lambda request: Reply(delay=options.delay)  # noqa: E731
    if options.refuse:
        script = refusing(options.refuse, script)
    if options.away:
        script = away(options.away, script)
    models = None
    if options.model:
        models = {options.served_model_name: (options.model / SAYS).read_text()}
    async with ModelServer(
        script, port=options.port, dimensions=options.dimensions, models=models
    ) as server:
        server.healthy = not options.ill
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
