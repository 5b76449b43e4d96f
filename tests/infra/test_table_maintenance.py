"""The upkeep of the tables takes nothing from anyone who reads or writes them."""

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from fakes.entries import entry
from fakes.records import job, preference
from infra import table_maintenance
from infra.delta_sink import DeltaSink
from infra.settings import Settings
from infra.table_maintenance import maintain, versions
from infra.tables import CONFIGURATION, create, open_table
from streams.metrics import Metrics

DAY = 24 * 3600


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(CONFIGURATION, "delta.checkpointInterval", "10")
    return Settings(tables=str(tmp_path / "tables"), append={"compact_every": 1_000_000})


def sink(settings: Settings) -> DeltaSink:
    opened = DeltaSink(settings, Metrics(CollectorRegistry()))
    opened.open()
    return opened


def append(to: DeltaSink, *pmids: int) -> None:
    """A commit for each, as a worker makes them."""
    for pmid in pmids:
        to.append([entry(pmid, preference(pmid), timestamp=pmid)])


def age(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a week go by for all that is there: files that are not read any more may go."""
    monkeypatch.setitem(CONFIGURATION, "delta.deletedFileRetentionDuration", "interval 0 seconds")
    past = time.time() - 8 * DAY
    for file in (Path(settings.tables_uri) / "preferences" / "_delta_log").iterdir():
        os.utime(file, (past, past))


def read(settings: Settings, version: int) -> list[dict[str, object]]:
    table = DeltaTable(f"{settings.tables_uri}/preferences", version=version)
    return sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["pmid"])


def test_many_small_files_become_one_and_the_old_ones_go(settings, monkeypatch):
    append(sink(settings), *range(1, 26))
    before = read(settings, open_table(settings, "preferences").version())
    list(maintain(settings, {}))
    age(settings, monkeypatch)

    done = {each.table: each for each in maintain(settings, {})}["preferences"]

    table = open_table(settings, "preferences")
    assert (done.rows, done.files, done.removed) == (25, 1, 25)
    assert read(settings, table.version()) == before
    stored = list((Path(settings.tables_uri) / "preferences").rglob("part-*"))
    assert len(stored) == 1
    # The log goes too, up to the last checkpoint: at every commit it is listed.
    assert len(list((Path(settings.tables_uri) / "preferences" / "_delta_log").iterdir())) < 20


def test_a_version_that_a_job_is_pinned_to_is_read_whole_afterwards(settings, monkeypatch):
    writer = sink(settings)
    append(writer, *range(1, 16))
    pinned = open_table(settings, "preferences").version()
    before = read(settings, pinned)
    append(writer, *range(16, 40))
    list(maintain(settings, {}))
    age(settings, monkeypatch)

    list(maintain(settings, {"preferences": {pinned}}))
    assert read(settings, pinned) == before

    list(maintain(settings, {}))
    with pytest.raises(Exception, match=r"No files in log segment|not found"):
        read(settings, pinned)


def test_a_version_that_is_gone_already_is_in_nobodys_way(settings):
    append(sink(settings), 1, 2)
    assert [each.rows for each in maintain(settings, {"preferences": {4711}})] == [2, 0, 0, 0]


def test_which_versions_jobs_need():
    def at(version: int, state: str, attempt: int = 1):
        return replace(job(), id=str(version), data_version=version, state=state, attempt=attempt)

    jobs = [
        *(at(1, "training"), at(2, "trained"), at(3, "passed"), at(4, "blocked")),
        *(at(5, "failed", 2), at(6, "failed", 3)),
    ]
    assert versions(jobs, attempts=3) == {"preferences": {1, 2, 5}}


def test_while_records_are_appended_nothing_fails_and_nothing_is_lost(settings):
    """A worker commits 40 times, another joins files all the while."""
    writer = sink(settings)
    append(writer, 1)
    over = threading.Event()
    passes = []

    def keep_maintaining() -> None:
        while not over.is_set():
            passes.append(len(list(maintain(settings, {}))))

    thread = threading.Thread(target=keep_maintaining)
    thread.start()
    try:
        append(writer, *range(2, 41))
    finally:
        over.set()
        thread.join()

    assert passes
    table = open_table(settings, "preferences")
    assert sorted(table.to_pyarrow_table()["pmid"].to_pylist()) == list(range(1, 41))
    again = sink(settings)
    append(again, *range(1, 41))
    assert open_table(settings, "preferences").count() == 40


def test_a_table_of_an_earlier_version_gets_the_present_configuration(settings, monkeypatch):
    with monkeypatch.context() as before:
        before.delitem(CONFIGURATION, "delta.enableExpiredLogCleanup")
        before.setitem(CONFIGURATION, "delta.logRetentionDuration", "interval 1 days")
        create(settings, "preferences")

    list(maintain(settings, {}))

    held = open_table(settings, "preferences").metadata().configuration
    assert held == CONFIGURATION


async def test_the_append_stage_tidies_by_the_clock(settings, monkeypatch):
    """By itself, with what the ledger says; a failure is left to the next time."""
    monkeypatch.setattr(table_maintenance, "FIRST_AFTER", 0.01)
    monkeypatch.setattr(table_maintenance, "EVERY", 0.01)
    import asyncio

    asked = []

    async def ledger(of: Settings) -> dict[str, set[int]]:
        asked.append(datetime.now(UTC))
        if len(asked) == 1:
            raise table_maintenance.Transient("broker away")
        return {}

    monkeypatch.setattr(table_maintenance, "pinned", ledger)
    append(sink(settings), *range(1, 6))
    list(maintain(settings, {}))
    age(settings, monkeypatch)
    parts = Path(settings.tables_uri) / "preferences"

    async with table_maintenance.tidying(settings):
        for _ in range(500):
            if len(list(parts.rglob("part-*"))) == 1:
                break
            await asyncio.sleep(0.01)

    assert len(asked) > 1
    assert len(list(parts.rglob("part-*"))) == 1
