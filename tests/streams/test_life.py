"""What an incoming citation is to what is known; the states that tell it; the records' memory."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import records as example
from streams.citation import (
    AbstractSection,
    Article,
    MeshHeading,
    PublicationType,
)
from streams.codec import decode, encode, with_change
from streams.known import Known
from streams.life import (
    SIZE,
    State,
    decide,
    pack,
    pack_pmids,
    settle,
    state_of,
    unpack,
    unpack_pmids,
    withdrawn,
)

HASHES = st.integers(0, 2**64 - 1)
STATES = st.builds(
    State,
    version=st.integers(0, 0xFFFF),
    order=st.integers(0, 2**32 - 1),
    deleted=st.booleans(),
    text=HASHES,
    mesh=HASHES,
    other=HASHES,
    retraction=st.sampled_from([None, "retracted", "erratum"]),
)
KNOWN = State(version=2, order=20, text=1, mesh=2, other=3)


@pytest.mark.parametrize(
    ("incoming", "known", "change"),
    [
        (KNOWN, None, "new"),
        (KNOWN, KNOWN, "unchanged"),
        (replace(KNOWN, order=21), KNOWN, "unchanged"),
        (replace(KNOWN, text=9, mesh=9, other=9), KNOWN, "text"),
        (replace(KNOWN, mesh=9, other=9), KNOWN, "mesh"),
        (replace(KNOWN, other=9), KNOWN, "other"),
        (replace(KNOWN, version=3), KNOWN, "other"),
        (replace(KNOWN, version=1, order=30, text=9), KNOWN, "older"),
        (replace(KNOWN, order=19, text=9), KNOWN, "older"),
        (replace(KNOWN, version=3, order=19, text=9), KNOWN, "text"),
        # Of a source without an order, such as Entrez, what comes last is the latest.
        (replace(KNOWN, order=0, text=9), KNOWN, "text"),
        (State(version=2, order=21, deleted=True), KNOWN, "deleted"),
        (State(version=1, order=21, deleted=True), KNOWN, "older"),
        (State(version=1, deleted=True), None, "deleted"),
        (State(version=2, order=21, deleted=True), replace(KNOWN, deleted=True), "unchanged"),
        (replace(KNOWN, order=21), replace(KNOWN, deleted=True), "reinstated"),
        (replace(KNOWN, order=19), replace(KNOWN, deleted=True), "older"),
        (replace(KNOWN, order=21, text=9), replace(KNOWN, deleted=True), "new"),
    ],
)
def test_what_a_citation_is_to_what_is_known(incoming, known, change):
    assert decide(incoming, known) == change


@given(
    st.lists(STATES, min_size=1, max_size=8, unique_by=lambda s: (s.version, s.order)), st.data()
)
def test_files_read_in_any_order_end_in_the_same_state(states, data):
    files = [replace(state, order=state.order or 1) for state in states]
    files = list({(f.version, f.order): f for f in files}.values())

    def read(order):
        known = None
        for incoming in order:
            if decide(incoming, known) != "older":
                known = settle(incoming, known)
        return known

    last = read(sorted(files, key=lambda f: (f.version, f.order)))
    shuffled = read(data.draw(st.permutations(files)))
    assert (shuffled.version, shuffled.order, shuffled.deleted) == (
        last.version,
        last.order,
        last.deleted,
    )
    if not last.deleted:
        assert shuffled == last


def test_a_deleted_record_remembers_its_text_and_a_source_without_order_keeps_the_known_one():
    gone = settle(State(version=2, order=21, deleted=True), KNOWN)
    assert (gone.text, gone.mesh, gone.deleted, gone.order) == (1, 2, True, 21)
    assert settle(replace(KNOWN, order=0, text=9), KNOWN).order == 20


@given(STATES)
def test_a_state_is_read_back_as_it_was_packed(state):
    packed = pack(state)
    assert len(packed) == SIZE
    assert packed != bytes(SIZE)
    assert unpack(packed) == state


@pytest.mark.parametrize("wrong", [b"", b"x" * 5, bytes(SIZE), b"\x01\x09" + bytes(SIZE - 2)])
def test_bytes_that_hold_no_state_are_refused(wrong):
    with pytest.raises(ValueError, match="state"):
        unpack(wrong)


ARTICLE = example.article()


@pytest.mark.parametrize(
    ("changed", "change"),
    [
        ({"title": "Another."}, "text"),
        ({"sections": (AbstractSection(text="Another."),)}, "text"),
        ({"mesh": (*ARTICLE.mesh, MeshHeading(ui="D006801", name="Humans"))}, "mesh"),
        ({"mesh": ()}, "mesh"),
        ({"mesh": ARTICLE.mesh[::-1]}, "other"),
        ({"mesh": (replace(ARTICLE.mesh[0], major=False), *ARTICLE.mesh[1:])}, "other"),
        ({"revised": "2026-03-09"}, "other"),
        ({"indexing": "Automated"}, "other"),
        ({"doi": None}, "other"),
        ({"sections": tuple(replace(s, category="OBJECTIVE") for s in ARTICLE.sections)}, "other"),
        ({"sections": tuple(replace(s, label="AIM") for s in ARTICLE.sections)}, "text"),
        ({"source": "another", "corpus": True, "arrived": example.ARRIVED.replace(year=2027)}, ""),
    ],
)
def test_what_of_an_article_changes(changed, change):
    before, after = state_of(ARTICLE), state_of(replace(ARTICLE, **changed))
    assert decide(after, before) == (change or "unchanged")


RETRACTED = PublicationType(ui="D016441", name="Retracted Publication")


@pytest.mark.parametrize(
    ("change", "before", "after", "expected"),
    [
        ("new", None, KNOWN, (False, None)),
        ("text", KNOWN, KNOWN, (False, None)),
        ("deleted", KNOWN, KNOWN, (True, "deleted")),
        ("reinstated", replace(KNOWN, deleted=True), KNOWN, (True, None)),
        ("new", None, replace(KNOWN, retraction="retracted"), (True, "retracted")),
        ("other", KNOWN, replace(KNOWN, retraction="erratum"), (True, "erratum")),
        ("other", replace(KNOWN, retraction="erratum"), KNOWN, (True, None)),
        ("other", *[replace(KNOWN, retraction="erratum")] * 2, (False, None)),
        ("mesh", KNOWN, replace(KNOWN, mesh=9), (True, "MeSH changed")),
        ("mesh", replace(KNOWN, mesh=0), KNOWN, (True, "MeSH changed")),
        ("text", KNOWN, replace(KNOWN, text=9, mesh=9), (True, "MeSH changed")),
        ("mesh", KNOWN, replace(KNOWN, mesh=0), (True, "MeSH changed")),
        ("mesh", KNOWN, replace(KNOWN, mesh=9, retraction="retracted"), (True, "retracted")),
    ],
)
def test_how_rows_made_from_a_record_stand(change, before, after, expected):
    assert withdrawn(change, before, after) == expected


def test_an_article_that_is_retracted_says_so_in_its_state():
    assert state_of(replace(ARTICLE, publication_types=(RETRACTED,))).retraction == "retracted"


@given(st.sets(st.integers(1, 10**10 - 1)))
def test_pmids_are_read_back_as_they_were_packed(pmids):
    assert unpack_pmids(pack_pmids(pmids)) == sorted(pmids)


def test_the_pmids_of_a_baseline_file_take_little():
    assert len(pack_pmids(range(38_000_000, 38_030_000))) < 1000


def test_a_change_is_put_into_an_encoded_article():
    message = encode(replace(ARTICLE, title='He said "change":"new"}'))
    changed = decode(Article, with_change(message, "mesh"))
    assert changed == replace(ARTICLE, title='He said "change":"new"}', change="mesh")


@given(
    st.lists(st.tuples(st.integers(1, 60), STATES.map(pack)), max_size=80),
    st.integers(1, 20),
)
def test_what_is_known_is_found_again(puts, recent):
    known, oracle = Known(recent), {}
    for pmid, state in puts:
        known.put(pmid, state)
        oracle[pmid] = state
    assert known.get(range(70)) == [oracle.get(pmid) for pmid in range(70)]
    pmids, states = known.all()
    assert dict(zip(pmids.tolist(), (s.tobytes() for s in states), strict=True)) == oracle
    assert all(a < b for a, b in pairwise(pmids.tolist()))
    assert len(known) == len(oracle)
