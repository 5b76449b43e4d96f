"""Which preference rows are trained on."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fakes.records import ARRIVED, alignment, candidate, preference, retrieval, source
from fakes.tables import append
from streams.records import Preference
from trainers.config import Selection
from trainers.errors import DataError
from trainers.rows import pin
from trainers.selection import COLUMNS, STANDING, Choice, Wanted, choose, read_branches
from trainers.split import held_out

BRANCHES = {"D1": "A", "D2": "B", "D3": "C", "D12": "AB"}


def compared(pmid: int, *, mesh: str = "D1", gap: float = 0.2, revision: str = "1") -> Preference:
    sides = (
        alignment(
            score=score,
            retrieval=retrieval(candidate=candidate(generator, revision=revision)),
        )
        for generator, score in (("theta1", 0.5 + gap), ("theta2", 0.5))
    )
    return preference(
        pmid, source=replace(source(pmid), mesh=tuple(mesh.split())), alignments=tuple(sides)
    )


def wanted(seed: int = 0, share: float = 0.1, excluded: Any = (), **policy: Any) -> Wanted:
    return Wanted(
        policy=Selection(**policy),
        held_out=share,
        excluded=frozenset(excluded),
        branches=BRANCHES,
        seed=seed,
    )


def chosen(uri: str, what: Wanted) -> tuple[dict[str, list[int]], Counter[str], Choice]:
    """PMIDs by side, what is left out by reason, and the choice."""
    table = pin(uri)
    choice = choose(table, what)
    sides: dict[str, list[int]] = {"train": [], "held out": []}
    left_out: Counter[str] = Counter()
    for batch in table.batches(COLUMNS, STANDING):
        for row in batch.to_pylist():
            side, reason = choice.place(row)
            if side is None:
                left_out[reason] += 1
            else:
                sides[side].append(row["pmid"])
    return sides, left_out, choice


def branch_counts(uri: str, what: Wanted) -> Counter[str]:
    table = pin(uri)
    choice = choose(table, what)
    rows = [row for batch in table.batches(COLUMNS, STANDING) for row in batch.to_pylist()]
    return Counter(choice.branch(row) for row in rows if choice.place(row)[0] == "train")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """400 rows: 260 in A, 100 in B, 40 in C."""
    branches = ["D1"] * 260 + ["D2"] * 100 + ["D3"] * 40
    records = [compared(pmid, mesh=mesh) for pmid, mesh in enumerate(branches, 1)]
    return append(tmp_path_factory.mktemp("many"), records)


def test_without_a_policy_all_rows_are_on_their_side_of_the_split(many: str) -> None:
    sides, left_out, _ = chosen(many, wanted())
    kept = [pmid for pmid in range(1, 401) if held_out(pmid, 0.1)]
    assert sorted(sides["held out"]) == kept
    assert sorted(sides["train"]) == sorted(set(range(1, 401)) - set(kept))
    assert not left_out


def test_rows_that_are_unfit_are_counted_by_their_reason(tmp_path: Path) -> None:
    append(
        tmp_path,
        [compared(pmid) for pmid in (1, 2)],
        at=ARRIVED - timedelta(days=8),
    )
    uri = append(
        tmp_path,
        [
            compared(3),
            compared(4),
            compared(5, gap=0.01),
            compared(6, revision="0"),
            compared(7),
        ],
        retracted={7: "retracted"},
    )
    policy = {"margin": 0.1, "days": 7, "revisions": {"theta2": ("1", "2")}}
    sides, left_out, _ = chosen(uri, wanted(share=0.0, excluded=[4], **policy))
    assert sides == {"train": [3], "held out": []}
    assert left_out == {
        "too old": 2,
        "under the margin": 1,
        "another revision of its generator": 1,
        "excluded PMID": 1,
    }


def test_a_generator_that_no_revision_is_named_for_may_have_any(tmp_path: Path) -> None:
    uri = append(tmp_path, [compared(1, revision="7")])
    sides, _, _ = chosen(uri, wanted(share=0.0, revisions={"theta3": ("1",)}))
    assert sides["train"] == [1]


@pytest.mark.parametrize("share", [0.34, 0.4, 0.5, 0.7])
@pytest.mark.parametrize("most", [None, 1, 7, 30, 100, 1000])
def test_no_branch_has_more_than_its_share(many: str, share: float, most: int | None) -> None:
    counts = branch_counts(many, wanted(branch_share=share, most=most))
    assert max(counts.values()) <= max(1, share * counts.total())
    if most:
        assert counts.total() <= most


def test_as_many_rows_are_chosen_as_the_share_allows(many: str) -> None:
    """The best of all bounds on the rows of a branch, tried one after the other."""
    sizes = branch_counts(many, wanted())
    for share in (0.34, 0.4, 0.5, 0.7):
        totals = [
            sum(min(size, bound) for size in sizes.values())
            for bound in range(max(sizes.values()) + 1)
        ]
        best = max(total for bound, total in enumerate(totals) if bound <= share * total)
        assert branch_counts(many, wanted(branch_share=share)).total() == best


def test_so_many_rows_and_held_out_in_proportion(many: str) -> None:
    sides, left_out, _ = chosen(many, wanted(most=90))
    assert len(sides["train"]) == 90
    assert len(sides["held out"]) == 10
    assert left_out["over the most"] + left_out["held out, over the most"] == 300


def test_a_number_alone_keeps_the_proportions_of_the_branches(many: str) -> None:
    before = branch_counts(many, wanted())
    after = branch_counts(many, wanted(most=180))
    for letter, count in before.items():
        assert after[letter] / after.total() == pytest.approx(count / before.total(), abs=0.1)


def test_the_choice_is_of_ids_and_seed_whatever_the_files(many: str, tmp_path: Path) -> None:
    policy = {"branch_share": 0.5, "most": 60}
    records = [
        compared(pmid, mesh="D1" if pmid <= 260 else "D2" if pmid <= 360 else "D3")
        for pmid in range(1, 401)
    ]
    for at in range(400, 0, -100):
        uri = append(tmp_path, records[at - 100 : at][::-1])
    first, _, _ = chosen(many, wanted(**policy))
    again, _, _ = chosen(uri, wanted(**policy))
    other, _, _ = chosen(uri, wanted(seed=1, **policy))
    assert {side: sorted(pmids) for side, pmids in first.items()} == {
        side: sorted(pmids) for side, pmids in again.items()
    }
    assert sorted(other["train"]) != sorted(first["train"])


def test_a_row_counts_in_its_rarest_branch(tmp_path: Path) -> None:
    meshes = ["D1", "D1", "D1", "D2", "D12", "D1 D3", "D9", "", "D9 D2"]
    uri = append(tmp_path, [compared(pmid, mesh=mesh) for pmid, mesh in enumerate(meshes, 1)])
    assert branch_counts(uri, wanted(share=0.0)) == {"A": 3, "B": 3, "C": 1, "?": 2}


def test_a_share_that_cannot_be_kept(tmp_path: Path) -> None:
    uri = append(tmp_path, [compared(1), compared(2, mesh="D2")])
    with pytest.raises(DataError, match=r"branch_share: expected 0.50 or more.* 2 MeSH branches"):
        choose(pin(uri), wanted(share=0.0, branch_share=0.3))


def test_an_empty_table(tmp_path: Path) -> None:
    uri = append(tmp_path, [compared(1)], retracted={1: "deleted"})
    policy = {"branch_share": 0.1, "most": 5, "days": 1}
    assert chosen(uri, wanted(**policy))[0] == {"train": [], "held out": []}


@settings(max_examples=25)
@given(data=st.data())
def test_small_tables_keep_to_every_bound(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    meshes = data.draw(st.lists(st.sampled_from(["D1", "D2", "D3", "D12", ""]), min_size=1))
    share = data.draw(st.floats(0.25, 1))
    most = data.draw(st.none() | st.integers(1, 20))
    records = [compared(pmid, mesh=mesh) for pmid, mesh in enumerate(meshes, 1)]
    uri = append(tmp_path_factory.mktemp("small"), records)
    every = branch_counts(uri, wanted(share=0.2))
    assume(len(every) * share >= 1)
    counts = branch_counts(uri, wanted(share=0.2, branch_share=share, most=most))
    assert all(counts[letter] <= every[letter] for letter in every)
    assert counts.total() <= (most or len(meshes))
    assert bool(counts) == bool(every)
    if counts:
        assert max(counts.values()) <= max(1, share * counts.total())


def test_letters_of_branches(tmp_path: Path) -> None:
    file = tmp_path / "branches.tsv"
    file.write_text("D000001\tD\nD001241\tDGZ\n")
    assert read_branches(file) == {"D000001": "D", "D001241": "DGZ"}


@pytest.mark.parametrize("line", ["D1", "D1 A", "\tA", "D1\t", "D1\ta", "D1\tA1", ""])
def test_a_line_that_tells_no_branches(tmp_path: Path, line: str) -> None:
    file = tmp_path / "branches.tsv"
    file.write_text(f"D0\tA\n{line}\nD2\tB\n")
    with pytest.raises(DataError, match=r"branches.tsv: line 2: expected a descriptor's UI, a tab"):
        read_branches(file)


def test_no_file_of_branches(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"branches.tsv: cannot be read: No such file"):
        read_branches(tmp_path / "branches.tsv")
