"""What each job trains on, on disk: read once, so that a job that is resumed reads the same bytes.

`<output>/prepared` holds train.arrow, held_out.arrow and report.json, and is there whole or not at
all.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from pydantic import TypeAdapter

from trainers import examples, exclusions
from trainers.config import Cpt, Dpo, Job, SftAnswers, SftGenerators
from trainers.errors import DataError
from trainers.examples import COMPLETION, PREFERENCE, TEXT, Reading
from trainers.rows import Digest

log = logging.getLogger(__name__)

_TRAIN, _HELD_OUT, _REPORT = "train.arrow", "held_out.arrow", "report.json"
# Examples that are turned to Arrow at a time.
_AT_ONCE = 256
# The settings that the examples follow from: what was prepared with others is of no use.
_DECISIVE = {
    *("data", "selection", "seed", "prompt"),
    *("bioasq", "records", "pqa", "held_out", "excluded"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was read and what became of it.

    `source` is the table or the files, `version` the table's, None for files. `rows` counts those
    of the source: table rows, PubMedQA's items, or BioASQ's questions by document. `train` and
    `held_out` of them are in the data sets, and `left_out` counts the others by reason. `digest` is
    of the training rows' ids, see `trainers.rows.Digest`. `branches` counts training rows by MeSH
    branch (dpo), `notes` what else is worth knowing. `excluded` PMIDs are named by `excluded_by`,
    files. `made_of` is a hash of the settings that all this follows from.
    """

    job: str
    source: tuple[str, ...]
    version: int | None
    rows: int
    train: int
    held_out: int
    digest: str
    left_out: dict[str, int]
    branches: dict[str, int]
    notes: dict[str, int]
    excluded: int
    excluded_by: tuple[str, ...]
    made_of: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Memory-mapped data sets with the columns that TRL expects and `id`, in the order of the ids.

    `held_out` may be empty.
    """

    train: Dataset
    held_out: Dataset
    report: Report


_REPORTS = TypeAdapter(Report)


def dpo(config: Dpo) -> Prepared:
    """Columns `prompt`, `chosen`, `rejected`: conversational. Raises `DataError`."""
    return _prepared("dpo", config, PREFERENCE, partial(examples.preferences, config))


def sft_generators(config: SftGenerators) -> Prepared:
    """Columns `prompt`, `completion`: conversational. Raises `DataError`."""
    return _prepared("sft-generators", config, COMPLETION, partial(examples.questions, config))


def cpt(config: Cpt) -> Prepared:
    """Column `text`. Raises `DataError`."""
    return _prepared("cpt", config, TEXT, partial(examples.pretraining, config))


def sft_answers(config: SftAnswers) -> Prepared:
    """Columns `prompt`, `completion`: conversational. Raises `DataError`."""
    return _prepared("sft-answers", config, COMPLETION, partial(examples.answers, config))


def _prepared(job: str, config: Job, schema: pa.Schema, read: Callable[[], Reading]) -> Prepared:
    """What lies in the job's output directory, read from its source where nothing does yet."""
    decisive = f"{job} {config.model_dump_json(include=_DECISIVE)}"
    made_of = hashlib.blake2b(decisive.encode(), digest_size=16).hexdigest()
    directory = config.output / "prepared"
    if not directory.exists():
        # Each process of a job reads for itself, and what the first of them made stays.
        part = directory.with_name(f"prepared.{os.environ.get('RANK', '0')}.tmp")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part, job, made_of, schema, read())
        try:
            part.rename(directory)
        except OSError:
            if not directory.exists():
                raise
            shutil.rmtree(part)
    report = _REPORTS.validate_json((directory / _REPORT).read_bytes())
    if report.made_of != made_of:
        raise DataError(
            f"{directory} was made with another table, file, split, selection, prompt or seed than "
            "the configuration has now: give the job another `output`, or remove it"
        )
    return Prepared(_ordered(directory / _TRAIN), _ordered(directory / _HELD_OUT), report)


def _write(directory: Path, job: str, made_of: str, schema: pa.Schema, reading: Reading) -> None:
    written = 0
    with (
        pa.OSFile(str(directory / _TRAIN), "wb") as train_file,
        pa.OSFile(str(directory / _HELD_OUT), "wb") as held_out_file,
        pa.ipc.new_stream(train_file, schema) as train,
        pa.ipc.new_stream(held_out_file, schema) as held_out,
    ):
        rest = iter(reading.examples)
        while some := list(islice(rest, _AT_ONCE)):
            written += len(some)
            for side, writer in (("train", train), ("held out", held_out)):
                mine = [row for of, row in some if of == side]
                if mine:
                    writer.write_batch(pa.RecordBatch.from_pylist(mine, schema))
    report = _report(directory, job, made_of, reading, written)
    (directory / _REPORT).write_bytes(_REPORTS.dump_json(report, indent=2))


def _report(directory: Path, job: str, made_of: str, reading: Reading, written: int) -> Report:
    """Raises `DataError` where nothing is left to train on."""
    train, held_out = _ordered(directory / _TRAIN), _ordered(directory / _HELD_OUT)
    left_out = {reason: count for reason, count in reading.counts.left_out.items() if count}
    if repeated := written - len(train) - len(held_out):
        left_out["id repeated"] = repeated
    told = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items()) or "none"
    where = ", ".join(reading.source)
    if reading.version is not None:
        where = f"table {where}, version {reading.version}"
    if not train:
        raise DataError(
            f"{where}: no row is left to train on; held out {len(held_out):,}, left out: {told}"
        )
    digest = Digest()
    for batch in train.select_columns("id").iter(_AT_ONCE):
        for id in batch["id"]:
            digest.add(id)
    report = Report(
        job=job,
        source=reading.source,
        version=reading.version,
        rows=len(train) + len(held_out) + sum(left_out.values()),
        train=len(train),
        held_out=len(held_out),
        digest=digest.hex,
        left_out=left_out,
        branches=dict(sorted(reading.counts.branches.items())),
        notes={note: count for note, count in reading.counts.notes.items() if count},
        excluded=len(exclusions.read(reading.excluded)),
        excluded_by=tuple(map(str, reading.excluded)),
        made_of=made_of,
    )
    log.info(
        f"{where}: of {report.rows:,} rows {report.train:,} are trained on and "
        f"{report.held_out:,} held out; left out: {told}"
    )
    return report


def _ordered(path: Path) -> Dataset:
    """The examples of a file by their ids, each once."""
    stored = Dataset.from_file(str(path))
    if not stored:
        return stored
    ids = stored.data.column("id")
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    first = np.ones(len(ids), bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return stored.select(order.to_numpy()[first].astype(np.int64))
