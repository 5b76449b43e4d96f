"""Records from files that lie here."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from infra.arrivals import Reader
from infra.ingest import Session, Unit
from infra.nlm_files import file_order


async def files(session: Session, paths: Sequence[Path], *, corpus: bool) -> None:
    """Files, and the *.xml and *.xml.gz of directories in the order of their names."""
    await session.reader.start()
    found = list(_pubmed_files(paths))
    session.display.expect(len(found))
    for path in found:
        await session.run(_file(session.reader, path, corpus))


def _file(reader: Reader, path: Path, corpus: bool) -> Unit:
    # NLM's own files keep their order unpacked, too.
    order = file_order(f"{path.name.removesuffix('.gz')}.gz")
    size = changed = 0
    if path.is_file():
        size, changed = path.stat().st_size, path.stat().st_mtime_ns
    return Unit(
        # A file that was put in the place of another is another one.
        id=f"files:{path.resolve()}:{size}:{changed}",
        source="files",
        what=path.name,
        read=lambda position: reader.read(path, corpus=corpus, order=order, skip=position),
        resumable=True,
        size=size,
    )


def _pubmed_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(f for f in path.iterdir() if f.name.endswith((".xml", ".xml.gz")))
        # An empty directory is as likely a slip as a missing file: it fails in the same way.
        yield from found or [path]
