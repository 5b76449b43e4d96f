"""Parts of one record are worked on at once, and none of them alone."""

import asyncio

import pytest

from consumers.together import together
from streams.errors import Transient


async def after(seconds: float, value: int) -> int:
    await asyncio.sleep(seconds)
    return value


async def test_results_come_in_the_order_of_the_parts():
    assert await together([after(0.02, 1), after(0, 2), after(0.01, 3)]) == [1, 2, 3]
    assert await together([]) == []


async def test_the_first_failure_is_raised_once_the_others_have_ended():
    ended: list[str] = []

    async def endless() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cancelled")
        return 0

    async def fails() -> int:
        await asyncio.sleep(0)
        raise Transient("model away")

    with pytest.raises(Transient, match="model away"):
        await together([endless(), fails(), endless()])
    assert ended == ["cancelled"] * 2


async def test_a_cancelled_caller_leaves_no_part_behind():
    before = asyncio.all_tasks()
    caller = asyncio.create_task(together([after(60, 1), after(60, 2)]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert asyncio.all_tasks() - {caller} == before
