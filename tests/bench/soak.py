"""A hundred faults, every record counted; then memory over a calm hour, and a burst of ten times.

    python tests/bench/soak.py [--records 50000] [--faults 100] [--calm 60] [--seed 20263362]

The whole service runs on a real broker and node with scripted models, as in tests/faults. What is
wrong in the end is named record by record, and the exit status is 1. The seed gives the same faults
in the same order again; how long the machine takes for each, it does not.
"""
# ruff: noqa: E402

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from fakes import records
from faults.chaos import schedule
from faults.fates import Fates, poisoning
from faults.run import Chaos
from faults.world import STAGES, World, running_world
from infra.kafka import Publisher
from infra.tables import DECIDED, select
from streams.citation import AbstractSection, Article, MeshHeading
from streams.topics import ARTICLES

# Records of the calm and the burst have PMIDs from here on.
FIRST = 10_000_000
BURST_SECONDS = 30
BACK_WITHIN = 1800.0
SAMPLE_EVERY = 5.0
# The first of these seconds of a life are warming up: caches, pools, the first batches.
WARM_UP = 60.0
# What a process may grow by in an hour, beyond what it has: bytes, and as a part of it.
MOST_GROWTH, MOST_SHARE = 30e6, 0.10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--records", type=int, default=50_000)
    arguments.add_argument("--faults", type=int, default=100)
    arguments.add_argument("--files", type=int, default=25)
    arguments.add_argument("--seed", type=int, default=20263362)
    arguments.add_argument("--calm", type=float, default=60.0, help="minutes of steady load")
    arguments.add_argument("--rate", type=float, default=5.0, help="records/s of the steady load")
    given = arguments.parse_args()
    fates = Fates(given.seed, given.records, min(given.files, given.faults - 1))
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as directory,
        running_world(
            Path(directory),
            poisoning,
            disk_mb=256 + given.records // 50,
            # As in service, not as often as a short test wants it.
            append={"rows": 200, "seconds": 2.0},
            parked={"check_every": 30.0},
        ) as world,
        memory_of(world) as memory,
    ):
        for kind, why in world.without.items():
            say(f"without faults of kind {kind}: {why}")
        faults = schedule(given.seed, given.faults, without=world.without)
        chaos = Chaos(world, fates, faults, done_within=600 + given.records / 10, say=say)
        chaos.run()
        say(chaos.story())
        wrong = list(chaos.account.wrong)
        if given.calm:
            began = time.monotonic()
            fed = asyncio.run(steady(world, given.rate, given.calm * 60))
            wrong += grown(memory, since=began)
            sent, late = burst(world, given.rate * 10, fed)
            wrong += late + twice_or_never(world, fed + sent)
    say(*(wrong or ["nothing is lost, nothing is there twice, nothing grows"]))
    sys.exit(bool(wrong))


def say(*lines: str) -> None:
    for line in lines:
        print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


# Memory.

Samples = dict[tuple[str, int], list[tuple[float, int]]]


@contextmanager
def memory_of(world: World) -> Iterator[Samples]:
    """The resident memory of every process by name and pid, looked at all the while."""
    samples: Samples = defaultdict(list)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY):
            for name in (*STAGES, "supervisor", "kafka", "elasticsearch"):
                process = world.process(name)
                if process:
                    try:
                        rss = process.memory_info().rss
                    except psutil.Error:
                        continue
                    samples[name, process.pid].append((time.monotonic(), rss))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def grown(memory: Samples, since: float) -> list[str]:
    """What has grown by more than it may, of the processes that lived all through the calm."""
    wrong = []
    say(f"{'process':<16}{'first MB':>10}{'last MB':>10}{'MB/h':>10}{'± 95 %':>10}")
    for (name, _), samples in sorted(memory.items()):
        calm = np.array([(at, rss) for at, rss in samples if at >= since + WARM_UP])
        if len(calm) < 10 or calm[-1, 0] < time.monotonic() - 60:
            continue
        hours, size = (calm[:, 0] - calm[0, 0]) / 3600, calm[:, 1]
        (slope, _), covariance = np.polyfit(hours, size, 1, cov=True)
        margin = 1.96 * float(np.sqrt(covariance[0, 0]))
        say(
            f"{name:<16}{size[:5].mean() / 1e6:>10.1f}{size[-5:].mean() / 1e6:>10.1f}"
            f"{slope / 1e6:>10.1f}{margin / 1e6:>10.1f}"
        )
        if slope - margin > max(MOST_GROWTH, MOST_SHARE * size[0]):
            wrong.append(f"{name} grows by {slope / 1e6:.0f} MB an hour")
    return wrong


# Load.


def article(number: int) -> Article:
    text = f"Asthma and aspirin in {number} adults."
    return records.article(
        FIRST + number,
        title=f"Asthma and aspirin, part {number}.",
        sections=(AbstractSection(text=text),),
        mesh=(MeshHeading(ui="D000006", name="Asthma"), MeshHeading(ui="D000009", name="Aspirin")),
        arrived=datetime.now(UTC),
    )


async def steady(world: World, rate: float, seconds: float, first: int = 0) -> int:
    """Feed at this rate for so long; how many records that were."""
    began = time.monotonic()
    sent = 0
    async with Publisher(world.settings) as publisher:
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * rate) - sent
            await asyncio.gather(
                *(publisher.send(ARTICLES, article(first + sent + n)) for n in range(due))
            )
            sent += due
            await asyncio.sleep(0.2)
    return sent


def burst(world: World, rate: float, first: int) -> tuple[int, list[str]]:
    """A high rate for a while: how far behind the stages come, and how soon they are back.

    How many records that were, and what is wrong.
    """
    usual = settle(world)
    began = time.monotonic()
    sent = asyncio.run(steady(world, rate, BURST_SECONDS, first))
    fed = time.monotonic() - began
    most = lag = world.lag()
    while lag > usual + rate / 10 and time.monotonic() - began < BACK_WITHIN:
        time.sleep(1)
        lag = world.lag()
        most = max(most, lag)
    took = time.monotonic() - began
    say(
        f"burst: {sent} records in {fed:.0f} s ({sent / fed:.0f}/s); lag {usual:.0f} messages "
        f"before, {most:.0f} over all stages at most, {lag:.0f} again {took - fed:.0f} s after its "
        f"end: {sent / took:.1f} records/s all through"
    )
    return sent, [] if lag <= usual + rate / 10 else [f"lag is {lag:.0f} after {took:.0f} s"]


def settle(world: World) -> float:
    """Wait until nothing more becomes less; the messages that are left over all stages."""
    lags = [world.lag()]
    while len(lags) < 6 or lags[-1] < lags[-6]:
        time.sleep(1)
        lags.append(world.lag())
    return lags[-1]


def twice_or_never(world: World, fed: int) -> list[str]:
    """The records of the calm and the burst that have not exactly one row."""
    settle(world)
    deadline = time.monotonic() + 120
    while True:
        rows: dict[int, int] = defaultdict(int)
        for table in DECIDED:
            for row in select(world.settings, table, "select pmid from rows"):
                rows[row["pmid"]] += 1
        wrong = [n for n in range(FIRST, FIRST + fed) if rows[n] != 1]
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(2)
    say(f"calm and burst: {fed} records, {fed - len(wrong)} of them have exactly one row")
    return [f"PMID {n} has {rows[n]} rows" for n in wrong[:20]]


if __name__ == "__main__":
    main()
