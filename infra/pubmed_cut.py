"""The bytes of a PubMed file, cut into its entries before any of them is parsed.

So one entry can be read without the others: what is wrong with it is wrong with it alone, and what
is held at once is one entry. The document type declaration stays behind at the beginning, and with
it every entity it declares. Cuts are where entries begin and end; in comments, CDATA sections and
processing instructions there are none.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

CHUNK = 96 * 1024  # what is read, cut and parsed at once stays in the processor's cache
# An entry in bytes; one of 10,000 authors with affiliations and ORCIDs takes a third of it.
MOST = 16 * 1024 * 1024
HEAD = 64 * 1024  # all before the first entry, and what is kept of an entry above `MOST`
LONGEST = 128  # a mark in bytes, generously: one that a chunk's end cuts in two is found again

# The elements that a set is made of, by its root.
ENTRIES = {
    b"PubmedArticleSet": (
        "PubmedArticle",
        "PubmedBookArticle",
        "DeleteCitation",
        "DeleteDocument",
    ),
    b"PubmedBookArticleSet": ("PubmedBookArticle", "DeleteDocument"),
    b"BookDocumentSet": ("BookDocument", "DeleteDocument"),
}

CLOSERS = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}

# No part of it can match in two ways, so that it takes linear time on any input.
BEGINNING = re.compile(
    rb"""
    (?:\xef\xbb\xbf)? \s*+ (?P<declaration> <\?xml\s [^>]*+ > )?+
    (?> \s++ | <!--.*?--> | <\?.*?\?>
      | <!DOCTYPE (?> [^\[\]<>"']++ | "[^"]*+" | '[^']*+'
          | \[ (?> [^\]<"']++ | <!--.*?--> | <\?.*?\?> | < | "[^"]*+" | '[^']*+' )*+ \]
        )*+ >
    )*+
    (?P<tag> < (?P<root> [A-Za-z_][^\s/<>]*+ ) (?> [^<>"']++ | "[^"]*+" | '[^']*+' )*+ > )
    """,
    re.DOTALL | re.VERBOSE,
)


class Damage(Exception):
    """Nothing more can be read: `where` in the file, and `what` is wrong there, on one line."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a document begins with: its XML declaration, and its root's name and start tag."""

    declaration: bytes
    root: bytes
    tag: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry or several, and what lies before them; `line` counts from 1.

    Of an entry longer than `MOST` only the beginning is there, and `whole` is false.
    """

    raw: bytes
    line: int
    whole: bool = True


class Cut:
    """A document as its beginning, its pieces and its end.

    Holds `MOST` bytes at most. Raises `Damage` where there is no such document.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._chunks = _Chunks(stream)
        self._held = bytearray()
        self._line = 1
        self.beginning = self._begin()
        names = ENTRIES[self.beginning.root]
        self._ends = [b"</%s>" % name.encode() for name in names]
        self._mark = _marks(names)
        self._careful = False
        self._at = 0  # how far what is held has been looked through
        self._closer = b""  # what ends the comment, say, that is open there
        self._too_long: Piece | None = None

    def pieces(self) -> Iterator[list[Piece]]:
        """What ends in one chunk, together.

        At first a piece has all the entries of a chunk. From a `put_back` on each has one only.
        Raises `Damage` after those before a damage of the gzip.
        """
        while True:
            if pieces := self._single() if self._careful else self._several():
                yield pieces
            elif chunk := next(self._chunks, b""):
                self._held += chunk
            else:
                break
        if self._too_long:
            problem = f"an entry that begins here is longer than {MOST:,} bytes and has no end"
            raise Damage(f"line {self._too_long.line:,}", problem)

    def put_back(self, piece: Piece) -> bool:
        """Have the piece that came last once more, entry by entry; False where it has one only."""
        if self._careful:
            return False
        self._held[:0] = piece.raw
        self._line, self._at, self._careful = piece.line, 0, True
        return True

    def rest(self) -> Piece:
        """What comes after the last of the pieces."""
        return Piece(bytes(self._held), self._line)

    def _several(self) -> list[Piece]:
        """All to the last end in sight. Whether it is one, and not in a comment, parsing shows."""
        for end in self._ends:
            if (found := self._held.rfind(end, self._at)) >= 0:
                self._at = 0
                return [self._take(found + len(end))]
        self._at = max(0, len(self._held) - LONGEST)
        if len(self._held) > MOST:
            self._at, self._careful = 0, True
        return []

    def _single(self) -> list[Piece]:
        """Entry by entry, each from where it, or what comes before it, begins."""
        pieces = []
        held, at = self._held, self._at
        while True:
            if self._closer:
                end = held.find(self._closer, at)
                if end < 0:
                    at = max(at, len(held) - len(self._closer) + 1)
                    break
                at, self._closer = end + len(self._closer), b""
            found = self._mark.search(held, at)
            if not found:
                at = max(at, len(held) - LONGEST)
                break
            at = found.end()
            if closer := CLOSERS.get(found[0]):
                self._closer = closer
                continue
            end = at if found["end"] else found.start()
            # An entry begins after the end of another, or else that one has no end of its own.
            if found["end"] or self._too_long or held[:end].strip():
                at -= end
                piece = self._take(end)
                pieces.append(self._too_long or piece)
                self._too_long = None
        if self._too_long or len(held) > MOST:
            self._too_long = self._too_long or Piece(bytes(held[:HEAD]), self._line, whole=False)
            self._take(at)
            at = 0
        self._at = at
        return pieces

    def _take(self, end: int) -> Piece:
        piece = Piece(bytes(self._held[:end]), self._line)
        del self._held[:end]
        self._line += piece.raw.count(b"\n")
        return piece

    def _begin(self) -> Beginning:
        held = self._held
        while not (found := BEGINNING.match(held)) and len(held) < HEAD:
            if not (chunk := next(self._chunks, b"")):
                break
            held += chunk
            if held.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00", b"<\x00")):
                raise Damage("line 1", "expected UTF-8, found UTF-16 or UTF-32")
        expected = f"expected one of {', '.join(root.decode() for root in ENTRIES)}"
        if not found:
            start = " ".join(held[:80].decode(errors="replace").split())
            raise Damage("line 1", f"{expected}, found {repr(start) if start else 'nothing'}")
        if found["root"] not in ENTRIES:
            name = found["root"][:80].decode(errors="replace")
            raise Damage("line 1", f"{expected}, found {name}")
        beginning = Beginning(found["declaration"] or b"", found["root"], found["tag"])
        self._line += held.count(b"\n", 0, found.end())
        del held[: found.end()]
        return beginning


def _marks(entries: tuple[str, ...]) -> re.Pattern[bytes]:
    """Where an entry begins or ends, and where something begins that hides what looks like it."""
    names = "|".join(entries).encode()
    return re.compile(
        rb"<(?:(?P<end>/(?:%(n)s)\s{0,80}>)|(?:%(n)s)(?=[\s/>])|!--|!\[CDATA\[|\?)" % {b"n": names}
    )


class _Chunks:
    """The bytes of a stream, gunzipped where they are gzip, `CHUNK` at most at a time.

    Raises `Damage` where the gzip is wrong or stops before its end, at a byte of the file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._position = 0
        self._stream = stream
        self._pieces = self._start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except (zlib.error, EOFError) as error:
            raise Damage(f"byte {self._position:,}", str(error)) from None

    def _read(self) -> bytes:
        piece = self._stream.read(CHUNK)
        self._position += len(piece)
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
