"""PubMed XML (baseline and update files, efetch answers), plain or gzipped, to records.

Streaming: memory does not grow with the file. Elements and attributes are those of NLM's PubMed
DTD (https://dtd.nlm.nih.gov/ncbi/pubmed/). The DTD is not loaded, entities are not expanded, and
nothing is fetched.
"""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal, cast

from lxml import etree

from infra.pubmed_citation import article, identity
from streams.errors import Invalid
from streams.records import Article

Element = etree._Element

ROOTS = ("PubmedArticleSet", "PubmedBookArticleSet")
ENTRIES = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation", "DeleteDocument")
CHUNK = 32 * 1024  # what is parsed at once stays in the processor's cache


class DamagedFile(Exception):
    """A file cannot be read to its end; the message is one line with its name and the position.

    `read` is how many entries came before.
    """

    def __init__(self, name: str, position: str, problem: str, read: int) -> None:
        super().__init__(f"{name}: {position}: {problem} ({read:,} entries were read before)")
        self.read = read


@dataclass(frozen=True, slots=True)
class Deletion:
    """NLM withdrew this citation."""

    pmid: int
    version: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """The file's `number`th entry, counting from 1, makes no record; `reason` says why."""

    number: int
    pmid: int | None
    reason: str


Entry = Article | Deletion | Skipped


def read_file(path: Path, *, corpus: bool, arrived: datetime) -> Iterator[Entry]:
    """The entries of a file in its order; the file's name is their source.

    Raises `DamagedFile` after the entries before the damage, and `OSError`.
    """
    with path.open("rb") as stream:
        yield from read_stream(stream, str(path), corpus=corpus, source=path.name, arrived=arrived)


def read_stream(
    stream: BinaryIO, name: str, *, corpus: bool, source: str, arrived: datetime
) -> Iterator[Entry]:
    """The entries of an open file or an efetch answer; `name` is what errors call it.

    Raises `DamagedFile` after the entries before the damage.
    """
    for number, element in enumerate(_elements(stream, name), start=1):
        if element.tag in ("DeleteCitation", "DeleteDocument"):
            yield from _deletions(element, number)
            continue
        try:
            yield article(element, corpus, source, arrived)
        except Invalid as invalid:
            pmid = element.findtext("*/PMID", "").strip()
            yield Skipped(number, int(pmid) if pmid.isdecimal() else None, str(invalid))


def _elements(stream: BinaryIO, name: str) -> Iterator[Element]:
    """Each entry as a whole element, which is emptied when the next one is asked for."""
    parser = _parser("end", ENTRIES)
    probe: etree.XMLPullParser | None = _parser("start", None)
    chunks = _Chunks(stream)
    read = 0
    damage: tuple[str, str] | None = None
    ended = False
    while not (damage or ended):
        try:
            chunk = next(chunks, b"")
            if probe and (root := _root(probe, chunk)):
                probe = None
                if root not in ROOTS:
                    damage = "line 1", f"expected one of {', '.join(ROOTS)}, found {root}"
                    break
            if chunk:
                parser.feed(chunk)
            else:
                ended = True
                parser.close()
        except etree.XMLSyntaxError as error:
            line, column = error.position
            damage = f"line {line}, column {column}", str(error.msg).partition(", line ")[0]
        except (zlib.error, EOFError) as error:
            damage = f"byte {chunks.position:,}", str(error)
        for element in _finished(parser):
            yield element
            read += 1
            # The element and its tail are the parser's own still: only what is in it and what
            # came before it may go.
            del element[:]
            parent = element.getparent()
            while parent is not None and parent[0] is not element:
                del parent[0]
    if damage:
        raise DamagedFile(name, *damage, read)


def _parser(event: Literal["start", "end"], tags: tuple[str, ...] | None) -> etree.XMLPullParser:
    # huge_tree stays off: libxml2's limits on depth, on the length of one text and on what
    # entities in attributes may grow to are far above any citation.
    return etree.XMLPullParser(
        (event,),
        tag=tags,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
        huge_tree=False,
    )


def _finished(parser: etree.XMLPullParser) -> Iterator[Element]:
    return (cast(Element, element) for _, element in parser.read_events())


def _root(probe: etree.XMLPullParser, chunk: bytes) -> str:
    with suppress(etree.XMLSyntaxError):  # the parser itself meets it, after what comes before
        probe.feed(chunk)
    return next((element.tag for element in _finished(probe)), "")


class _Chunks:
    """The bytes of a stream, gunzipped where they are gzip; `position` counts those of the file.

    Raises `zlib.error`, and `EOFError` where a gzip stream stops before its end.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.position = 0
        self._stream = stream
        self._pieces = self._start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def _read(self) -> bytes:
        piece = self._stream.read(CHUNK)
        self.position += len(piece)
        return piece

    def _start(self) -> Iterator[bytes]:
        piece = self._read()
        if piece[:2] == b"\x1f\x8b":
            yield from self._gunzip(piece)
            return
        while piece:
            yield piece
            piece = self._read()

    def _gunzip(self, piece: bytes) -> Iterator[bytes]:
        while piece:  # a member of the file a round
            unzip = zlib.decompressobj(wbits=31)
            while not unzip.eof:
                piece = piece or self._read()
                unzipped = unzip.decompress(piece, CHUNK)
                if not (piece or unzipped):
                    raise EOFError("the gzip stream stops before its end")
                if unzipped:
                    yield unzipped
                piece = unzip.unconsumed_tail
            piece = (unzip.unused_data or self._read()).lstrip(b"\x00")


def _deletions(element: Element, number: int) -> Iterator[Deletion | Skipped]:
    for child in element:
        try:
            yield Deletion(*identity(child))
        except Invalid as invalid:
            yield Skipped(number, None, str(invalid))
