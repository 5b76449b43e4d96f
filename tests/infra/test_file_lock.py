import asyncio
from pathlib import Path

from infra.file_lock import alone


async def test_who_comes_second_waits_without_holding_up_the_others(tmp_path: Path):
    said: list[str] = []

    async def work(name: str) -> None:
        async with alone(tmp_path / "made" / ".lock"):
            said.append(f"{name} begins")
            # Would never return if the loop were held up by the one that waits.
            await asyncio.sleep(0.1)
            said.append(f"{name} ends")

    async with asyncio.timeout(10):
        await asyncio.gather(work("one"), work("two"))
    assert [line.split()[1] for line in said] == ["begins", "ends", "begins", "ends"]


async def test_the_lock_is_free_again_after_an_error(tmp_path: Path):
    try:
        async with alone(tmp_path / ".lock"):
            raise RuntimeError
    except RuntimeError:
        pass
    async with asyncio.timeout(5), alone(tmp_path / ".lock"):
        pass
