"""Rows of a table as of a version."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from fakes.records import preference
from fakes.tables import append
from trainers.errors import DataError
from trainers.rows import BATCH, Digest, Pinned, pin

IDS = st.lists(st.text("0123456789abcdef", min_size=1, max_size=32), max_size=30)


def pmids(table: Pinned, where: str = "true") -> list[int]:
    return sorted(
        pmid for batch in table.batches(["pmid"], where) for pmid in batch["pmid"].to_pylist()
    )


def hex_of(ids: list[str]) -> str:
    digest = Digest()
    for id in ids:
        digest.add(id)
    return digest.hex


def test_a_pinned_table_does_not_change(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(1), preference(2)])
    before = pin(uri)
    append(tmp_path, [preference(3)])
    assert pmids(before) == pmids(pin(uri, before.version)) == [1, 2]
    assert pmids(pin(uri)) == [1, 2, 3]
    assert pin(uri).version == before.version + 1


def test_a_pinned_table_does_not_change_when_it_is_compacted(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(1)])
    append(tmp_path, [preference(2)])
    version = pin(uri).version
    table = DeltaTable(uri)
    table.optimize.compact()
    table.delete("pmid = 1")
    table.vacuum(dry_run=False)
    assert pmids(pin(uri, version)) == [1, 2]


def test_only_the_columns_and_rows_asked_for_are_read(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(pmid) for pmid in (1, 2, 3)], retracted={2: "deleted"})
    (batch,) = pin(uri).batches(["id", "mesh"], "retracted IS NULL")
    assert batch.schema.names == ["id", "mesh"]
    assert batch["id"].to_pylist() == [f"{pmid:032x}" for pmid in (1, 3)]
    assert pin(uri).count() == 3
    assert pin(uri).count("retracted IS NOT NULL") == 1


def test_batches_are_small_however_large_the_files(tmp_path: Path) -> None:
    many = pa.table({"pmid": range(BATCH * 5 + 1)})
    write_deltalake(tmp_path / "table", many)
    sizes = [len(batch) for batch in pin(str(tmp_path / "table")).batches(["pmid"])]
    assert max(sizes) <= BATCH
    assert sum(sizes) == len(many)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no table at .*nowhere"):
        pin(str(tmp_path / "nowhere"))


def test_a_version_that_is_yet_to_come(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(1)])
    with pytest.raises(DataError, match="has no version 9, the newest is 1"):
        pin(uri, 9)


def test_a_version_whose_log_is_gone(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(1)])
    append(tmp_path, [preference(2)])
    table = DeltaTable(uri)
    table.create_checkpoint()
    for version in (0, 1):
        (Path(uri) / "_delta_log" / f"{version:020}.json").unlink()
    assert pmids(pin(uri, 2)) == [1, 2]
    with pytest.raises(DataError, match=r"version 1: .*delta.logRetentionDuration") as raised:
        pin(uri, 1)
    assert "\n" not in str(raised.value)


def test_a_file_that_was_vacuumed(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(1)])
    pinned = pin(uri)
    shutil.rmtree(next(Path(uri).glob("month=*")))
    with pytest.raises(DataError, match=f"version {pinned.version}: cannot be read") as raised:
        pmids(pinned)
    assert "\n" not in str(raised.value)


@given(IDS, st.randoms())
def test_the_digest_does_not_depend_on_order(ids: list[str], order: random.Random) -> None:
    assert hex_of(ids) == hex_of(order.sample(ids, len(ids)))


@given(IDS, IDS)
def test_other_ids_have_another_digest(one: list[str], other: list[str]) -> None:
    assert (hex_of(one) == hex_of(other)) == (sorted(one) == sorted(other))


def test_the_digest_of_nothing() -> None:
    assert hex_of([]) == "0" * 64
