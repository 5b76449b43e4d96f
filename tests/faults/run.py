"""A run of chaos: records are fed while faults are done, and counted when all is calm again."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate

from fakes import records
from faults.chaos import Fault, NotFelt, inject
from faults.fates import Account, Fates, count, publish
from faults.world import World
from infra.kafka import Publisher
from infra.topic_admin import create_topics
from streams.topics import SERVING

# Seconds until the service is up at first, and until the last record is where it belongs.
UP_WITHIN = 240.0
DONE_WITHIN = 300.0
# Whatever were still on its way when the last record has come would come in this time.
CALM = 5.0


class Chaos:
    """`run` does the faults in turn; a file and a part of the garbage is fed before some of them.

    `account` is what was found in the end, `story` tells the seed's faults with their proofs.
    """

    def __init__(
        self,
        world: World,
        fates: Fates,
        faults: list[Fault],
        *,
        done_within: float = DONE_WITHIN,
        say: Callable[[str], None] = print,
    ) -> None:
        self.world = world
        self.fates = fates
        self.faults = faults
        self.proofs: dict[int, str] = {}
        self.account = Account()
        self.recovered = 0.0
        self._done_within = done_within
        self._say = say

    def run(self) -> None:
        """Raises `AssertionError`, with the story so far, where something does not come back.

        A fault that was not felt is told when all are done: an hour of them is not to be lost.
        """
        try:
            self._start()
            unfelt = self._faults()
            self._calm()
            assert not unfelt, "\n".join(unfelt)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from error

    def story(self) -> str:
        """The schedule with what proves each fault, and the account."""
        told = [f"no faults of kind {kind}: {why}" for kind, why in self.world.without.items()]
        told += [f"{f} — {self.proofs.get(f.number, 'not done')}" for f in self.faults]
        return "\n".join(
            [
                f"seed {self.fates.seed}, {len(self.fates.of)} records in "
                f"{self.fates.files + 1} files, {len(self.faults)} faults:",
                *told,
                f"supervisor started {self.world.starts} times, ingest {self.world.ingests}",
                f"everything in its place {self.recovered:.0f} s after the last fault",
                f"dead letters written again: {self.account.repeated_letters}, "
                f"rows parked again: {self.account.repeated_parked}",
                str(self.account),
            ]
        )

    def _start(self) -> None:
        settings = self.world.settings
        asyncio.run(create_topics(settings))
        asyncio.run(self._serve_theta3())
        self.world.begin()
        _wait(self.world.ready, "service", UP_WITHIN, self.world.told)

    async def _serve_theta3(self) -> None:
        serving = records.serving(
            model="theta3-v1",
            revision="1",
            url=self.world.settings.servers["local"].address,
            first=datetime.now(UTC),
        )
        async with Publisher(self.world.settings) as publisher:
            await publisher.send(SERVING, replace(serving, at=datetime.now(UTC)))

    def _faults(self) -> list[str]:
        unfelt = []
        files = self.fates.write(self.world.directory / "files")
        for index, fault in enumerate(self.faults):
            for number in (n for n, at in enumerate(self._due(len(files))) if at == index):
                self.world.feed([files[number]])
                publish(self.world.settings, self.fates.garbage[number :: len(files)])
            try:
                self.proofs[fault.number] = inject(self.world, fault)
            except NotFelt as error:
                unfelt.append(str(error))
                self.proofs[fault.number] = f"not felt: {str(error).splitlines()[0]}"
            self._say(f"{fault} — {self.proofs[fault.number]}")
        return unfelt

    def _due(self, files: int) -> list[int]:
        """The fault before which each file, and a part of the garbage, is fed: evenly.

        But one comes with each full disk, which nothing meets that has no rows to write; not the
        last, which has few.
        """
        due = [number * len(self.faults) // files for number in range(files)]
        free = set(range(1, files - 1))
        for index, fault in enumerate(self.faults):
            if fault.kind == "full" and free:
                nearest = min(free, key=lambda n: abs(due[n] - index))
                due[nearest] = index
                free.remove(nearest)
        return list(accumulate(due, max))

    def _calm(self) -> None:
        self.world.restored()
        began = time.monotonic()
        while True:
            # Not before: to count them all takes from those that are still on their way.
            if self.world.fed and not self.world.lag():
                self.account = count(self.world.settings, self.fates)
                if not self.account.wrong:
                    break
            if time.monotonic() - began > self._done_within:
                self.account = count(self.world.settings, self.fates)
                raise AssertionError(
                    f"not every record in its place within {self._done_within:g} s\n"
                    f"{self.world.told()}"
                )
            time.sleep(2)
        self.recovered = time.monotonic() - began
        time.sleep(CALM)
        self.account = count(self.world.settings, self.fates)


def _wait(
    condition: Callable[[], bool], what: str, seconds: float, told: Callable[[], str]
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {seconds:g} s\n{told()}")
        time.sleep(0.5)
