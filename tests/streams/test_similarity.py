import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nxontology.examples import create_metal_nxo

from fakes.mesh import mesh, metals, nxontology_of, ui
from streams.mesh import Descriptor, Mesh, build
from streams.similarity import Similarity, annotation_counts

# The example of DiShIn's documentation (ssmpy on PyPI), "metals.txt".
METALS_CORPUS = {
    "gold": 2,
    "silver": 2,
    "copper": 1,
    "platinum": 1,
    "palladium": 1,
    "metal": 1,
    "coinage": 1,
    "precious": 1,
}


def by_ui(of: Mesh, counts: Mapping[str, int]) -> dict[str, int]:
    return {ui(of, name): count for name, count in counts.items()}


# Oracles.


def test_lin_is_that_of_nxontology_for_every_pair_of_metals() -> None:
    of, theirs = metals(), create_metal_nxo()
    ours = Similarity(of)
    assert ours.pair(ui(of, "copper"), ui(of, "gold")) == pytest.approx(1 / 3)
    for x in of.descriptors:
        for y in of.descriptors:
            expected = theirs.similarity(x.name, y.name, ic_metric="intrinsic_ic").lin
            assert ours.pair(x.ui, y.ui) == pytest.approx(expected), (x.name, y.name)


def test_corpus_is_that_of_dishin() -> None:
    of = metals()
    ours = Similarity(of, "corpus", counts=by_ui(of, METALS_CORPUS))
    assert ours.pair(ui(of, "copper"), ui(of, "gold")) == pytest.approx(0.300919, abs=1e-6)
    assert ours.information_content(ui(of, "coinage")) == pytest.approx(2 * 0.22599256187152864)


def test_corpus_of_one_annotation_a_term_is_dishins_intrinsic() -> None:
    of = metals()
    ours = Similarity(of, "corpus", counts={d.ui: 1 for d in of.descriptors})
    found = ours.pair(ui(of, "copper"), ui(of, "gold"))
    assert found == pytest.approx(0.390795491084)


# A second implementation, with sets and loops, to compare with.


@st.composite
def hierarchies(draw: st.DrawFn) -> Mesh:
    """Up to 9 descriptors with up to 14 places among them, shuffled so that cycles come about."""
    numbers = ["A01", "B01"]
    for step in range(draw(st.integers(0, 12))):
        numbers.append(f"{draw(st.sampled_from(numbers))}.{step:03}")
    size = draw(st.integers(2, 9))
    places: list[list[str]] = [[] for _ in range(size)]
    for number in numbers:
        places[draw(st.integers(0, size - 1))].append(number)
    return build(
        "test", [Descriptor(f"D{i:06}", f"name {i}", tuple(p)) for i, p in enumerate(places)]
    )


def at_or_above(of: Mesh) -> dict[str, set[str]]:
    """By UI, itself and all above it: the reflexive-transitive closure, by repetition."""
    holder = {number: d.ui for d in of.descriptors for number in d.tree_numbers}
    up = {d.ui: {d.ui} for d in of.descriptors}
    for lower, under in holder.items():
        for upper, over in holder.items():
            if lower.startswith(upper + "."):
                up[under].add(over)
    while True:
        wider = {x: set().union(*(up[y] for y in up[x])) for x in up}
        if wider == up:
            return up
        up = wider


def brute_content(of: Mesh, counts: Mapping[str, int] | None) -> dict[str, float]:
    up = at_or_above(of)
    add, own = (0, dict.fromkeys(up, 1)) if counts is None else (1, dict(counts))
    total = sum(own.get(x, 0) for x in up) + add
    return {m: -math.log((sum(own.get(x, 0) for x in up if m in up[x]) + add) / total) for m in up}


def brute_lin(of: Mesh, content: Mapping[str, float], x: str, y: str) -> float:
    up = at_or_above(of)
    common = up[x] & up[y]
    if not common:
        return 0.0
    if content[x] + content[y] == 0:
        return 1.0
    return 2 * max(content[a] for a in common) / (content[x] + content[y])


def counts_for(of: Mesh) -> st.SearchStrategy[dict[str, int]]:
    counts = st.lists(st.integers(0, 9), min_size=len(of), max_size=len(of)).filter(any)
    return counts.map(lambda drawn: {d.ui: n for d, n in zip(of.descriptors, drawn, strict=True)})


@given(hierarchies(), st.data())
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_brute_force(of: Mesh, data: st.DataObject) -> None:
    counts = data.draw(st.none() | counts_for(of))
    ours = Similarity(of, "intrinsic" if counts is None else "corpus", counts=counts)
    content = brute_content(of, counts)
    uis = [d.ui for d in of.descriptors]
    for x in uis:
        assert ours.information_content(x) == pytest.approx(content[x], abs=1e-12)
        for y in uis:
            expected = brute_lin(of, content, x, y)
            assert ours.pair(x, y) == pytest.approx(expected, abs=1e-12)
    document = data.draw(st.lists(st.sampled_from(uis), min_size=1, max_size=40))
    context = data.draw(st.lists(st.sampled_from(uis), min_size=1, max_size=40))
    pairs = [brute_lin(of, content, x, y) for x in document for y in context]
    expected = sum(pairs) / len(pairs)
    assert ours.document_score(document, context) == pytest.approx(expected, abs=1e-12)


@given(hierarchies(), st.sampled_from(["each", "set"]), st.data())
@settings(max_examples=100, deadline=None)
def test_contexts_scored_at_once_are_scored_one_by_one(of: Mesh, terms, data) -> None:
    frequency = data.draw(st.sampled_from(["intrinsic", "corpus", "kailin"]))
    ours = Similarity(of, frequency, terms=terms, counts=data.draw(counts_for(of)))
    # The last is no descriptor of the edition.
    uis = st.lists(st.sampled_from([d.ui for d in of.descriptors] + ["D999999"]), max_size=20)
    document, contexts = data.draw(uis), data.draw(st.lists(uis, max_size=5))
    found = ours.document_scores(document, contexts)
    assert len(found) == len(contexts)
    for score, context in zip(found, contexts, strict=True):
        kept = [[ui for ui in side if not ours.unknown([ui])] for side in (document, context)]
        if terms == "set":
            kept = [list(dict.fromkeys(side)) for side in kept]
        pairs = [ours.pair(x, y) for x in kept[0] for y in kept[1]]
        if pairs:
            assert score == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
            assert 0.0 <= score <= 1.0
        else:
            assert score is None


def brute_published(of: Mesh, x: str, y: str) -> float:
    """The published scorer's formula by the letter, from tree number strings alone."""
    numbers = {d.ui: d.tree_numbers for d in of.descriptors}
    holder = {number: d.ui for d in of.descriptors for number in d.tree_numbers}
    below = {
        m: {
            v
            for v in numbers
            if v != m and any(b.startswith(a + ".") for a in numbers[m] for b in numbers[v])
        }
        for m in numbers
    }
    size = len(numbers)
    content = {m: -math.log10(len(b) / size) if b else 0.0 for m, b in below.items()}
    greatest = max(content.values()) or 1.0
    meeting = [
        (len(number), content[m], len(below[m]) / size)
        for number, m in holder.items()
        if all(any((t + ".").startswith(number + ".") for t in numbers[z]) for z in (x, y))
    ]
    _, ic, share = max(meeting, default=(0, 0.0, 1.0))
    shared, own = 2 * ic / greatest, content[x] + content[y]
    lin = min(shared / own, 1.0) if own else 0.0
    return (lin + 1 / (1 + max(own - shared, 0.0)) + lin * (1 - share)) / 3


@given(hierarchies())
@settings(max_examples=150, deadline=None)
def test_kailin_is_that_of_brute_force(of: Mesh) -> None:
    ours = Similarity(of, "kailin")
    placed = [d.ui for d in of.descriptors if d.tree_numbers]
    for x in placed:
        for y in placed:
            # Which of two meeting places as long and as informative is taken shows in `share`
            # only where shares, and so ICs, differ, which they then do not.
            assert ours.pair(x, y) == pytest.approx(brute_published(of, x, y), abs=1e-12)


# Properties.


@given(hierarchies(), st.sampled_from(["intrinsic", "corpus", "kailin"]), st.data())
@settings(max_examples=100, deadline=None)
def test_a_similarity_is_symmetric_and_in_range(of: Mesh, frequency: str, data) -> None:
    counts = data.draw(counts_for(of))
    ours = Similarity(of, frequency, counts=counts)
    uis = [d.ui for d in of.descriptors if d.tree_numbers]
    for x in uis:
        if frequency != "kailin":
            assert ours.pair(x, x) == 1.0
        for y in uis:
            assert 0.0 <= ours.pair(x, y) <= 1.0
            assert ours.pair(x, y) == ours.pair(y, x)
    score = ours.document_score(uis, uis[::-1] + uis)
    assert score is not None
    assert 0.0 <= score <= 1.0


@given(hierarchies(), st.data())
@settings(max_examples=100, deadline=None)
def test_information_never_falls_on_the_way_down(of: Mesh, data: st.DataObject) -> None:
    for ours in (Similarity(of), Similarity(of, "corpus", counts=data.draw(counts_for(of)))):
        for d in of.descriptors:
            own = ours.information_content(d.ui)
            assert own >= 0.0
            assert all(ours.information_content(a) <= own for a in of.ancestors(d.ui))
            assert all(ours.information_content(m) == own for m in of.class_of(d.ui))


# Single cases.


def test_members_of_a_cycle_are_alike() -> None:
    of = mesh({"motility": "C10.292 C10.292.887.825", "strabismus": "C10.292.887", "other": "C11"})
    assert Similarity(of).pair(ui(of, "motility"), ui(of, "strabismus")) == 1.0


def test_the_root_alone_in_common_is_nothing_in_common() -> None:
    of = mesh({"neoplasms": "C04", "brain diseases": "C10", "female": "", "male": ""})
    ours = Similarity(of)
    assert ours.pair(ui(of, "neoplasms"), ui(of, "brain diseases")) == 0.0
    assert ours.pair(ui(of, "female"), ui(of, "male")) == 0.0
    assert ours.pair(ui(of, "female"), ui(of, "female")) == 1.0


def test_a_descriptor_above_all_is_like_itself_only() -> None:
    of = metals()
    ours = Similarity(of)
    metal = ui(of, "metal")
    assert ours.information_content(metal) == 0.0
    assert ours.pair(metal, metal) == 1.0
    assert ours.pair(metal, ui(of, "gold")) == pytest.approx(0.0, abs=1e-15)


def test_a_term_that_two_records_carry_counts_twice_unless_terms_are_a_set() -> None:
    of = metals()
    copper, gold, platinum = (ui(of, name) for name in ("copper", "gold", "platinum"))
    context = [gold, platinum, gold]
    # Copper and gold 1/3, copper and platinum 0.
    each, one = Similarity(of), Similarity(of, terms="set")
    assert each.document_score([copper], context) == pytest.approx(2 / 9)
    assert one.document_score([copper], context) == pytest.approx(1 / 6)


def test_unknown_descriptors_are_passed_over_and_counted() -> None:
    of = metals()
    ours = Similarity(of)
    copper, gold = ui(of, "copper"), ui(of, "gold")
    assert ours.document_score([copper, "D999999"], ["D999998", gold]) == pytest.approx(1 / 3)
    assert ours.unknown([copper, "D999999", "D999998"]) == 2
    assert ours.document_score(["D999999"], [gold]) is None
    assert ours.document_score([copper], ["D999999"]) is None
    assert ours.document_score([], [gold]) is None
    assert ours.document_score([copper], []) is None
    with pytest.raises(KeyError):
        ours.pair(copper, "D999999")


def test_branches_are_those_of_all_known_descriptors(mesh_2024: Mesh) -> None:
    ours = Similarity(mesh_2024)
    aspirin, humans, female = (ui(mesh_2024, name) for name in ("Aspirin", "Humans", "Female"))
    assert ours.branches([aspirin, humans, female, "D999999"]) == {"D", "B"}
    # It has no place in the hierarchy.
    assert ours.branches([female]) == frozenset()


def test_scoring_leaves_nothing_behind() -> None:
    of = metals()
    ours, uis = Similarity(of), [d.ui for d in of.descriptors]
    first = ours.document_score(uis, uis)
    for x in uis:
        ours.document_score([x], uis)
    assert ours.document_score(uis, uis) == first
    # More terms than are compared at once.
    assert ours.document_score(uis * 9, uis) == pytest.approx(first)


def test_annotations_count_once_a_record() -> None:
    assert annotation_counts([["D1", "D2", "D1"], [], ["D2"]]) == {"D1": 1, "D2": 2}


def test_descriptors_that_no_record_carries_have_a_finite_content() -> None:
    of = metals()
    ours = Similarity(of, "corpus", counts={ui(of, "gold"): 9, "D999999": 5})
    assert ours.information_content(ui(of, "platinum")) == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "frequency corpus needs annotation counts"),
        ({}, "no annotation count is of a descriptor of MeSH test"),
        ({"D999999": 3}, "no annotation count is of a descriptor of MeSH test"),
        ({"D000002": -1}, "the annotation count of D000002 is below 0"),
    ],
)
def test_counts_that_cannot_be_used_are_refused(
    counts: dict[str, int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Similarity(metals(), "corpus", counts=counts)


def test_kailin_needs_tree_numbers() -> None:
    with pytest.raises(ValueError, match="no tree numbers"):
        Similarity(mesh({"female": ""}), "kailin")


def test_kailin_by_hand() -> None:
    """100 descriptors: body (4 below), head (2 below), ear, nose, arm, and a tree of 95."""
    places = {
        "body": "A01",
        "head": "A01.100",
        "ear": "A01.100.100",
        "nose": "A01.100.200",
        "arm": "A01.200",
        "animals": "B01",
    }
    of = mesh(places | {f"animal {i}": f"B01.{i:03}" for i in range(94)})
    ours = Similarity(of, "kailin")
    assert len(of) == 100
    # IC, log10: body 1.397940, head 1.698970 (the greatest), animals 0.026872, leaves 0.
    for name, expected in {"body": 1.397940, "head": 1.698970, "ear": 0.0}.items():
        assert ours.information_content(ui(of, name)) == pytest.approx(expected, abs=1e-6)
    # They meet at body, 1.397940 / 1.698970 = 0.822816:
    #   Lin 2 · 0.822816 / 3.096910 = 0.531378, Rel 0.531378 · (1 − 0.04) = 0.510123,
    #   Jiang 1 / (1 + 3.096910 − 1.645632) = 0.407950.
    assert ours.pair(ui(of, "head"), ui(of, "body")) == pytest.approx(0.483150, abs=2e-6)
    # Two leaves: IC 0 makes Lin and Rel 0 and Jiang 1, whether they meet or not.
    assert ours.pair(ui(of, "ear"), ui(of, "nose")) == pytest.approx(1 / 3)
    assert ours.pair(ui(of, "ear"), ui(of, "animal 7")) == pytest.approx(1 / 3)
    # No meeting place: Jiang 1 / (1 + 1.698970 + 0.026872) alone.
    assert ours.pair(ui(of, "head"), ui(of, "animals")) == pytest.approx(0.366859 / 3, abs=1e-6)
    # An empty list is no score, not NaN.
    assert ours.document_score([], [ui(of, "ear")]) is None


# The real hierarchy.


def test_lin_on_mesh_2024_is_that_of_nxontology(mesh_2024: Mesh) -> None:
    ours = Similarity(mesh_2024)
    rng = np.random.default_rng(5)
    uis = [d.ui for d in mesh_2024.descriptors]
    document, context = ([str(u) for u in rng.choice(uis, size)] for size in (60, 200))
    pairs = [[ours.pair(x, y) for y in context] for x in document]
    assert 0.0 <= np.min(pairs) <= np.max(pairs) <= 1.0
    assert ours.document_score(document, context) == pytest.approx(np.mean(pairs))
    assert ours.document_score(context, document) == pytest.approx(np.mean(pairs))
    theirs = nxontology_of(mesh_2024)
    for x, row in list(zip(document, pairs, strict=True))[:10]:
        for y, found in zip(context[:20], row[:20], strict=True):
            expected = theirs.similarity(x, y, ic_metric="intrinsic_ic").lin
            assert found == pytest.approx(expected), (x, y)
