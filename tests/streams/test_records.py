"""Ids and seeds are functions of what made the record, and of nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from fakes import records as example
from streams.citation import AbstractSection, MeshHeading
from streams.records import record_id, seed, text_hash


def test_an_id_is_the_same_in_every_process_and_order():
    text = text_hash("Title", "Abstract")
    one = record_id(1, text, "preference", ["theta1=a@1", "theta2=b@1"], mesh=["D1"])
    assert one == "2cedc09f1b6ab857467de0350fe78f62"
    assert one == record_id(1, text, "preference", ["theta2=b@1", "theta1=a@1"], mesh=["D1"])


def test_an_id_changes_with_each_thing_that_made_it():
    text = text_hash("Title", "Abstract")
    ids = {
        record_id(1, text, "preference", ["theta1=a@1"], mesh=["D1"]),
        record_id(1, text, "preference", ["theta1=a@1"], mesh=[]),
        record_id(1, text, "preference", ["theta1=a@1"], mesh=["D1", "D2"]),
        record_id(2, text, "preference", ["theta1=a@1"], mesh=["D1"]),
        record_id(1, text_hash("Title", "Other"), "preference", ["theta1=a@1"], mesh=["D1"]),
        record_id(1, text, "ideal", ["theta1=a@1"], mesh=["D1"]),
        record_id(1, text, "preference", ["theta1=a@2"], mesh=["D1"]),
        record_id(1, text, "preference", ["theta1=a@1", "theta2=a@1"], mesh=["D1"]),
    }
    assert len(ids) == 8


def test_an_id_is_by_the_set_of_descriptors():
    ids = {
        record_id(1, "", "preference", [], mesh=mesh)
        for mesh in (["D2", "D1"], ["D1", "D2"], ["D1", "D2", "D1"])
    }
    assert len(ids) == 1


@given(st.text(), st.text(), st.text(), st.text())
def test_the_text_hash_tells_title_from_abstract(title, abstract, other_title, other_abstract):
    same = (title, abstract) == (other_title, other_abstract)
    if "\x00" not in title + other_title:
        assert (text_hash(title, abstract) == text_hash(other_title, other_abstract)) == same


@given(st.text(), st.integers(0, 5))
def test_a_seed_is_what_samplers_take(id, attempt):
    assert 0 <= seed(id, "theta1", attempt) < 2**31


def test_each_attempt_and_generator_has_a_seed_of_its_own():
    assert len({seed("x", g, a) for g in ("theta1", "theta2") for a in (1, 2, 3)}) == 6


def test_the_abstract_is_led_by_the_labels_of_its_sections():
    sections = (AbstractSection(text="Plain."), AbstractSection(label="RESULTS", text="Half."))
    assert example.article(sections=sections).abstract == "Plain.\nRESULTS: Half."


def test_a_descriptor_given_twice_counts_once():
    heading = MeshHeading(ui="D001241", name="Aspirin")
    assert example.article(mesh=(heading, heading)).descriptors == ("D001241",)
