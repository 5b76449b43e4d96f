"""A real node behind a proxy that ends TLS: who is trusted, who is let in, what is said of it."""

import base64
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import ElasticsearchEngine, free_port
from fakes.records import article
from fakes.tls_proxy import TlsProxy, tls_proxy
from infra.elastic import ElasticIndex, ElasticLookup, connect, prepare
from infra.settings import Elasticsearch, SettingsError
from secured_engine import Authority, authority

pytestmark = pytest.mark.elasticsearch

ROOT = Path(__file__).parent.parent.parent
VECTOR = np.array([1, 0, 0, 0], dtype=np.float32)
SECRET = "s3cr3t-xyzzy"


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def proxy(elasticsearch_node: ElasticsearchEngine, trusted: Authority) -> Iterator[TlsProxy]:
    with tls_proxy(elasticsearch_node.url, *trusted.issue("search")) as proxy:
        yield proxy


def another_authority(directory: Path) -> Path:
    (directory / "another").mkdir()
    return authority(directory / "another").ca


async def through(settings: Elasticsearch) -> dict[int, tuple[str, ...]]:
    """A record put into an index of its own and looked up again."""
    client = connect(settings)
    try:
        await prepare(client, settings.alias, 4)
        await ElasticIndex(client, settings.alias).put(article(10), VECTOR, version=1)
        found = await ElasticLookup(client, settings.alias)([10])
        await client.indices.delete(index=f"{settings.alias}-000001")
        return found
    finally:
        await client.close()


def basic(user: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{SECRET}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("credentials", "wanted"),
    [
        ({"api_key": SECRET}, f"ApiKey {SECRET}"),
        ({"username": "kailin", "password": SECRET}, basic("kailin")),
    ],
    ids=["API key", "user and password"],
)
async def test_credentials_reach_a_server_that_the_ca_vouches_for(
    proxy: TlsProxy, trusted: Authority, credentials: dict[str, Any], wanted: str
):
    proxy.wants = wanted
    alias = f"test-{uuid.uuid4().hex}"
    settings = Elasticsearch(url=proxy.url, ca_file=trusted.ca, alias=alias, **credentials)
    assert await through(settings) == {10: article(10).descriptors}
    assert set(proxy.seen) == {wanted}


async def test_credentials_are_not_sent_to_a_server_that_is_not_trusted(
    proxy: TlsProxy, tmp_path: Path
):
    for ca_file in (another_authority(tmp_path), None):
        with pytest.raises(SettingsError, match=r"^elasticsearch\.ca_file: .*not trusted"):
            await through(Elasticsearch(url=proxy.url, api_key=SECRET, ca_file=ca_file))
    assert proxy.seen == []


async def test_a_wrong_key_is_told_of_and_not_repeated(proxy: TlsProxy, trusted: Authority):
    proxy.wants = "ApiKey another"
    with pytest.raises(SettingsError, match=r"refused.*check api_key") as refused:
        await through(Elasticsearch(url=proxy.url, api_key=SECRET, ca_file=trusted.ca))
    assert SECRET not in str(refused.value)


def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path):
    (empty := tmp_path / "ca.pem").write_text("")
    for path in (tmp_path / "none.pem", empty):
        with pytest.raises(SettingsError, match=r"^elasticsearch\.ca_file = '.*\.pem': expected"):
            connect(Elasticsearch(url="https://search:9200", ca_file=path))


def test_a_stage_says_in_one_line_that_it_does_not_trust_the_server(
    proxy: TlsProxy, tmp_path: Path
):
    (secret := tmp_path / "key").write_text(SECRET)
    search = {"url": proxy.url, "ca_file": str(another_authority(tmp_path))}
    given = {
        "DATA": str(tmp_path / "data"),
        "ELASTICSEARCH": json.dumps({**search, "api_key_file": str(secret)}),
        "EMBEDDER__URL": f"http://127.0.0.1:{free_port()}/v1",
        "PORTS__RETRIEVE": str(free_port()),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "infra.cli", "run", "retrieve"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **{f"KAILIN_{name}": value for name, value in given.items()},
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    *before, line = ended.stderr.splitlines()
    # The client warns of each node that it cannot use.
    assert all('"WARNING"' in said for said in before)
    assert "elasticsearch.ca_file: the server's certificate is not trusted" in line
    assert SECRET not in line
    assert proxy.seen == []
