"""Which states of which records the backlog asks θ3 about."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from consumers.backlog import LEARNT, passed_over
from fakes import records as example
from fakes.search import FakeLibrary
from fakes.stored import FakeStored
from streams.citation import Correction
from streams.plan import role
from streams.records import Ideal, Preference

FIRST = example.ARRIVED + timedelta(hours=1)
UNIT = np.ones(1, dtype=np.float32)


async def why_not(
    *,
    at: int = 5,
    indexed_at: int | None = 5,
    share: float = 0.0,
    pmid: int = 1001,
    kept: Sequence[Preference | Ideal] = (),
    **changes,
) -> str | None:
    article = example.article(pmid, **changes)
    library = FakeLibrary(1)
    if indexed_at is not None:
        await library.put(article, UNIT, version=indexed_at)
    return await passed_over(
        article,
        version=at,
        first=FIRST,
        preference_share=share,
        versions=library.versions,
        stored=FakeStored(*kept),
    )


async def test_what_came_before_theta3_served_is_asked_about():
    assert await why_not() is None


@pytest.mark.parametrize("later", [LEARNT, timedelta(days=1)])
@pytest.mark.parametrize("change", ["new", "text"])
async def test_a_text_that_came_after_is_asked_about_live(later, change):
    assert await why_not(arrived=FIRST + later, change=change) == "live"


@pytest.mark.parametrize("change", ["mesh", "other", "reinstated"])
async def test_a_state_that_came_after_with_an_old_text_is_not_asked_about_live(change):
    later = {"arrived": FIRST + timedelta(days=1), "change": change}
    assert await why_not(**later) is None
    assert await why_not(kept=[example.preference(1001)], **later) is None
    assert await why_not(kept=[example.ideal(1001)], **later) == "asked already"
    assert await why_not(kept=[example.ideal(1002)], **later) is None


async def test_what_came_before_every_worker_knew_of_theta3_is_not_missed():
    assert await why_not(arrived=FIRST + LEARNT / 2) is None


async def test_a_time_without_a_zone_is_of_utc():
    assert await why_not(arrived=example.ARRIVED.replace(tzinfo=None)) is None
    assert await why_not(arrived=(FIRST + LEARNT).replace(tzinfo=None)) == "live"


async def test_what_is_still_compared_is_left_to_theta1_and_theta2():
    for pmid in range(1, 40):
        ideal = role(pmid, theta3_serves=True, preference_share=0.5) == "ideal"
        assert await why_not(pmid=pmid, share=0.5) == (None if ideal else "compared")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"corpus": True}, "corpus"),
        ({"sections": ()}, "no abstract"),
        ({"corrections": (Correction(kind="RetractionIn", pmid=9, source="x"),)}, "retracted"),
    ],
)
async def test_what_is_never_asked_about_is_not_either(changes, reason):
    assert await why_not(**changes) == reason


@pytest.mark.parametrize("change", ["new", "text", "mesh", "other", "reinstated"])
async def test_only_the_newest_state_counts_whatever_has_changed_in_it(change):
    assert await why_not(change=change, at=4, indexed_at=5) == "older state"
    assert await why_not(change=change, at=5, indexed_at=5) is None


@pytest.mark.parametrize("indexed_at", [None, 3])
async def test_an_index_that_is_behind_hides_nothing(indexed_at):
    assert await why_not(at=5, indexed_at=indexed_at) is None
