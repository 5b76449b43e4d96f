"""PMIDs that are never trained on: of benchmarks that a model will be measured with."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from trainers.bioasq import documents, opened
from trainers.errors import DataError

# PMIDs of today have eight digits; the records of all stages hold up to ten.
_PMID = re.compile(r"[1-9]\d{0,9}")


def read(paths: Iterable[Path]) -> frozenset[int]:
    """All PMIDs that the files name, plain or .gz, each file in one of these forms.

    PubMedQA's JSON, whose keys are PMIDs (the questions, or a split's ground truth); BioASQ task
    B's, whose documents are addresses at PubMed; or a PMID on each line, where blank lines and what
    follows # are passed over. Raises `DataError` naming file and line, also for a file without any.
    """
    return frozenset(pmid for path in paths for pmid in _named(path))


def _named(path: Path) -> frozenset[int]:
    content = opened(path)
    named = frozenset(
        _of_json(path, content) if content.lstrip()[:1] in (b"{", b"[") else _lines(path, content)
    )
    if not named:
        raise DataError(f"{path}: names no PMID, and so would exclude nothing")
    return named


def _of_json(path: Path, content: bytes) -> Iterator[int]:
    try:
        published: Any = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    if isinstance(published, dict) and isinstance(published.get("questions"), list):
        for number, question in enumerate(published["questions"], 1):
            if not isinstance(question, dict):
                raise DataError(f"{path}: question {number}: expected an object")
            yield from documents(question)
        return
    if not isinstance(published, dict):
        raise DataError(f"{path}: expected PubMedQA's JSON, BioASQ's, or a PMID on each line")
    for key in published:
        if not _PMID.fullmatch(key):
            raise DataError(f"{path}: key {key[:40]!r}: expected a PMID, as PubMedQA's keys are")
        yield int(key)


def _lines(path: Path, content: bytes) -> Iterator[int]:
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text and not _PMID.fullmatch(text):
            raise DataError(f"{path}: line {number}: expected a PMID, got {text[:40]!r}")
        if text:
            yield int(text)
