"""Memory and time in which a job's examples are prepared, for few and for many rows.

    python tests/bench/training_data.py [--rows 200000] [--few 25000]

Tables of `preferences` and of `ideal` are made with texts of the usual lengths, each row with a
context of five abstracts. Then dpo, cpt and sft-answers prepare the few and the many rows, each in
a process of its own. What is told is its peak of private memory above what it had once all was
imported; the ratio is 1 where memory does not depend on the rows.
"""
# ruff: noqa: E402

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from consumers.append import row
from fakes.records import ideal, preference
from fakes.tables import append
from trainers import prepared
from trainers.config import Cpt, Dpo, SftAnswers

JOBS: dict[str, tuple[Any, Any, str]] = {
    "dpo": (Dpo, prepared.dpo, "preferences"),
    "cpt": (Cpt, prepared.cpt, "ideal"),
    "sft-answers": (SftAnswers, prepared.sft_answers, "ideal"),
}
AT_ONCE, PASSAGES = 5000, 5
LARGE = 128 << 20
ZSTD = WriterProperties(compression="ZSTD", compression_level=3)
WORDS = tuple(f"w{number:x}" for number in range(4096))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--few", type=int, default=25_000)
    arguments.add_argument("--prepare", nargs=3, metavar=("JOB", "TABLE", "VERSION"))
    given = arguments.parse_args()
    if given.prepare:
        prepare(*given.prepare)
        return
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), given.rows, given.few)


def measure(directory: Path, rows: int, few: int) -> dict[str, float]:
    """Print the figures of every job; the ratios of memory, many rows to few."""
    versions = make(directory, rows, few)
    size = sum(file.stat().st_size for file in directory.rglob("*.parquet"))
    print(f"{rows:,} rows in each table, {size / 1e6:,.0f} MB on disk", flush=True)
    ratios = {}
    for job, (_, _, table) in JOBS.items():
        peaks = []
        for version in versions[table]:
            command = [sys.executable, __file__, "--prepare", job, str(directory / table), version]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(float(told.split()[0]))
            print(f"{job:<12} {told.partition(' ')[2].strip()}", flush=True)
        ratios[job] = peaks[1] / peaks[0]
        print(f"{job:<12} memory, many rows to few: {ratios[job]:.2f}", flush=True)
    return ratios


def make(directory: Path, rows: int, few: int) -> dict[str, list[str]]:
    """The tables, compacted as the append stage does; the versions with few and with all rows."""
    versions: dict[str, list[str]] = {}
    texts = pa.array(" ".join(random.choices(WORDS, k=300)) for _ in range(20_000))
    for record in (preference(1), ideal(1)):
        name, _ = row(record)
        uri = append(directory, [record])
        example = DeltaTable(uri).to_pyarrow_table()
        for pmids in batched(range(2, rows + 1), AT_ONCE):
            write_deltalake(uri, like(example, pmids, texts), mode="append", writer_properties=ZSTD)
            if few in pmids or rows in pmids:
                DeltaTable(uri).optimize.compact(target_size=LARGE, writer_properties=ZSTD)
                versions.setdefault(name, []).append(str(DeltaTable(uri).version()))
    return versions


def like(example: pa.Table, pmids: Sequence[int], texts: pa.Array) -> pa.Table:
    """Rows like the example's for these PMIDs, with other texts in records and contexts."""
    rows = example.take(pa.array([0] * len(pmids))).combine_chunks()
    columns = {
        "id": pa.array([f"{pmid:032x}" for pmid in pmids]),
        "pmid": pa.array(pmids, pa.int64()),
        "abstract": some(texts, len(pmids)),
    }
    for name in rows.schema.names:
        if name.startswith("context"):
            columns[name] = contexts(rows[name].type, rows[name].chunk(0).flatten(), pmids, texts)
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), values.cast(rows.schema.field(at).type))
    return rows


def contexts(
    type: pa.DataType, passages: pa.StructArray, pmids: Sequence[int], texts: pa.Array
) -> pa.Array:
    many = passages.take(pa.array([0] * (PASSAGES * len(pmids))))
    fields = dict(zip(many.type.names, many.flatten(), strict=True))
    fields["pmid"] = pa.array(range(10**9, 10**9 + len(many)), pa.int64())
    fields["abstract"] = some(texts, len(many)).cast(fields["abstract"].type)
    structs = pa.StructArray.from_arrays(list(fields.values()), fields=list(many.type))
    offsets = pa.array(range(0, len(many) + 1, PASSAGES), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(type)


def some(texts: pa.Array, count: int) -> pa.Array:
    return texts.take(pa.array([random.randrange(len(texts)) for _ in range(count)]))


def batched(numbers: range, size: int) -> Iterator[range]:
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def prepare(job: str, table: str, version: str) -> None:
    """Print the peak of memory in bytes, and then all figures for reading."""
    config, make, _ = JOBS[job]
    process, peaks = psutil.Process(), [0]
    with tempfile.TemporaryDirectory() as directory:
        settings = config.model_validate(
            {
                "id": "bench",
                "output": directory,
                "model": "base",
                "tracking": {"uri": "sqlite://"},
                "optimisation": {"learning_rate": 1e-5},
                "data": {"table": table, "version": int(version)},
            }
        )
        before, began, done = private(process), time.perf_counter(), threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peaks.append(private(process) - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        report = make(settings).report
        seconds = time.perf_counter() - began
        done.set()
        watcher.join()
    peak = max(peaks)
    print(
        f"{peak} {report.rows:>9,} rows  {peak / 1e6:>6,.0f} MB above the {before / 1e6:,.0f} MB "
        f"at first  {seconds:>6.1f} s  {report.rows / seconds:>7,.0f} rows/s"
    )


def private(process: psutil.Process) -> int:
    """Resident memory that is no file's: mapped examples are the page cache's."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


if __name__ == "__main__":
    main()
