"""Citations as they are published: an encoded article, or none for a deletion, and its state.

A `Reader` reads files in a process of its own, which parses and encodes while this one decides and
publishes. `python -m infra.arrivals` is that process. It takes a file a line (JSON: path, whether
it is corpus, order, entries to skip) and answers in frames: the frame's length, how many bytes of
the file are read, then entries. A frame that comes after no byte ends the file, and tells of damage
where it is not empty. The process ends by itself when nobody listens any more.
"""

import asyncio
import signal
import struct
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from infra.pubmed_xml import DamagedFile, Deletion, Entry, Skipped, read_stream
from streams.codec import encode
from streams.life import MOST_VERSION, RETRACTIONS, State, encoded_state, state_of
from streams.records import Unread

# Entries that the reading process hands over at once.
PORTION = 1000
# Or as soon as they are this large, in bytes: they are one transaction, and held in memory.
LARGEST = 8 << 20

# An entry: what it is, PMID (0: unknown), version, which of `RETRACTIONS`, and the length of its
# message or reason.
_ENTRY = struct.Struct(">cQIBI")
_FRAME = struct.Struct(">IQ")
_ARTICLE, _DELETION, _UNREAD = b"A", b"D", b"U"


@dataclass(frozen=True, slots=True)
class Arrival:
    """`message` is the article as it is encoded, None for a deletion."""

    pmid: int
    state: State
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Portion:
    """Consecutive entries of a source. `entries` counts them all; `read` is in bytes of the file.

    `unread` are citations that make no record, `passed` is how many are known to be unchanged
    without being read.
    """

    arrivals: tuple[Arrival, ...]
    unread: tuple[Unread, ...]
    entries: int
    read: int = 0
    passed: int = 0


def portion(entries: Iterable[Entry], order: int | None = None) -> Portion:
    """The portion that these entries make."""
    made = [_made(entry, order) for entry in entries]
    return Portion(
        tuple(one for one in made if isinstance(one, Arrival)),
        tuple(one for one in made if isinstance(one, Unread)),
        len(made),
    )


def _made(entry: Entry, order: int | None) -> Arrival | Unread:
    if isinstance(entry, Skipped):
        return _unread(entry)
    if isinstance(entry, Deletion):
        return Arrival(entry.pmid, _gone(entry.version, order), None)
    article = entry if entry.order == order else replace(entry, order=order)
    return Arrival(article.pmid, state_of(article), encode(article))


def _unread(entry: Skipped) -> Unread:
    return Unread(pmid=entry.pmid, reason=f"entry {entry.number}: {entry.reason}")


def _gone(version: int, order: int | None) -> State:
    return State(version=version, order=order or 0, deleted=True)


class Reader:
    """Reads files in a process of its own, one after the other; `end` ends that."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        """The process, which takes a moment to be ready to read."""
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "infra.arrivals"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=16 << 20,
            )
        return self._process

    async def read(
        self, path: Path, *, corpus: bool, order: int | None, skip: int = 0
    ) -> AsyncGenerator[Portion, None]:
        """The portions of a PubMed XML file, the first `skip` entries left out.

        Raises `DamagedFile` after what comes before the damage, and `OSError` at once for a file
        that cannot be opened.
        """
        with path.open("rb"):
            pass
        process = await self.start()
        order = order or 0
        whole = False
        try:
            wanted = orjson.dumps([str(path), corpus, order, skip])
            cast(asyncio.StreamWriter, process.stdin).write(wanted + b"\n")
            frames = cast(asyncio.StreamReader, process.stdout)
            while True:
                length, read = _FRAME.unpack(await frames.readexactly(_FRAME.size))
                frame = await frames.readexactly(length)
                if not read:
                    break
                yield _unframed(frame, read, order)
            whole = True
            if frame:
                raise DamagedFile(str(path), *orjson.loads(frame))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise DamagedFile(str(path), "its reading process", "was killed", read=0) from None
        finally:
            if not whole:
                # It is in the middle of a file that nobody wants any more.
                await self.end()

    async def end(self) -> None:
        """End the process, whatever it is at."""
        process, self._process = self._process, None
        if process:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _unframed(frame: bytes, read: int, order: int) -> Portion:
    arrivals, unread, at, count = [], [], 0, 0
    while at < len(frame):
        kind, pmid, version, retraction, length = _ENTRY.unpack_from(frame, at)
        at += _ENTRY.size
        body = frame[at : at + length]
        at += length
        count += 1
        if kind == _ARTICLE:
            state = encoded_state(
                body, version=version, order=order, retraction=RETRACTIONS[retraction]
            )
            arrivals.append(Arrival(pmid, state, body))
        elif kind == _DELETION:
            arrivals.append(Arrival(pmid, _gone(version, order), None))
        else:
            unread.append(Unread(pmid=pmid or None, reason=body.decode()))
    return Portion(tuple(arrivals), tuple(unread), count, read)


def _write_frames(path: Path, corpus: bool, order: int | None, skip: int, out: BinaryIO) -> None:
    with path.open("rb") as stream:
        entries = read_stream(
            stream, str(path), corpus=corpus, source=path.name, arrived=datetime.now(UTC)
        )
        number = 0
        frame: list[bytes] = []
        size = 0
        damage: DamagedFile | None = None
        while True:
            try:
                entry = next(entries, None)
            except DamagedFile as damaged:
                entry, damage = None, damaged
            if entry is not None:
                number += 1
                if number > skip:
                    frame.append(_framed(entry, order))
                    size += len(frame[-1])
            if len(frame) == PORTION or size >= LARGEST or (frame and entry is None):
                _flush(out, frame, stream.tell())
                frame, size = [], 0
            if entry is None:
                break
    told = [damage.position, damage.problem, damage.read] if damage else None
    _flush(out, [orjson.dumps(told)] if told else [], 0)


def _framed(entry: Entry, order: int | None) -> bytes:
    if isinstance(entry, Skipped):
        unread = _unread(entry)
        reason = unread.reason.encode()
        return _ENTRY.pack(_UNREAD, unread.pmid or 0, 0, 0, len(reason)) + reason
    if isinstance(entry, Deletion):
        return _ENTRY.pack(_DELETION, entry.pmid, min(entry.version, MOST_VERSION), 0, 0)
    message = encode(entry if entry.order == order else replace(entry, order=order))
    retraction = RETRACTIONS.index(entry.retraction)
    version = min(entry.version, MOST_VERSION)
    return _ENTRY.pack(_ARTICLE, entry.pmid, version, retraction, len(message)) + message


def _flush(out: BinaryIO, frame: list[bytes], read: int) -> None:
    body = b"".join(frame)
    out.write(_FRAME.pack(len(body), read))
    out.write(body)
    out.flush()


def _main() -> None:
    # What is meant for the other process reaches this one too; that one decides when to stop.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    out = sys.stdout.buffer
    try:
        for line in sys.stdin.buffer:
            path, corpus, order, skip = orjson.loads(line)
            _write_frames(Path(path), corpus, order or None, skip, out)
    except BrokenPipeError:
        # Nobody reads on. Python would complain once more when it flushes at its end.
        sys.stderr.close()


if __name__ == "__main__":
    _main()
