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
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        start = max(began, size - TAIL)
        log.seek(start)
        found = log.read().decode(errors="replace").strip().split("\n")
    # The first one may have lost its beginning.
    whole = found[1:] if start > began and len(found) > 1 else found
    shown = [part for line in whole for part in readable(line).splitlines() if part.strip()]
    return shown[-lines:]


def last_line(path: Path, began: int = 0) -> str:
    """What the last line of a log says that is not blank, of those after `began` (bytes)."""
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(began, size - TAIL))
        lines = file.read().decode(errors="replace").split("\n")
        # A progress bar writes over its own line.
        shown = [line.rstrip("\r").rpartition("\r")[2].strip() for line in lines]
        return next((said(line)[:LONGEST] for line in reversed(shown) if line), "")
    return ""
