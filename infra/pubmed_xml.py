"""PubMed XML (baseline and update files, efetch answers), plain or gzipped, to records.

Elements and attributes are those of NLM's PubMed DTD (https://dtd.nlm.nih.gov/ncbi/pubmed/). The
DTD is not loaded, entities are not expanded, and nothing is fetched.

Each entry is read by itself: one that is not well-formed, that holds bytes which are not UTF-8 or
an entity that XML does not know, or that is too long, is skipped, and the next one is read. What
ends the reading is a gzip that is cut or wrong, another root, and a document that stops early.

Memory does not grow with the file. It is bounded by one entry: 16 MiB of XML at most, which as a
tree takes up to fifty times as much where it is nothing but tags. The process grows by less than
30 MB on files like NLM's, and by less than 900 MB on any.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from infra.pubmed_citation import article, identity, pmid_of
from infra.pubmed_cut import ENTRIES, MOST, Beginning, Cut, Damage, Piece
from streams.citation import Article
from streams.errors import Invalid

Element = etree._Element

PMID = re.compile(rb"<PMID[^<>]{0,80}>\s{0,80}([0-9]{1,11})\s{0,80}<")


class DamagedFile(Exception):
    """A file cannot be read to its end; the message is one line with its name and the position.

    `read` is how many entries came before.
    """

    def __init__(self, name: str, position: str, problem: str, read: int) -> None:
        super().__init__(f"{name}: {position}: {problem} ({read:,} entries were read before)")
        self.position = position
        self.problem = problem
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

    A PMID that a file has several times comes several times, in the file's order. Raises
    `DamagedFile` after the entries before the damage.
    """
    read = 0
    try:
        for found in _elements(Cut(stream)):
            read += 1
            if isinstance(found, _Unreadable):
                yield Skipped(read, found.pmid, found.reason)
            elif found.tag in ("DeleteCitation", "DeleteDocument"):
                yield from _deletions(found, read)
            else:
                try:
                    yield article(found, corpus, source, arrived)
                except Invalid as invalid:
                    pmid = next((pmid_of(p.text or "") for p in found.iter("PMID")), None)
                    yield Skipped(read, pmid, str(invalid))
    except Damage as damage:
        raise DamagedFile(name, damage.where, damage.what, read) from None


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """An entry that does not even make an element."""

    pmid: int | None
    reason: str


def _elements(cut: Cut) -> Iterator[Element | _Unreadable]:
    # huge_tree stays off: libxml2's limits on depth and on the length of one text are far above
    # any citation.
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
        huge_tree=False,
    )
    beginning = cut.beginning
    for pieces in cut.pieces():
        for piece in pieces:
            try:
                yield from _parsed(beginning, piece, parser)
            except etree.XMLSyntaxError as error:
                if not cut.put_back(piece):
                    yield _unreadable(beginning, piece, error)
    rest = cut.rest()
    try:
        root = etree.fromstring(beginning.declaration + beginning.tag + rest.raw, parser)
    except etree.XMLSyntaxError as error:
        raise Damage(_position(beginning, rest, error), _problem(error)) from None
    yield from _entries(beginning, root)


def _parsed(
    beginning: Beginning, piece: Piece, parser: etree.XMLParser
) -> Iterable[Element | _Unreadable]:
    """The entries of a piece. Raises `XMLSyntaxError`."""
    if not piece.whole:
        problem = f"line {piece.line:,}: longer than {MOST:,} bytes"
        return [_Unreadable(_pmid(piece), problem)]
    end = b"</%s>" % beginning.root
    document = b"".join((beginning.declaration, beginning.tag, piece.raw, end))
    return _entries(beginning, etree.fromstring(document, parser))


def _entries(beginning: Beginning, root: Element) -> Iterator[Element | _Unreadable]:
    known = ENTRIES[beginning.root]
    for child in root:
        if child.tag in known:
            yield child
        else:
            problem = f"expected one of {', '.join(known)}, found {str(child.tag)[:80]}"
            yield _Unreadable(None, problem)


def _unreadable(beginning: Beginning, piece: Piece, error: etree.XMLSyntaxError) -> _Unreadable:
    if piece.raw.lstrip().startswith(b"</" + beginning.root):
        raise Damage(f"line {piece.line:,}", "the document goes on after its end")
    problem = f"{_position(beginning, piece, error)}: {_problem(error)}"
    return _Unreadable(_pmid(piece), problem)


def _pmid(piece: Piece) -> int | None:
    """The first that is written there, for what cannot be parsed."""
    found = PMID.search(piece.raw)
    return pmid_of(found[1].decode()) if found else None


def _position(beginning: Beginning, piece: Piece, error: etree.XMLSyntaxError) -> str:
    before = (beginning.declaration + beginning.tag).count(b"\n")
    line, column = error.position
    return f"line {piece.line + line - 1 - before:,}, column {column:,}"


def _problem(error: etree.XMLSyntaxError) -> str:
    return " ".join(str(error.msg).partition(", line ")[0].split())


def _deletions(element: Element, number: int) -> Iterator[Deletion | Skipped]:
    for child in element:
        try:
            yield Deletion(*identity(child))
        except Invalid as invalid:
            yield Skipped(number, None, str(invalid))
