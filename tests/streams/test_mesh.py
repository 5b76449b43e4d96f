import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.mesh import mesh, metals, ui
from streams.mesh import Descriptor, Mesh, MeshError, build, difference, prefixes


def names(of: Mesh, uis: frozenset[str]) -> set[str]:
    found = [of.find(each) for each in uis]
    return {descriptor.name for descriptor in found if descriptor is not None}


def test_a_descriptor_lies_under_each_of_its_places() -> None:
    of = metals()
    assert names(of, of.ancestors(ui(of, "gold"))) == {"precious", "coinage", "metal"}
    assert names(of, of.ancestors(ui(of, "copper"))) == {"coinage", "metal"}
    assert names(of, of.descendants(ui(of, "coinage"))) == {"gold", "silver", "copper"}
    assert of.ancestors(ui(of, "metal")) == frozenset()
    assert of.descendants(ui(of, "gold")) == frozenset()


def test_the_order_goes_on_through_the_other_places_of_an_ancestor() -> None:
    # The liver lies under an organ, which lies under the body in another tree.
    of = mesh({"body": "A01", "organ": "A01.100 B02", "liver": "B02.100"})
    assert names(of, of.ancestors(ui(of, "liver"))) == {"organ", "body"}


def test_a_cycle_is_one_class() -> None:
    of = mesh(
        {
            "eye diseases": "C11",
            "ocular motility disorders": "C10.292.562 C10.292.562.887.825 C11.590",
            "strabismus": "C10.292.562.887 C11.590.810",
            "esotropia": "C11.590.810.500",
        }
    )
    motility, strabismus = ui(of, "ocular motility disorders"), ui(of, "strabismus")
    assert of.class_of(motility) == of.class_of(strabismus) == {motility, strabismus}
    for member in (motility, strabismus):
        assert names(of, of.ancestors(member)) == {"eye diseases"}
        assert names(of, of.descendants(member)) == {"esotropia"}
    assert of.class_of(ui(of, "esotropia")) == {ui(of, "esotropia")}


def test_descriptors_of_different_trees_share_no_descriptor() -> None:
    of = mesh({"neoplasms": "C04", "brain diseases": "C10", "female": ""})
    assert all(of.ancestors(d.ui) == frozenset() for d in of.descriptors)


def test_a_missing_level_does_not_cut_the_tree() -> None:
    of = mesh({"body": "A01", "finger": "A01.378.800.667"})
    assert names(of, of.ancestors(ui(of, "finger"))) == {"body"}


def test_a_common_beginning_of_digits_is_no_ancestor() -> None:
    of = mesh({"one": "A01.100", "other": "A01.100.200", "stranger": "A01.101"})
    assert of.ancestors(ui(of, "stranger")) == frozenset()


def test_lookups() -> None:
    of = metals()
    gold = of.named("gold")
    assert gold is not None
    assert of.find(gold.ui) is gold
    assert of.find("D999999") is None
    assert of.named("Gold") is None
    assert len(of) == 8
    with pytest.raises(KeyError):
        of.ancestors("D999999")


def test_prefixes_are_nearest_first() -> None:
    assert list(prefixes("C10.292.562")) == ["C10.292", "C10"]
    assert list(prefixes("C10")) == []


@pytest.mark.parametrize(
    ("ui", "name", "numbers", "message"),
    [
        ("C000001", "x", (), "descriptor UI 'C000001': expected D and 6 to 9 digits"),
        ("D1", "x", (), "descriptor UI 'D1': expected D and 6 to 9 digits"),
        ("D00000٣", "x", (), "descriptor UI 'D00000٣': expected D and 6 to 9 digits"),
        ("D000001", "", (), "descriptor D000001: the name is empty"),
        ("D000001", "x", ("C4",), "tree number 'C4': expected one like C10.292.562"),
        ("D000001", "x", ("C04.12",), "tree number 'C04.12': expected one like C10.292.562"),
        ("D000001", "x", ("C04 ",), "tree number 'C04 ': expected one like C10.292.562"),
    ],
)
def test_a_malformed_descriptor_is_named(
    ui: str, name: str, numbers: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MeshError) as caught:
        Descriptor(ui, name, numbers)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Descriptor("D000001", "second"), "(first) and D000001 (second) have the same UI D000001"),
        (Descriptor("D000002", "first"), "D000001 (first) and D000002 (first) have the same name"),
        (Descriptor("D000002", "second", ("C04",)), "have the same tree number C04"),
    ],
)
def test_what_should_be_unique_is(second: Descriptor, message: str) -> None:
    with pytest.raises(MeshError) as caught:
        build("test", [Descriptor("D000001", "first", ("C04",)), second])
    assert message in str(caught.value)


def test_an_empty_edition_is_refused() -> None:
    with pytest.raises(MeshError, match="no descriptors"):
        build("test", [])


@given(st.from_regex(r"[A-Z]\d\d(\.\d{3})*", fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_any_tree_number_is_taken(number: str) -> None:
    assert build("test", [Descriptor("D000001", "x", (number,))]).places == {number: 0}


def test_mesh_2024(mesh_2024: Mesh) -> None:
    assert len(mesh_2024) == 30_764
    assert sum(bool(d.tree_numbers) for d in mesh_2024.descriptors) == 30_762
    classes = {mesh_2024.class_of(d.ui) for d in mesh_2024.descriptors[:2_000]}
    strabismus = mesh_2024.named("Strabismus")
    assert strabismus is not None
    assert max(map(len, classes)) == 1
    assert names(mesh_2024, mesh_2024.class_of(strabismus.ui)) == {
        "Strabismus",
        "Ocular Motility Disorders",
    }


def test_how_an_edition_differs_from_another():
    old = mesh({"metal": "A01", "gold": "A01.100", "silver": "A01.200"})
    new = build(
        "new",
        [
            Descriptor("D000001", "metals", ("A01",)),
            Descriptor("D000002", "gold", ("A01.100", "B01")),
            Descriptor("D000009", "copper", ("A01.300",)),
        ],
    )
    changes = difference(old, new)
    assert (changes.added, changes.removed, changes.moved) == (
        ("D000009",),
        ("D000003",),
        ("D000002",),
    )
    assert changes.lost == pytest.approx(1 / 3)
