"""Rows appended per second: the last 100,000 of a million against the first 100,000.

    python tests/bench/append_rate.py [--rows 1000000] [--batch 1000]

What is timed is the commit of a batch as the append stage does it, without Kafka: rows to Arrow,
the ids looked up, both tables committed, small files compacted. Making the rows is not. One id in
a hundred is a repetition. The ratio is 1 where the rate does not depend on the size of the tables.
It is given for the time that passed and for CPU time, where other work on the machine counts less.
"""
# ruff: noqa: E402

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from fakes.entries import entry
from fakes.records import preference
from infra.delta_sink import DeltaSink
from infra.settings import Settings
from infra.sink_table import Entry
from infra.tables import row_counts
from streams.metrics import Metrics

PARTITIONS = 6
WORDS = tuple(f"w{number:x}" for number in range(4096))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--part", type=int, default=100_000)
    arguments.add_argument("--batch", type=int, default=1000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), given.rows, given.part, given.batch)


def measure(directory: Path, rows: int, part: int, batch: int) -> float:
    """Append, print the rate of each part, and return the last part's rate over the first's."""
    settings = Settings(tables=str(directory))
    sink = DeltaSink(settings, Metrics(CollectorRegistry()))
    sink.open()
    rates: list[tuple[float, float]] = []
    seconds = cpu = 0.0
    done = 0
    for entries in batches(rows, batch):
        began, cpu_began = time.perf_counter(), time.process_time()
        sink.append(entries)
        seconds += time.perf_counter() - began
        cpu += time.process_time() - cpu_began
        done += len(entries)
        if done % part == 0:
            rates.append((part / seconds, part / cpu))
            line = "{:>10,} rows  {:>7,.0f} rows/s  {:>7,.0f} rows/CPU s"
            print(line.format(done, *rates[-1]), flush=True)
            seconds = cpu = 0.0
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    memory = psutil.Process().memory_info().rss
    began = time.perf_counter()
    DeltaSink(settings, Metrics(CollectorRegistry())).open()
    opened = time.perf_counter() - began
    print(f"{row_counts(settings)}, {size / 1e6:,.0f} MB on disk, {memory / 1e6:,.0f} MB of memory")
    print(f"opening the tables with their ids: {opened:.1f} s")
    passed, worked = (last / first for last, first in zip(rates[-1], rates[0], strict=True))
    print(f"last {part:,} rows against the first: {passed:.2f} (by CPU time {worked:.2f})")
    return passed


def batches(rows: int, batch: int) -> Iterator[list[Entry]]:
    """Entries as Kafka would bring them; texts are short, so that a million fit the disk."""
    chance = random.Random(7)
    template = preference(1)
    source = template.source
    for start in range(0, rows, batch):
        entries = []
        for number in range(start, start + batch):
            known = chance.randrange(number) if number and chance.random() < 0.01 else number
            record = replace(
                template,
                id=f"{known * 0x9E3779B97F4A7C15 % 2**128:032x}",
                source=replace(
                    source,
                    pmid=known + 1,
                    abstract=" ".join(chance.choices(WORDS, k=60)),
                    arrived=source.arrived + timedelta(seconds=number),
                ),
                outcome="tie" if known % 10 == 0 else "preference",
            )
            entries.append(entry(number, record, known % PARTITIONS, timestamp=number))
        yield entries


if __name__ == "__main__":
    main()
