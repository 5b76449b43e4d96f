"""The micro-batcher: what it groups, and that one caller's trouble stays that caller's."""

import asyncio
import contextlib
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.batcher import Batcher
from streams.at_hand import at_hand, fields


class Doubling:
    """Doubles numbers; answers a negative one with an exception, and fails as a whole on zero."""

    def __init__(self, delay: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.delay = delay

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await asyncio.sleep(self.delay)
        if 0 in items:
            raise OSError("the whole batch failed")
        return [ValueError(f"no {item}") if item < 0 else 2 * item for item in items]


async def test_a_full_batch_goes_at_once():
    double = Doubling()
    batcher = Batcher(double, size=3, linger=60)
    assert await asyncio.gather(*(batcher(n) for n in (1, 2, 3))) == [2, 4, 6]
    assert double.batches == [[1, 2, 3]]


async def test_a_single_item_goes_when_it_has_lingered():
    batcher = Batcher(Doubling(), size=100, linger=0.05)
    started = time.monotonic()
    assert await batcher(21) == 42
    assert 0.04 < time.monotonic() - started < 5


async def test_no_batch_is_larger_than_size():
    double = Doubling()
    batcher = Batcher(double, size=4, linger=0.01)
    assert await asyncio.gather(*(batcher(n) for n in range(1, 12))) == list(range(2, 24, 2))
    assert [len(batch) for batch in double.batches] == [4, 4, 3]


async def test_while_a_batch_runs_the_next_one_fills():
    batches: list[list[int]] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def double(items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        begun.set()
        await gate.wait()
        return [2 * item for item in items]

    batcher = Batcher(double, size=8, linger=0.001)
    first = asyncio.create_task(batcher(1))
    await begun.wait()
    rest = [asyncio.create_task(batcher(n)) for n in (2, 3)]
    await asyncio.sleep(0.01)
    rest.append(asyncio.create_task(batcher(4)))
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
    assert batches == [[1], [2, 3, 4]]


async def test_an_exception_for_one_item_reaches_its_caller_only():
    batcher = Batcher(Doubling(), size=3, linger=60)
    results = await asyncio.gather(*(batcher(n) for n in (1, -5, 3)), return_exceptions=True)
    assert results[0] == 2
    assert str(results[1]) == "no -5"
    assert results[2] == 6


async def test_a_batch_that_fails_fails_its_callers_and_no_others():
    batcher = Batcher(Doubling(), size=2, linger=60)
    results = await asyncio.gather(*(batcher(n) for n in (1, 0, 3, 4)), return_exceptions=True)
    assert [type(result) for result in results[:2]] == [OSError, OSError]
    assert results[2:] == [6, 8]


async def test_too_few_results_are_an_error_and_not_mixed_up():
    async def short(items: Sequence[int]) -> list[int]:
        return [1]

    batcher = Batcher(short, size=2, linger=60)
    results = await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)


async def test_a_cancelled_callers_item_is_left_out_and_the_others_are_served():
    double = Doubling()
    batcher = Batcher(double, size=100, linger=0.05)
    tasks = [asyncio.create_task(batcher(n)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]
    assert double.batches == [[1, 3]]


async def test_a_caller_cancelled_while_its_batch_runs_disturbs_nobody():
    batcher = Batcher(Doubling(delay=0.05), size=2, linger=60)
    tasks = [asyncio.create_task(batcher(n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    assert await tasks[1] == 4
    assert await asyncio.gather(batcher(5), batcher(6)) == [10, 12]


async def test_close_sees_through_what_was_taken_and_refuses_the_rest():
    double = Doubling(delay=0.02)
    batcher = Batcher(double, size=2, linger=60)
    tasks = [asyncio.create_task(batcher(n)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    await batcher.close()
    assert [task.result() for task in tasks] == [2, 4, 6]
    with pytest.raises(RuntimeError, match="closed"):
        await batcher(4)


@settings(max_examples=50, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 2), st.booleans()), max_size=30),
    size=st.integers(1, 5),
)
def test_whatever_arrives_and_leaves_every_other_caller_gets_its_own_result(arrivals, size):
    """Arrivals are (number, milliseconds before it, cancelled straight away?)."""

    async def scenario() -> None:
        batcher = Batcher(Doubling(delay=0.001), size=size, linger=0.002)
        tasks = []
        for number, pause, cancelled in arrivals:
            await asyncio.sleep(pause / 1000)
            task = asyncio.create_task(batcher(number))
            tasks.append((number, task))
            if cancelled:
                await asyncio.sleep(0)
                task.cancel()
        for number, task in tasks:
            with contextlib.suppress(asyncio.CancelledError, OSError, ValueError):
                assert await asyncio.wait_for(task, 5) == 2 * number

    asyncio.run(scenario())


async def test_a_batch_is_the_work_of_no_single_caller():
    seen: list[dict[str, str | int]] = []

    async def batch(items: Sequence[int]) -> Sequence[int]:
        seen.append(dict(fields()))
        return items

    batcher = Batcher(batch, size=2, linger=0.01)
    with at_hand(pmid=7):
        assert await batcher(1) == 1
    assert seen == [{}]
