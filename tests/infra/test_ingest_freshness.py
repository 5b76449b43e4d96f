"""As of when a source is read, where several queries are made to it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from infra.ingest import Session
from infra.ingest_display import Display
from infra.settings import Settings
from streams.metrics import Metrics
from streams.records import Progress


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def session(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Session:
    async def keep(_: Progress) -> None: ...

    display = Display(Console(quiet=True))
    session = Session(Settings(data=tmp_path), "follow", display, Metrics(registry))
    monkeypatch.setattr(session, "publish", keep)
    return session


def poll(query: str, minute: int, state: str = "done") -> Progress:
    return Progress(
        id=f"poll:entrez:{query}",
        source="entrez",
        what=query,
        state=state,
        position=0,
        announced=None,
        counts={},
        at=datetime(2050, 1, 1, 0, minute, tzinfo=UTC),
    )


async def test_the_query_that_is_furthest_behind_counts(
    session: Session, registry: CollectorRegistry
) -> None:
    def as_of() -> float | None:
        labels = {"source": "entrez"}
        return registry.get_sample_value("kailin_ingest_current_timestamp_seconds", labels)

    asthma, failing = poll("asthma", 1), poll("aspirin", 1, "failed")
    for each in (asthma, failing):
        session.looks_at("entrez", each.id)
    assert as_of() is None
    await session.came_up_to_date(asthma)
    await session.came_up_to_date(failing)
    began = as_of()
    assert began is not None
    assert began < asthma.at.timestamp()

    await session.came_up_to_date(replace(failing, state="done", at=poll("", 2).at))
    assert as_of() == asthma.at.timestamp()
    await session.came_up_to_date(poll("asthma", 3))
    assert as_of() == poll("", 2).at.timestamp()
