from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from consumers.generate import generate
from infra.held_out import sample
from infra.settings import Settings
from infra.tables import DROPPED, IDEAL, PREFERENCES, SCHEMAS, TableError, create, location
from streams.questions import Limits
from streams.records import text_hash
from trainers.split import held_out

NOW = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tables=str(tmp_path / "tables"), training={"held_out": 0.3}, gate={"records": 20}
    )


def row(pmid: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{pmid:032x}",
        "pmid": pmid,
        "version": 1,
        "title": f"Title {pmid}",
        "abstract": f"METHODS: Forty adults.\nRESULTS: Of {pmid}.",
        "mesh": ["D001241"],
        "indexing": "Curated",
        "retracted": None,
        "arrived": NOW,
        "appended": NOW,
        "month": "2026-03",
        **changes,
    }


def append(settings: Settings, table: str, rows: list[dict[str, Any]]) -> None:
    create(settings, table)
    write_deltalake(
        location(settings, table), pa.Table.from_pylist(rows, SCHEMAS[table]), mode="append"
    )


def kept(share: float, of: range) -> list[int]:
    return [pmid for pmid in of if held_out(pmid, share)]


def test_before_there_are_rows_the_sample_is_empty_and_without_a_table_it_is_refused(settings):
    with pytest.raises(TableError, match="none of the tables preferences, ideal, dropped"):
        sample(settings, job="a")
    create(settings, DROPPED)
    assert sample(settings, job="a") == []


def test_only_standing_held_out_records_with_mesh_are_drawn_from_all_that_was_decided(settings):
    append(settings, PREFERENCES, [row(pmid) for pmid in range(1, 20)])
    append(settings, DROPPED, [row(pmid, mesh=[]) for pmid in range(20, 40)])
    append(settings, DROPPED, [row(pmid) for pmid in range(40, 60)])
    append(settings, IDEAL, [row(pmid, retracted="deleted") for pmid in range(60, 80)])
    append(settings, IDEAL, [row(pmid) for pmid in range(80, 100)])
    settings = settings.model_copy(
        update={"gate": settings.gate.model_copy(update={"records": 1000})}
    )
    drawn = sorted(article.pmid for article in sample(settings, job="a"))
    assert drawn == kept(0.3, range(1, 20)) + kept(0.3, range(40, 60)) + kept(0.3, range(80, 100))


def test_a_job_draws_the_same_records_again_and_another_job_others(settings):
    append(settings, PREFERENCES, [row(pmid) for pmid in range(1, 400)])
    first = [article.pmid for article in sample(settings, job="a")]
    assert len(first) == 20
    # Rows in another order, and a row that is there twice, make no difference.
    append(settings, IDEAL, [row(pmid) for pmid in range(399, 0, -1)])
    assert [article.pmid for article in sample(settings, job="a")] == first
    assert [article.pmid for article in sample(settings, job="b")] != first


def test_a_record_is_asked_about_as_it_last_was(settings):
    pmid = kept(0.3, range(1, 100))[0]
    append(settings, PREFERENCES, [row(pmid, version=2, title="New", mesh=["D1", "D2"])])
    append(settings, DROPPED, [row(pmid, version=1, title="Old", arrived=NOW + timedelta(1))])
    (article,) = sample(settings, job="a")
    assert (article.title, article.descriptors) == ("New", ("D1", "D2"))


async def test_its_text_is_the_one_that_the_stream_asked_about(settings):
    pmid = kept(0.3, range(1, 100))[0]
    append(settings, PREFERENCES, [row(pmid)])
    (article,) = sample(settings, job="a")
    asked = await generate(
        article, role="preference", generators=(), limits=Limits(min_words=4, max_words=60)
    )
    assert asked.source.text_hash == text_hash(row(pmid)["title"], row(pmid)["abstract"])
    assert asked.source.mesh == ("D001241",)
