"""The list of a model's files that is kept beside them, by which a copy is known to be whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

MANIFEST = "manifest.json"

# Size in bytes and SHA-256 of each file, by its path below the model's directory.
Files = Mapping[str, tuple[int, str]]


def of(directory: Path) -> Files:
    """The files of a directory as they are now."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(directory).as_posix()] = (path.stat().st_size, digest)
    return found


def write(files: Files, directory: Path) -> Path:
    """Write the list as `manifest.json` into a directory; returns its path."""
    path = directory / MANIFEST
    path.write_bytes(orjson.dumps(files, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def read(path: Path) -> Files | None:
    """The list in a file; None where only part of it was written."""
    try:
        return TypeAdapter(dict[str, tuple[int, str]]).validate_json(path.read_bytes())
    except ValidationError:
        return None


def lacking(files: Files, sizes: Mapping[str, int]) -> list[str]:
    """The files that a copy with these sizes lacks, or has in another size."""
    return [name for name, (size, _) in files.items() if sizes.get(name) != size]
