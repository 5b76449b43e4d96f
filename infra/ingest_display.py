"""What an ingest shows while it runs: a bar, how fast it goes, what it met, and the time left."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

# Where there is no terminal to keep a bar on, a line this often (seconds).
TELL_EVERY = 15.0
# How the changes are called here.
CALLED = {
    "new": "new",
    "text": "revised",
    "mesh": "with other MeSH",
    "other": "with other metadata",
    "reinstated": "reinstated",
    "deleted": "deleted",
    "unchanged": "unchanged",
    "older": "older than known",
    "failed": "failed",
}


class Display:
    """The progress of all units of one ingest. Use as a context manager."""

    def __init__(self, console: Console, tell: Callable[[str], None] | None = None) -> None:
        """`tell` takes the lines in place of the console, where that is no terminal."""
        self._console = console
        self._tell = None if console.is_terminal else tell
        self._counts: Counter[str] = Counter()
        self._units = self._expected = 0
        self._size: int | None = None
        self._began = self._told = time.monotonic()
        self._task: TaskID | None = None
        self._whole: TaskID | None = None
        self._what = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tally]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        if self._tell:
            self._tell(line)
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def expect(self, units: int) -> None:
        """So many units more are to come; where there are several, they have a bar of their own."""
        self._expected += units
        if self._expected > 1:
            if self._whole is None:
                self._whole = self._bar.add_task("all", tally="")
            self._bar.update(self._whole, total=self._expected)

    def begin(self, what: str, size: int | None) -> None:
        """A unit begins; `size` is in what `advance` is told of."""
        self._what, self._size = what, size
        self._units += 1
        self._task = self._bar.add_task(what, total=size, tally="")

    def advance(self, gained: Mapping[str, int], at: int) -> None:
        """The unit has come to `at`, and this much was met on the way."""
        self._counts.update(gained)
        if self._task is not None:
            self._bar.update(self._task, completed=at, tally=self.tally())
        part = at / self._size if self._size else 0.0
        if self._whole is not None:
            self._bar.update(self._whole, completed=self._units - 1 + part)
        if not self._console.is_terminal and time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            self.say(f"{self._what}: {part:.0%}, {self.tally()}{self._time_left(part)}")

    def end(self) -> None:
        """The unit is done with."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def tally(self) -> str:
        """What was met so far, and how much of it a second."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        met = ", ".join(
            f"{self._counts[change]:,} {called}"
            for change, called in CALLED.items()
            if self._counts[change] or change in ("new", "failed")
        )
        return f"{met}, {self._counts.total() / seconds:,.0f} records/s"

    def _time_left(self, part: float) -> str:
        done = self._units - 1 + part
        if not done or self._expected < self._units:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._expected - done)
        return f", {seconds / 60:.0f} min left"

    def sum_up(self) -> None:
        """The last line, where anything was begun."""
        if not self._units:
            return
        seconds = time.monotonic() - self._began
        self.say(f"{self._counts.total():,} citations: {self.tally()}, in {seconds:.1f} s")
