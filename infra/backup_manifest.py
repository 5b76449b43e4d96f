"""What a backup holds: `manifest.json`, written last, so that half a backup has none."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

NAME = "manifest.json"
FORMAT = 1
CHUNK = 1 << 20


class BackupError(Exception):
    """A backup cannot be made or used; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHeld:
    version: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicHeld:
    partitions: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`topics` and `groups` are by their names without `prefix`, that of then.

    `groups` holds, by group and topic, the offset that comes next in each partition, as the broker
    of then had it. `data` is the data directory of then. `mlflow` is false where a server keeps
    runs and models. `files` are all files but this one, by their path in the backup.
    """

    format: int
    made: datetime
    cluster: str
    prefix: str
    articles: bool
    tables: dict[str, TableHeld]
    topics: dict[str, TopicHeld]
    groups: dict[str, dict[str, dict[int, int]]]
    mlflow: str | None
    mesh: str | None
    files: dict[str, File]

    def write(self, directory: Path) -> None:
        """Make the backup in a directory a whole one, in one step."""
        partial = directory / f".{NAME}.new"
        partial.write_bytes(
            orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
        )
        partial.replace(directory / NAME)


def read(directory: Path) -> Manifest:
    """The manifest of a whole backup. Raises `BackupError`."""
    path = directory / NAME
    try:
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BackupError(
            f"{directory}: holds no {NAME}: it is no backup, or one that was not finished"
        ) from None
    except OSError as error:
        raise BackupError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError:
        raise BackupError(f"{path}: not as this program writes it") from None
    if manifest.format != FORMAT:
        raise BackupError(f"{path}: of format {manifest.format}, expected {FORMAT}")
    return manifest


def damaged(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files of a backup, a line each. Reads them all."""
    for name, file in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
        except OSError as error:
            yield f"{path}: {error.strerror}"
            continue
        if size != file.size:
            yield f"{path}: {size:,} bytes, expected {file.size:,}"
        elif digest(path) != file.sha256:
            yield f"{path}: its content is not what was written (SHA-256)"


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(directory: Path) -> dict[str, File]:
    """Every file under a directory."""
    return {
        str(path.relative_to(directory)): File(size=path.stat().st_size, sha256=digest(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
