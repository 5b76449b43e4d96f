"""How a stage waits between attempts."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from consumers.stage import Policy


@given(first=st.floats(0.01, 10), factor=st.floats(1, 100))
def test_pauses_double_up_to_the_longest(first: float, factor: float):
    longest = first * factor
    pauses = list(islice(Policy(retry_first=first, retry_longest=longest).pauses(), 20))
    for attempt, pause in enumerate(pauses):
        full = min(first * 2**attempt, longest)
        assert full / 2 <= pause <= full
