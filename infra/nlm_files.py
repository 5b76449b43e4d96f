"""NLM's baseline and update files: what there is, what is missing, and downloads that are whole.

https://pubmed.ncbi.nlm.nih.gov/download/. The yearly baseline and the update files after it are
numbered on in one sequence; the names begin anew with the next year's baseline.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import aiohttp

from infra.ncbi_requests import Failure, Requests, check, failure_of

Folder = Literal["baseline", "updatefiles"]

NAME = r"pubmed(\d{2})n(\d{4})\.xml\.gz"
LISTED = re.compile(rf"\b{NAME}(?![\w.])")
DIGEST = re.compile(r"\b[0-9a-fA-F]{32}\b")
GZIP = b"\x1f\x8b"
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class NlmFile:
    """A file of one of NLM's two folders."""

    folder: Folder
    name: str

    @property
    def order(self) -> int:
        """Its place among all files of all years."""
        order = file_order(self.name)
        if order is None:
            raise ValueError(f"{self.name}: expected a name like pubmed26n0001.xml.gz")
        return order


class NlmFiles:
    """NLM's files over HTTPS. All methods raise `RequestFailed`."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._address = requests.ncbi.files.rstrip("/")

    async def listing(self, folder: Folder) -> list[NlmFile]:
        """The XML files of a folder, in their order."""
        url = f"{self._address}/{folder}/"

        async def attempt() -> list[NlmFile]:
            page = (await self._requests.whole(url, page=True)).decode(errors="replace")
            names = {match[0] for match in LISTED.finditer(page)}
            if not names and "index of" not in page.lower():
                raise Failure("HTML page", "not the index of a folder")
            if "</html>" not in page.lower()[-200:]:
                raise Failure("cut connection", "the index of the folder stops before its end")
            files = (NlmFile(folder, name) for name in names)
            return sorted(files, key=lambda file: file.order)

        return await self._requests.tried("listing", attempt)

    async def download(self, file: NlmFile, into: Path) -> Path:
        """The file in the folder `into`, whole and with the MD5 that NLM gives for it.

        What came before an interruption, of this program too, is kept as NAME.part and gone on
        from. Raises `OSError` where the disk refuses.
        """
        target, part = into / file.name, into / f"{file.name}.part"
        digest = await self._digest(file)
        if await asyncio.to_thread(_md5, target) == digest:
            return target

        async def attempt() -> None:
            await self._continue(file, part)
            if await asyncio.to_thread(_md5, part) != digest:
                # Whatever is wrong with it, and whether the server changed it meanwhile.
                part.unlink(missing_ok=True)
                raise Failure("damaged file", f"{file.name}: its MD5 is not {digest}")

        await self._requests.tried("file", attempt)
        return part.replace(target)

    async def _digest(self, file: NlmFile) -> str:
        async def attempt() -> str:
            url = f"{self._address}/{file.folder}/{file.name}.md5"
            text = (await self._requests.whole(url)).decode(errors="replace")
            found = DIGEST.search(text.replace(file.name, ""))
            if not found:
                raise Failure(
                    "damaged file", f"{file.name}.md5: expected an MD5, got {text[:80]!r}"
                )
            return found[0].lower()

        return await self._requests.tried("md5", attempt)

    async def _continue(self, file: NlmFile, part: Path) -> None:
        """One attempt at what is missing of a file. Raises `Failure`."""
        have = _size(part)
        # Not compressed once more on its way: the range is one of the bytes as stored.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        url = f"{self._address}/{file.folder}/{file.name}"
        try:
            async with self._requests.file(url, headers) as response:
                if have and response.status == 416:
                    return  # there is no more: the MD5 tells whether it is whole
                resumed = response.status == 206 and response.headers.get(
                    "Content-Range", ""
                ).startswith(f"bytes {have}-")
                start = have if resumed else 0
                await _receive(response, part, start)
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = failure_of(error)
            failure.progress = _size(part) - have >= CHUNK
            raise failure from None


def file_order(name: str) -> int | None:
    """A number that grows from file to file, over the years too; None for other names.

    `pubmed26n1402.xml.gz` is 261402.
    """
    match = re.fullmatch(NAME, name)
    return int(match[1]) * 10_000 + int(match[2]) if match else None


def gaps(names: Iterable[str], *, first: int | None = None) -> list[str]:
    """The names missing from a sequence of files, between the first and the last of each year.

    `first` is the number that a year is known to begin with: 1 for a baseline, one more than the
    last file applied for update files.
    """
    orders = sorted({order for name in names if (order := file_order(name)) is not None})
    missing: list[str] = []
    for year, group in groupby(orders, lambda order: order // 10_000):
        numbers = [order % 10_000 for order in group]
        lowest = numbers[0] if first is None else first
        absent = set(range(lowest, numbers[-1])) - set(numbers)
        missing += [f"pubmed{year:02}n{number:04}.xml.gz" for number in sorted(absent)]
    return missing


async def _receive(response: aiohttp.ClientResponse, part: Path, start: int) -> None:
    """Write an answer's body to `part` from `start` on. Raises `Failure`."""
    pieces = response.content.iter_chunked(CHUNK)
    first = await anext(pieces, b"")
    if response.status not in (200, 206) or (start == 0 and not first.startswith(GZIP)):
        check(response, first)
        raise Failure("damaged file", "it does not begin as gzip does")
    with await asyncio.to_thread(part.open, "r+b" if start else "wb") as out:
        out.seek(start)
        out.write(first)
        async for piece in pieces:
            await asyncio.to_thread(out.write, piece)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            # A check on the transport, which is all that NLM gives.
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return None
