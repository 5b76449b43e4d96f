"""The adapter's verdicts on everything a server can do, over real HTTP; keys; metrics."""

import asyncio
import logging
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from consumers.ports import Prompted
from fakes.model_server import ModelServer, Reply, in_turn
from infra.openai_generate import OpenAIGenerate
from infra.settings import Server, SettingsError
from streams.errors import Invalid, Transient
from streams.metrics import Metrics

REQUEST = Prompted(model="theta1", prompt="Ask.", temperature=0.7, top_p=0.9, max_tokens=16, seed=3)

LOOPBACK = IPv4Address("127.0.0.1")


async def ask(*replies: Reply, within: float = 5.0, metrics: Metrics | None = None, times=1):
    """The answer, or the exception, to the last of `times` requests."""
    async with ModelServer(in_turn(*replies)) as server:
        adapter = OpenAIGenerate(
            Server(url=server.url, timeout=within), metrics or Metrics(CollectorRegistry())
        )
        try:
            for _ in range(times):
                result = await asyncio.gather(adapter(REQUEST), return_exceptions=True)
            assert len(server.requests) == times, "one call is one request: the stage retries"
            return result[0]
        finally:
            await adapter.close()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=503), "model server failed"),
        (Reply(status=500), "model server failed"),
        (Reply(status=502, body=b"<html>bad gateway</html>"), "model server failed"),
        (Reply(status=429), "model server overloaded"),
        (Reply(status=408), "model server overloaded"),
        (Reply(status=401), "model server: key refused"),
        (Reply(status=403), "model server: key refused"),
        (Reply(status=404), "model server: model not served"),
        (Reply(status=405), "model server: request not understood"),
        (Reply(cut=True), "model server away"),
        (Reply(body=b""), "model answer malformed"),
        (Reply(body=b'{"choices": [{"mess'), "model answer malformed"),
        (Reply(body=b"[]"), "model answer malformed"),
        (Reply(body=b'{"choices": []}'), "model answer malformed"),
        (Reply(body=b'{"choices": [{"text": "x"}]}'), "model answer malformed"),
        (Reply(body=b'{"choices": [{"message": {"content": [1]}}]}'), "model answer malformed"),
        (Reply(body=b"\xff\xfe"), "model answer malformed"),
    ],
)
async def test_what_may_pass_is_transient(reply, reason):
    error = await ask(reply)
    assert isinstance(error, Transient)
    assert error.reason == reason


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_refused_for_its_content_is_invalid(status):
    error = await ask(Reply(status=status, text="prompt is longer than the model reads"))
    assert isinstance(error, Invalid)
    assert error.reason == "model refused"
    assert "longer than the model reads" in error.detail


async def test_a_slow_server_is_transient():
    error = await ask(Reply(delay=3.0), within=0.1)
    assert isinstance(error, Transient)
    assert error.reason == "model server timed out"


async def test_a_server_that_comes_back_is_used_again():
    answer = await ask(Reply(status=503), Reply(cut=True), Reply(text="And now?"), times=3)
    assert answer.text == "And now?"


async def test_a_wrong_model_name_is_logged_with_what_to_check(caplog):
    with caplog.at_level(logging.WARNING):
        await ask(Reply(status=404, text="The model `theta1` does not exist."))
    assert "`theta1` does not exist" in caplog.text
    assert "wait while it is being deployed, else check url and model" in caplog.text
    # It is so for a while after the restart of a server that adapters are loaded into.
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_no_content_and_no_usage_are_an_empty_answer():
    answer = await ask(Reply(body=b'{"choices": [{"message": {"content": null}}]}'))
    assert (answer.text, answer.finished, answer.completion_tokens) == ("", True, 0)


@pytest.mark.parametrize("count", ["null", "-1"])
async def test_a_count_of_tokens_that_is_none_is_zero(count):
    body = (
        b'{"choices": [{"message": {"content": "And now?"}}], '
        b'"usage": {"prompt_tokens": %b, "completion_tokens": %b}}'
    )
    answer = await ask(Reply(body=body.replace(b"%b", count.encode())))
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("And now?", 0, 0)


async def test_the_request_carries_prompt_sampling_and_seed():
    async with ModelServer() as server:
        adapter = OpenAIGenerate(Server(url=server.url), Metrics(CollectorRegistry()))
        await adapter(REQUEST)
        await adapter.close()
    assert server.requests == [
        {
            "model": "theta1",
            "messages": [{"role": "user", "content": "Ask."}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 16,
            "seed": 3,
        }
    ]


async def test_the_key_goes_to_the_server_and_into_no_error_or_log(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    async with ModelServer(in_turn(Reply(status=401, text="wrong key"))) as server:
        adapter = OpenAIGenerate(
            Server(url=server.url, api_key="sk-hidden"), Metrics(CollectorRegistry())
        )
        with pytest.raises(Transient) as caught:
            await adapter(REQUEST)
        await adapter.close()
    assert server.keys == ["sk-hidden"]
    assert "sk-hidden" not in str(caught.value)
    assert "wrong key" in caplog.text
    assert "sk-hidden" not in caplog.text


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a model server")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem


async def test_a_server_is_trusted_by_the_ca_file_and_not_without(certificate):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with ModelServer(tls=tls) as server:
        trusting = OpenAIGenerate(
            Server(url=server.url, ca_file=certificate), Metrics(CollectorRegistry())
        )
        assert (await trusting(REQUEST)).text
        await trusting.close()
        doubting = OpenAIGenerate(Server(url=server.url), Metrics(CollectorRegistry()))
        with pytest.raises(Transient, match="certificate verify failed"):
            await doubting(REQUEST)
        await doubting.close()


def test_a_ca_file_that_is_not_there_names_itself(tmp_path):
    server = Server(url="https://example.org/v1", ca_file=tmp_path / "ca.pem")
    with pytest.raises(SettingsError, match=r"ca\.pem': expected a PEM file"):
        OpenAIGenerate(server, Metrics(CollectorRegistry()))


async def test_the_embedded_server_is_reached_past_a_proxy_in_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with ModelServer() as server:
        port = int(server.url.split(":")[2].removesuffix("/v1"))
        adapter = OpenAIGenerate(Server(port=port), Metrics(CollectorRegistry()))
        assert (await adapter(REQUEST)).text
        await adapter.close()


async def test_a_hundred_requests_are_in_flight_together():
    async with ModelServer(lambda _: Reply(delay=0.3)) as server:
        adapter = OpenAIGenerate(Server(url=server.url), Metrics(CollectorRegistry()))
        loop = asyncio.get_running_loop()
        await adapter(REQUEST)
        started = loop.time()
        await asyncio.gather(*(adapter(REQUEST) for _ in range(100)))
        assert loop.time() - started < 10, "one after the other they would take 30 s"
        await adapter.close()


async def test_requests_tokens_and_seconds_are_counted():
    metrics = Metrics(CollectorRegistry())
    await ask(Reply(status=503), Reply(status=400), Reply(text="a b c"), metrics=metrics, times=3)
    value = metrics.registry.get_sample_value
    for outcome in ("ok", "transient", "refused"):
        labels = {"model": "theta1", "outcome": outcome}
        assert value("kailin_model_requests_total", labels) == 1
    labels = {"model": "theta1", "kind": "completion"}
    assert value("kailin_model_tokens_total", labels) == 3
    assert value("kailin_model_request_seconds_count", {"model": "theta1"}) == 3


async def test_no_more_than_the_set_number_of_requests_are_in_flight():
    metrics = Metrics(CollectorRegistry())

    def shown() -> list[float | None]:
        names = ("requests_in_flight", "fill_ratio", "requests_waiting")
        value = metrics.registry.get_sample_value
        return [value(f"kailin_model_{name}", {"model": "theta1"}) for name in names]

    async with ModelServer(lambda _: Reply(delay=0.2)) as server:
        adapter = OpenAIGenerate(Server(url=server.url, concurrency=2), metrics)
        began = time.monotonic()
        try:
            asked = [asyncio.create_task(adapter(REQUEST)) for _ in range(5)]
            await asyncio.sleep(0)
            assert shown() == [2, 1, 3]
            await asyncio.gather(*asked)
        finally:
            await adapter.close()
    # Five requests, two at a time, take three turns.
    assert time.monotonic() - began > 0.55
    assert len(server.requests) == 5
    assert shown() == [0, 0, 0]
