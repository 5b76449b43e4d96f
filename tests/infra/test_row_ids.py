"""Ids are found again, whatever their bytes and however they came."""

from hypothesis import given, settings
from hypothesis import strategies as st

from infra import row_ids
from infra.row_ids import RowIds

# Few different bytes, zero among them, so that ids share beginnings and ends.
IDS = st.lists(st.sampled_from([0, 1, 255]), min_size=16, max_size=16).map(lambda b: bytes(b).hex())


@settings(deadline=None)
@given(st.lists(st.lists(IDS, max_size=8)), st.lists(IDS), st.sampled_from([1, 3, 100]))
def test_as_a_set_of_strings(batches, asked, recent):
    ids, oracle = RowIds(), set()
    usual, row_ids.RECENT = row_ids.RECENT, recent
    try:
        for batch in batches:
            ids.add(batch)
            oracle.update(batch)
    finally:
        row_ids.RECENT = usual
    assert len(ids) == len(oracle)
    assert ids.known(asked) == [id in oracle for id in asked]
