"""What the deployer and the gate ask of a registry of models, on the real one and on the fake."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from fakes.deploy import DirectoryRegistry
from infra.deploy import Fetch
from infra.deployer import Registry
from infra.model_registry import ModelRegistry
from infra.settings import Settings
from mlflow_engine import finished_job


@dataclass
class Models:
    """A registry without models; `add` registers the next version, `promote` makes it champion."""

    registry: Registry
    fetch: Fetch
    add: Callable[[], str]
    promote: Callable[[str], None]


@pytest.fixture(params=["fake", "real"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> Models:
    if request.param == "fake":
        fake, numbers = DirectoryRegistry(tmp_path / "registry"), count(1)

        def add_fake() -> str:
            version = next(numbers)
            fake.add(version)
            return str(version)

        return Models(fake, fake.download, add_fake, lambda version: fake.promote(int(version)))
    settings = Settings(
        data=tmp_path,
        mlflow={
            "uri": request.getfixturevalue("mlflow_uri"),
            "experiment": f"contract-{uuid4().hex}",
        },
    )
    real, jobs = ModelRegistry(settings), count(1)

    def add_real() -> str:
        done = finished_job(settings, f"job{next(jobs)}")
        return real.register(
            "theta3", job=done.job, run=done.run, directory=done.model, base="b", adapter=True
        ).version

    return Models(
        real,
        real.download,
        add_real,
        lambda version: real.promote(
            real.version("theta3", version), by="gate", reason="it is better"
        ),
    )


def test_there_is_no_champion_before_one_is_promoted(models: Models):
    assert models.registry.champion("theta3") is None
    models.add()
    assert models.registry.champion("theta3") is None


def test_the_champion_is_the_version_promoted_last(models: Models):
    first, second = models.add(), models.add()
    models.promote(second)
    champion = models.registry.champion("theta3")
    assert champion is not None
    assert (champion.version, champion.name) == (second, "theta3-v2")
    assert champion.by == "gate"
    assert champion.reason
    models.promote(first)
    assert models.registry.champion("theta3").name == "theta3-v1"


def test_a_version_is_found_by_its_number(models: Models):
    models.add()
    version = models.registry.version("theta3", models.add())
    assert (version.target, version.version) == ("theta3", "2")


def test_what_is_fetched_is_a_directory_of_files_that_was_not_there(models: Models, tmp_path: Path):
    version = models.registry.version("theta3", models.add())
    into = tmp_path / "fetched" / version.name
    into.parent.mkdir()
    assert models.fetch(version, into) == into
    assert any(path.is_file() for path in into.iterdir())
    # It belongs to who asked for it.
    shutil.rmtree(into)
    assert models.fetch(version, into) == into
