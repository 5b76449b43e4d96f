"""The end of a log, as a person reads it."""

import os
from contextlib import suppress
from pathlib import Path

from streams.log_lines import readable, said

# How much of the end of a log is looked at, in bytes.
TAIL = 64 << 10
# Characters of the last line.
LONGEST = 500


def tail(path: Path, lines: int, began: int = 0) -> list[str]:
    """The last lines of a log, as a person reads them, of what was written after `began` (bytes).

    Raises `OSError`.
    """
    text, more = _end(path, began)
    found = text.strip().split("\n")
    # The first one may have lost its beginning.
    whole = found[1:] if more and len(found) > 1 else found
    shown = [part for line in whole for part in readable(line).splitlines() if part.strip()]
    return shown[-lines:]


def last_line(path: Path, began: int = 0) -> str:
    """What the last line of a log says that is not blank, of those after `began` (bytes)."""
    with suppress(OSError):
        text, _ = _end(path, began)
        # A progress bar writes over its own line.
        shown = [line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n")]
        return next((said(line)[:LONGEST] for line in reversed(shown) if line), "")
    return ""


def _end(path: Path, began: int) -> tuple[str, bool]:
    """The last of what was written after `began`, and whether there is more before it."""
    with path.open("rb") as file:
        start = max(began, file.seek(0, os.SEEK_END) - TAIL)
        file.seek(start)
        return file.read().decode(errors="replace"), start > began
