"""Rows reach the tables once, whatever is repeated, raced for or broken off."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from fakes import entries as entries_of
from fakes.records import ideal, preference, unscored
from infra import sink_table
from infra.delta_sink import DeltaSink
from infra.row_ids import RowIds
from infra.settings import Settings
from infra.sink_table import Entry, Fenced, Position
from infra.tables import SCHEMAS, TableError, row_counts
from streams.errors import Transient
from streams.metrics import Metrics
from streams.records import Ideal, Preference


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tables=str(tmp_path / "tables"), append={"compact_every": 5})


def opened(settings: Settings, metrics: Metrics | None = None) -> DeltaSink:
    sink = DeltaSink(settings, metrics or Metrics(CollectorRegistry()))
    sink.open()
    return sink


def entry(offset: int, record: Preference | Ideal, partition: int = 0) -> Entry:
    return entries_of.entry(offset, record, partition, timestamp=1000 + offset)


def place(partition: int, topic: str = "preferences") -> TopicPartition:
    return TopicPartition(topic, partition)


def entries(*offsets: int, partition: int = 0) -> list[Entry]:
    """A preference at each offset, whose PMID is a function of partition and offset."""
    return [entry(at, preference(partition * 1000 + at + 1), partition) for at in offsets]


def tie(pmid: int) -> Preference:
    return preference(pmid, outcome="tie", reason="gap under the margin")


def waiting(pmid: int) -> Preference:
    return preference(
        pmid,
        outcome="unscorable",
        reason="record without MeSH",
        alignments=(unscored("theta1", "record without MeSH"),) * 2,
    )


def patiently(sink: DeltaSink, *batch: Entry) -> None:
    """As the worker appends: what is in the way of a commit once is not the second time."""
    try:
        sink.append(batch)
    except Transient:
        sink.append(batch)


def pmids(settings: Settings, table: str = "preferences") -> list[int]:
    data = DeltaTable(f"{settings.tables_uri}/{table}").to_pyarrow_dataset()
    return sorted(data.to_table(columns=["pmid"]).column("pmid").to_pylist())


def counter(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"kailin_{name}", labels) or 0.0


def test_rows_and_offsets_become_visible_together(settings):
    sink = opened(settings)
    sink.append([*entries(0, 1, 2), *entries(7, partition=3)])
    assert pmids(settings) == [1, 2, 3, 3008]
    for reader in (sink, opened(settings)):
        assert reader.positions(place(0)) == [Position(2, 1002)] * 3
        assert reader.positions(place(3)) == [Position(7, 1007)] * 3
        assert reader.positions(place(1)) == [None] * 3


def test_each_topic_leads_to_its_tables_and_has_its_own_offsets(settings):
    sink = opened(settings)
    late = ideal(3, outcome="below the gate", reason="low alignment")
    sink.append([*entries(0, 1), entry(0, ideal(5001)), entry(7, late)])
    assert (pmids(settings), pmids(settings, "ideal")) == ([1, 2], [5001])
    assert pmids(settings, "dropped") == [3]
    for reader in (sink, opened(settings)):
        assert reader.positions(place(0)) == [Position(1, 1001)] * 3
        assert reader.positions(place(0, "ideal")) == [Position(7, 1007)] * 3
        assert reader.lead(place(0, "ideal")) == 7
    # What a topic does not lead to gets no commits of it.
    version = DeltaTable(f"{settings.tables_uri}/ideal").version()
    sink.append(entries(2, 3))
    assert DeltaTable(f"{settings.tables_uri}/ideal").version() == version


def test_the_first_of_an_id_is_kept_over_ideal_and_dropped(settings):
    def below(pmid: int) -> Ideal:
        return ideal(pmid, outcome="below the gate", reason="low alignment")

    sink = opened(settings)
    sink.append([entry(0, below(1)), entry(1, ideal(1)), entry(2, ideal(2)), entry(3, below(2))])
    opened(settings).append([entry(4, ideal(2)), entry(5, ideal(1)), entry(6, ideal(3))])
    assert (pmids(settings, "ideal"), pmids(settings, "dropped")) == ([2, 3], [1])


def test_an_ideal_record_that_waits_leaves_its_id_to_what_becomes_of_it(settings):
    reason = "record without MeSH"
    waits = ideal(1, outcome="unscorable", reason=reason, alignments=(unscored("theta3", reason),))
    sink = opened(settings)
    sink.append([entry(0, waits)])
    assert pmids(settings, "parked") == [1]
    sink.append([entry(1, ideal(1)), entry(2, waits)])
    assert (pmids(settings, "ideal"), pmids(settings, "parked")) == ([1], [1])


def test_what_there_is_to_train_on_is_told_once_it_is_committed(settings):
    sink = opened(settings)
    sink.append([*entries(0, 1, 2), entry(3, tie(9)), entry(0, ideal(5001))])
    told = {news.table: news for news in sink.news()}
    assert {name: (news.rows, news.added) for name, news in told.items()} == {
        "preferences": (3, 3),
        "ideal": (1, 1),
    }
    for name, news in told.items():
        assert (
            DeltaTable(f"{settings.tables_uri}/{name}", version=news.version).count() == news.rows
        )
    assert sink.news() == []
    # Nothing new: repeated, dropped, or only an offset.
    sink.append([entry(4, preference(1)), entry(5, tie(10)), entry(1, ideal(5001))])
    assert sink.news() == []


def test_what_was_committed_before_a_failure_is_told_after_it(settings):
    sink, other = opened(settings), opened(settings)
    other.append(entries(0, 1, partition=1))
    log = Path(settings.tables_uri) / "dropped" / "_delta_log"
    away = log.rename(log.with_name("away"))
    log.write_text("a file where the log should be")
    with pytest.raises(Transient, match="dropped"):
        sink.append(entries(0, 1, 2))
    log.unlink()
    away.rename(log)
    sink.append([*entries(0, 1, 2), *entries(3)])
    (news,) = sink.news()
    assert (news.table, news.rows, news.added) == ("preferences", 6, 4)


def test_what_the_tables_have_is_left_out(settings):
    opened(settings).append(entries(0, 1, 2))
    opened(settings).append(entries(1, 2, 3))
    assert pmids(settings) == [1, 2, 3, 4]


def test_the_first_of_an_id_is_kept_over_preferences_and_dropped(settings):
    metrics = Metrics(CollectorRegistry())
    sink = opened(settings, metrics)
    sink.append([entry(0, tie(1)), entry(1, preference(1)), entry(2, preference(2))])
    sink.append([entry(3, tie(2)), entry(4, preference(2)), entry(5, preference(3))])
    opened(settings, metrics).append([entry(6, tie(3)), entry(7, tie(1))])
    assert pmids(settings) == [2, 3]
    assert pmids(settings, "dropped") == [1]
    assert counter(metrics, "rows_appended_total", table="preferences") == 2
    assert counter(metrics, "rows_repeated_total", table="preferences") == 2
    assert counter(metrics, "rows_repeated_total", table="dropped") == 3
    assert counter(metrics, "table_rows", table="preferences") == 2


def test_what_waits_leaves_its_id_to_what_becomes_of_it(settings):
    sink = opened(settings)
    sink.append([entry(0, waiting(1)), entry(1, waiting(2)), entry(2, waiting(1))])
    sink.append([entry(3, preference(1)), entry(4, preference(1)), entry(5, tie(2))])
    assert (pmids(settings), pmids(settings, "dropped")) == ([1], [2])
    assert pmids(settings, "parked") == [1, 1, 2]


def test_what_became_of_a_record_is_not_waited_for_again(settings):
    opened(settings).append([entry(0, preference(1)), entry(1, tie(2)), entry(2, waiting(2))])
    opened(settings).append([entry(3, waiting(1)), entry(4, waiting(3))])
    assert pmids(settings, "parked") == [3]


def test_a_worker_bears_that_rows_are_taken_out_of_parked(settings):
    sink = opened(settings)
    at = 0
    for turn in range(8):
        patiently(sink, entry(at, waiting(turn + 1)), entry(at + 1, preference(turn + 100)))
        if turn % 2:
            table = DeltaTable(f"{settings.tables_uri}/parked")
            table.delete(f"id = '{preference(turn + 1).id}'")
        at += 2
    assert pmids(settings, "parked") == [1, 3, 5, 7]
    assert pmids(settings) == list(range(100, 108))
    assert sink.positions(place(0)) == [Position(15, 1015)] * 3


def test_a_compaction_that_meets_a_deletion_leaves_the_table_as_it_was(settings):
    sink = opened(settings)
    for at in range(4):
        sink.append([entry(at, waiting(at + 1))])
    table = sink._tables[3]
    DeltaTable(f"{settings.tables_uri}/parked").delete("pmid = 2")
    table._uncompacted = 5
    table.compact()
    patiently(sink, entry(4, waiting(5)), entry(5, preference(6)))
    assert pmids(settings, "parked") == [1, 3, 4, 5]
    assert pmids(settings) == [6]


def test_a_message_without_a_row_moves_the_offset_on(settings):
    sink = opened(settings)
    sink.append([Entry(partition=place(0), offset=4, timestamp=9)])
    assert sink.positions(place(0)) == [Position(4, 9)] * 3
    assert row_counts(settings) == dict.fromkeys(SCHEMAS, 0)


def test_the_second_writer_of_a_partition_is_fenced(settings):
    zombie, successor = opened(settings), opened(settings)
    successor.append(entries(0, 1, 2))
    with pytest.raises(Fenced, match=r"preferences \[0\]"):
        zombie.append(entries(0, 1))
    assert pmids(settings) == [1, 2, 3]
    zombie.append(entries(0, 1, 2, 3))
    assert pmids(settings) == [1, 2, 3, 4]


def test_writers_of_different_partitions_do_not_disturb_each_other(settings):
    one, other = opened(settings), opened(settings)
    for at in range(12):
        one.append(entries(at, partition=0))
        other.append(entries(at, partition=1))
    assert pmids(settings) == [*range(1, 13), *range(1001, 1013)]


@pytest.mark.parametrize("table", ["ideal", "dropped"])
def test_the_tables_of_ideal_records_are_brought_level_too(settings, table, tmp_path):
    """As if a worker had died between the commits of a batch of both topics."""
    below = ideal(9, outcome="below the gate", reason="low alignment")
    batch = [entry(0, preference(1)), entry(1, tie(2)), entry(0, ideal(8)), entry(1, below)]
    sink = opened(settings)
    before = tmp_path / "before"
    shutil.copytree(f"{settings.tables_uri}/{table}", before)
    sink.append(batch)
    shutil.rmtree(f"{settings.tables_uri}/{table}")
    shutil.copytree(before, f"{settings.tables_uri}/{table}")

    opened(settings).append([*batch, entry(2, ideal(9)), entry(2, preference(3))])
    assert (pmids(settings), pmids(settings, "ideal")) == ([1, 3], [8])
    assert pmids(settings, "dropped") == [2, 9]


@pytest.mark.parametrize("table", ["preferences", "dropped"])
def test_a_table_that_a_crash_left_behind_is_brought_level(settings, table, tmp_path):
    """As if the commit to one of the tables had been the last thing a worker did."""
    batch = [entry(0, tie(1)), entry(1, preference(1)), entry(2, preference(2)), entry(3, tie(4))]
    sink = opened(settings)
    before = tmp_path / "before"
    shutil.copytree(f"{settings.tables_uri}/{table}", before)
    sink.append(batch)
    shutil.rmtree(f"{settings.tables_uri}/{table}")
    shutil.copytree(before, f"{settings.tables_uri}/{table}")

    sink = opened(settings)
    assert None in sink.positions(place(0))
    sink.append(batch[:2])
    sink.append([*batch[2:], entry(4, preference(1)), entry(5, tie(2)), entry(6, preference(6))])
    assert pmids(settings) == [2, 6]
    assert pmids(settings, "dropped") == [1, 4]


def test_a_zombie_between_its_two_commits_is_fenced_from_the_second(settings, monkeypatch):
    zombie = opened(settings)
    first, _, second, _ = zombie._tables
    batch = [entry(0, tie(1)), entry(1, preference(2))]
    first.commit([batch[1].row], batch)  # and then it is paused
    successor = opened(settings)
    successor.append([*batch, entry(2, preference(1))])
    with pytest.raises(Fenced):
        second.commit([batch[0].row], batch)
    assert (pmids(settings), pmids(settings, "dropped")) == ([2], [1])


def test_a_store_that_fails_is_transient_and_nothing_is_lost_or_doubled(settings):
    sink = opened(settings)
    sink.append(entries(0))
    log = Path(settings.tables_uri) / "dropped" / "_delta_log"
    away = log.rename(log.with_name("away"))
    log.write_text("a file where the log should be")
    for _ in range(3):
        with pytest.raises(Transient, match="dropped"):
            sink.append(entries(1, 2))
    log.unlink()
    away.rename(log)
    sink.append(entries(1, 2))
    assert pmids(settings) == [1, 2, 3]
    assert sink.positions(place(0)) == [Position(2, 1002)] * 3


def test_ids_are_read_in_batches(settings, monkeypatch):
    """As strings, all at once, they would take several times the memory that they are held in."""
    monkeypatch.setattr(sink_table, "ID_BATCH", 4)
    opened(settings).append(entries(*range(10)))
    sizes = []
    add = RowIds.add
    monkeypatch.setattr(RowIds, "add", lambda self, ids: (sizes.append(len(ids)), add(self, ids)))
    sink = opened(settings)
    assert max(sizes) <= 4
    assert sum(sizes) == 10
    sink.append([entry(10, preference(1)), entry(11, preference(10)), entry(12, preference(50))])
    assert pmids(settings) == [*range(1, 11), 50]


def test_a_record_that_arrives_from_the_future_takes_no_time(settings):
    metrics = Metrics(CollectorRegistry())
    late = preference(1)
    ahead = replace(late.source, arrived=datetime.now(UTC) + timedelta(hours=1))
    opened(settings, metrics).append([entry(0, replace(late, source=ahead))])
    assert counter(metrics, "end_to_end_seconds_count", stage="append") == 1
    assert counter(metrics, "end_to_end_seconds_sum", stage="append") == 0


def test_small_files_are_compacted_and_the_ids_and_offsets_stay(settings):
    sink = opened(settings)
    for at in range(23):
        sink.append(entries(at))
    files = DeltaTable(f"{settings.tables_uri}/preferences").file_uris()
    assert len(files) < 6
    sink = opened(settings)
    assert sink.positions(place(0)) == [Position(22, 1022)] * 3
    sink.append([entry(23, preference(1)), entry(24, preference(500))])
    assert pmids(settings) == [*range(1, 24), 500]


def test_every_column_of_every_table_is_explained(settings):
    opened(settings)
    for table in SCHEMAS:
        fields = DeltaTable(f"{settings.tables_uri}/{table}").schema().fields
        assert all(field.metadata.get("comment") for field in fields)
        assert DeltaTable(f"{settings.tables_uri}/{table}").metadata().partition_columns == [
            "month"
        ]


def test_a_table_of_other_columns_is_not_written_to(settings):
    DeltaTable.create(
        f"{settings.tables_uri}/dropped", SCHEMAS["dropped"].remove(3), partition_by=["month"]
    )
    with pytest.raises(TableError, match="column text_hash should be string"):
        opened(settings)
