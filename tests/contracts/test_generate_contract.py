"""What every Generate port does: the scripted one, the adapter over HTTP, and it on real vLLM."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from consumers.ports import Completion, Generate, Prompted
from fakes.generate import FakeGenerate
from fakes.model_server import ModelServer, Reply, prompt_of, question
from infra.openai_generate import OpenAIGenerate
from infra.settings import Server
from streams.errors import Invalid, Transient
from streams.metrics import Metrics

TOO_LONG = "word " * 5000


def request(prompt: str = "Write one question about aspirin.", **changes) -> Prompted:
    usual = {"model": "theta1", "temperature": 0.7, "top_p": 0.9, "max_tokens": 24, "seed": 7}
    return Prompted(prompt=prompt, **{**usual, **changes})


def fake_answer(asked: Prompted) -> str | Exception:
    if asked.prompt == TOO_LONG:
        return Invalid("model refused", "too long")
    return question(asked.prompt, asked.seed, asked.model)


def http_reply(asked: dict) -> Reply:
    prompt = prompt_of(asked)
    if prompt == TOO_LONG:
        return Reply(status=400, text="too long")
    text = question(prompt, asked["seed"], asked["model"])
    kept = text.split()[: asked["max_tokens"]]
    cut = len(kept) < len(text.split())
    return Reply(text=" ".join(kept), finish_reason="length" if cut else "stop")


@pytest.fixture(params=["fake", "http", pytest.param("vllm", marks=pytest.mark.vllm)])
async def generate(request: pytest.FixtureRequest) -> AsyncIterator[Generate]:
    metrics = Metrics(CollectorRegistry())
    if request.param == "fake":
        yield FakeGenerate(fake_answer)
        return
    if request.param == "http":
        async with ModelServer(http_reply) as server:
            adapter = OpenAIGenerate(Server(url=server.url), metrics)
            yield adapter
            await adapter.close()
        return
    url, _ = request.getfixturevalue("vllm_server")
    adapter = OpenAIGenerate(Server(url=url), metrics)
    yield adapter
    await adapter.close()


async def test_answers_with_text_and_token_counts(generate):
    completion = await generate(request())
    assert isinstance(completion, Completion)
    assert completion.text.strip()
    assert completion.prompt_tokens >= 5
    assert 1 <= completion.completion_tokens <= 24


async def test_the_same_request_gets_the_same_answer(generate):
    assert (await generate(request(seed=11))).text == (await generate(request(seed=11))).text


async def test_another_seed_gets_another_answer(generate):
    texts = {(await generate(request(seed=seed, temperature=1.0))).text for seed in range(4)}
    assert len(texts) > 1


async def test_a_text_cut_at_the_token_limit_is_not_finished(generate):
    completion = await generate(request(max_tokens=2))
    assert not completion.finished
    assert completion.completion_tokens == 2


async def test_many_requests_at_once_each_get_their_own_answer(generate):
    asked = [request(f"Write one question about gene {n}.", seed=n) for n in range(12)]
    together = await asyncio.gather(*(generate(one) for one in asked))
    assert len({completion.text for completion in together}) > 6


async def test_a_prompt_that_the_model_cannot_take_is_invalid(generate):
    with pytest.raises(Invalid) as caught:
        await generate(request(TOO_LONG))
    assert caught.value.reason == "model refused"


async def test_a_refused_prompt_does_not_disturb_the_others(generate):
    good, bad, also_good = await asyncio.gather(
        *(generate(request(prompt)) for prompt in ("Ask about p53.", TOO_LONG, "Ask about BRCA1.")),
        return_exceptions=True,
    )
    assert isinstance(bad, Invalid)
    assert good.text
    assert also_good.text


async def test_a_fake_and_a_server_that_are_away_are_transient():
    with pytest.raises(Transient):
        await FakeGenerate([Transient("model server away")])(request())
    adapter = OpenAIGenerate(Server(url="http://127.0.0.1:9/v1"), Metrics(CollectorRegistry()))
    with pytest.raises(Transient) as caught:
        await adapter(request())
    assert caught.value.reason == "model server away"
    await adapter.close()
