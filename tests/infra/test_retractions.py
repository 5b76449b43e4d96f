"""The view of `retractions`, and the marks of rows in real tables."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import TopicPartition
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from fakes.entries import entry
from fakes.records import ARRIVED, preference, source
from infra import row_marks
from infra.delta_sink import DeltaSink
from infra.retractions import Retractions
from infra.settings import Settings
from streams.metrics import Metrics
from streams.records import Ideal, Preference, Retraction

A, B = ("D000001", "D000002"), ("D000001", "D000003")


def retraction(pmid: int, reason: str | None, mesh: tuple[str, ...] | None = None) -> Retraction:
    return Retraction(pmid=pmid, reason=reason, mesh=mesh, at=ARRIVED)


def view(*retractions: Retraction, recent: int = 100_000) -> Retractions:
    held = Retractions(recent)
    for each in retractions:
        held.put(each)
    return held


def batch(*rows: tuple[int, tuple[str, ...], str | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"pmid": pmid, "mesh": list(mesh), "retracted": mark} for pmid, mesh, mark in rows],
        schema=pa.schema(
            {"pmid": pa.int64(), "mesh": pa.list_(pa.string()), "retracted": pa.string()}
        ),
    )


class Tables:
    """One append worker's hold on the tables."""

    def __init__(self, settings: Settings, seen: Retractions) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.sink = DeltaSink(settings, self.metrics, seen)
        self.sink.open()
        self._settings = settings
        leads = (self.sink.lead(TopicPartition(topic, 0)) for topic in ("preferences", "ideal"))
        self._offset = max(leads) + 1

    def append(self, *records: Preference | Ideal) -> None:
        self.sink.append([entry(at, record) for at, record in enumerate(records, self._offset)])
        self._offset += len(records)

    def counted(self, table: str, reason: str) -> float:
        return self.metrics.rows_marked.labels(table, reason)._value.get()


def marks(settings: Settings, table: str = "preferences") -> dict[int, Any]:
    held = DeltaTable(f"{settings.tables_uri}/{table}").to_pyarrow_table(
        columns=["pmid", "retracted"]
    )
    return {each["pmid"]: each["retracted"] for each in held.to_pylist()}


def version(settings: Settings, table: str = "preferences") -> int:
    return DeltaTable(f"{settings.tables_uri}/{table}").version()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tables=str(tmp_path / "tables"))


def tie(pmid: int) -> Preference:
    return preference(pmid, outcome="tie", reason="equal")


def parked(pmid: int) -> Preference:
    return preference(
        pmid, outcome="unscorable", reason="record without MeSH", source=source(pmid, mesh=())
    )


def test_the_newest_retraction_of_a_record_says_it():
    held = view(retraction(1, "deleted"), retraction(2, "retracted"), retraction(1, None))
    assert held.mark(1, A) is None
    assert held.mark(2, A) == "retracted"
    assert held.mark(3, A) is None


def test_rows_made_under_the_present_mesh_stand():
    held = view(retraction(1, "MeSH changed", B))
    assert held.mark(1, A) == "MeSH changed"
    assert held.mark(1, B) is None
    assert held.mark(1, (*reversed(B), B[0])) is None
    assert held.mark(1, ()) == "MeSH changed"


def test_a_row_is_unlike_where_the_view_says_another_thing():
    held = view(retraction(1, "deleted"), retraction(2, None), retraction(3, "MeSH changed", B))
    rows = batch(
        (1, A, None),
        (1, A, "deleted"),
        (2, A, "retracted"),
        (2, A, None),
        (3, A, None),
        (3, B, None),
        (3, B, "MeSH changed"),
        # Nothing is known of this one, so its mark stays.
        (4, A, "retracted"),
    )
    assert held.unlike(rows) == [0, 2, 4, 6]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 12),
            st.sampled_from([None, "deleted", "retracted", "erratum", "MeSH changed"]),
            st.sampled_from([A, B, ()]),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_it_says_what_a_dict_would(said, recent):
    held = Retractions(recent)
    plain: dict[int, Retraction] = {}
    for pmid, reason, mesh in said:
        plain[pmid] = retraction(pmid, reason, mesh if reason == "MeSH changed" else None)
        held.put(plain[pmid])
    for pmid in range(14):
        for mesh in (A, B, ()):
            newest = plain.get(pmid)
            reason = newest.reason if newest else None
            if newest and newest.mesh is not None and set(newest.mesh) == set(mesh):
                reason = None
            assert held.mark(pmid, mesh) == reason
    assert len(held) == len(plain)


def test_a_million_take_a_few_dozen_bytes_each():
    held = Retractions()
    for pmid in range(1, 1_000_001):
        held._recent[pmid] = 1
        if len(held._recent) >= 100_000:
            held._merge()
    assert (held._pmids.nbytes + held._verdicts.nbytes) / len(held) == 16


def test_a_row_appended_after_its_retraction_is_written_with_the_mark(settings):
    held = view(retraction(1, "deleted"), retraction(3, "retracted"), retraction(4, "erratum"))
    tables = Tables(settings, held)
    tables.append(preference(1), preference(2), tie(3), parked(4))
    assert marks(settings) == {1: "deleted", 2: None}
    assert marks(settings, "dropped") == {3: "retracted"}
    assert marks(settings, "parked") == {4: "erratum"}
    assert tables.counted("preferences", "deleted") == 1


def test_a_retraction_that_comes_later_marks_the_rows_that_are_there(settings):
    held = view()
    tables = Tables(settings, held)
    tables.append(preference(1), preference(2), tie(3), parked(4), preference(5))
    for pmid in (1, 3, 4):
        held.put(retraction(pmid, "deleted"))
    before = version(settings)
    tables.sink.mark([1, 3, 4])
    assert marks(settings) == {1: "deleted", 2: None, 5: None}
    assert marks(settings, "dropped") == {3: "deleted"}
    assert marks(settings, "parked") == {4: "deleted"}
    assert version(settings) == before + 1
    held.put(retraction(1, None))
    tables.sink.mark([1])
    assert marks(settings) == {1: None, 2: None, 5: None}
    assert tables.counted("preferences", "stands again") == 1


def test_many_retractions_are_one_commit_and_none_where_nothing_differs(settings):
    held = view(*(retraction(pmid, "retracted") for pmid in range(5000, 5400)))
    tables = Tables(settings, held)
    tables.append(*map(preference, range(1, 301)))
    before = version(settings), version(settings, "dropped"), version(settings, "ideal")
    tables.sink.mark(range(5000, 5400))
    assert (version(settings), version(settings, "dropped"), version(settings, "ideal")) == before
    for pmid in range(1, 301):
        held.put(retraction(pmid, "deleted" if pmid % 2 else "erratum"))
    tables.sink.mark(range(1, 301))
    assert version(settings) == before[0] + 1
    assert marks(settings) == {p: "deleted" if p % 2 else "erratum" for p in range(1, 301)}
    tables.sink.mark(range(1, 301))
    assert version(settings) == before[0] + 1


def test_what_would_rewrite_much_is_several_commits(settings, monkeypatch):
    monkeypatch.setattr(row_marks, "REWRITTEN_AT_ONCE", 1)
    held = view()
    tables = Tables(settings, held)
    for first in range(1, 60, 20):
        tables.append(*map(preference, range(first, first + 20)))
    before = version(settings)
    for pmid in (5, 6, 25, 45):
        held.put(retraction(pmid, "deleted"))
    tables.sink.mark([5, 6, 25, 45])
    assert version(settings) == before + 3
    assert {p for p, mark in marks(settings).items() if mark} == {5, 6, 25, 45}
    # Its own commits are no news to the worker.
    assert all(table.is_known for table in tables.sink._tables)
    tables.append(preference(5), preference(100))
    assert len(marks(settings)) == 61


def test_changed_mesh_marks_rows_made_under_other_descriptors_only(settings):
    held = view()
    tables = Tables(settings, held)
    tables.append(
        preference(1, id="a" * 32, source=source(1, mesh=A)),
        preference(1, id="b" * 32, source=source(1, mesh=B)),
    )
    by_id = DeltaTable(f"{settings.tables_uri}/preferences")

    def now() -> dict[str, Any]:
        by_id.update_incremental()
        return {r["id"][0]: r["retracted"] for r in by_id.to_pyarrow_table().to_pylist()}

    held.put(retraction(1, "MeSH changed", (B[1], B[0])))
    tables.sink.mark([1])
    assert now() == {"a": "MeSH changed", "b": None}
    held.put(retraction(1, "MeSH changed", A))
    tables.sink.mark([1])
    assert now() == {"a": None, "b": "MeSH changed"}


@pytest.mark.parametrize("reason", ["deleted", None])
def test_a_crash_before_the_rows_were_marked_is_made_good_at_the_next_start(settings, reason):
    held = view(retraction(1, None if reason else "deleted"))
    Tables(settings, held).append(preference(1), preference(2), tie(3))
    # Another process, which has read the topic to its end.
    after = Tables(settings, view(retraction(1, reason), retraction(3, reason)))
    after.sink.mark(())
    assert marks(settings) == {1: reason, 2: None}
    assert marks(settings, "dropped") == {3: reason}


def test_rows_that_another_worker_wrote_unmarked_are_found(settings):
    """Another worker, which had not read the retraction yet, appended a row and died."""
    mine = Tables(settings, view(retraction(7, "deleted")))
    mine.sink.mark([7])
    other = Tables(settings, view())
    other.append(preference(7))
    assert marks(settings) == {7: None}
    mine.sink.mark(())
    assert marks(settings) == {7: "deleted"}


def test_an_append_by_another_worker_meanwhile_does_not_stand_in_the_way(settings, monkeypatch):
    """It comes between the look at the rows and the commit that marks them."""
    held = view(retraction(1, "deleted"))
    other = Tables(settings, view())
    other.append(preference(1))
    mine = Tables(settings, held)
    update = DeltaTable.update

    def late(self: DeltaTable, *arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        other.append(preference(1, id="c" * 32), preference(2))
        return update(self, *arguments, **named)

    monkeypatch.setattr(DeltaTable, "update", late)
    mine.sink.mark(())
    held_rows = DeltaTable(f"{settings.tables_uri}/preferences").to_pyarrow_table().to_pylist()
    assert sorted((r["pmid"], r["retracted"]) for r in held_rows if r["id"] != "c" * 32) == [
        (1, "deleted"),
        (2, None),
    ]
    # The row that came in between is seen as soon as the tables are looked at again.
    mine.sink.mark(())
    assert marks(settings) == {1: "deleted", 2: None}


def test_a_pinned_version_shows_rows_as_they_were(settings):
    held = view()
    tables = Tables(settings, held)
    tables.append(preference(1), preference(2))
    pinned = version(settings)
    held.put(retraction(1, "deleted"))
    tables.sink.mark([1])
    where = f"{settings.tables_uri}/preferences"
    old = (
        DeltaTable(where, version=pinned)
        .to_pyarrow_table(columns=["pmid", "retracted"])
        .to_pylist()
    )
    assert sorted(each["pmid"] for each in old) == [1, 2]
    assert {each["retracted"] for each in old} == {None}


def test_rows_go_on_being_appended_and_kept_once_after_marking(settings):
    held = view()
    tables = Tables(settings, held)
    tables.append(preference(1))
    held.put(retraction(1, "deleted"))
    tables.sink.mark([1])
    tables.append(preference(1), preference(2))
    assert marks(settings) == {1: "deleted", 2: None}
    assert tables.sink.lead(TopicPartition("preferences", 0)) == 2
