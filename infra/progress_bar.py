"""How far a list of items has come: a bar on a terminal, a line for each tenth otherwise."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Told = Callable[[], None]
# How many more are done, and how many are left.
Moving = Callable[[int, int], None]

# Seconds between two lines where there is no terminal.
SAID_EVERY = 30.0


def bar(console: Console) -> Progress:
    """A bar that counts items, and goes when they are done; none where there is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Told]:
    """Yields what to call for each item that is done."""
    shown = bar(console)
    task = shown.add_task(what, total=total)
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        shown.advance(task)
        if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            log.info("%s: %d of %d", what, done, total)

    with shown:
        yield told


@contextmanager
def moving(console: Console, what: str, left: int) -> Iterator[Moving]:
    """Yields what to call as it goes, where there may come to be more: a bar with rate and time.

    Without a terminal, a line every half minute.
    """
    shown = bar(console)
    task = shown.add_task(what, total=max(left, 1))
    began = said = time.monotonic()
    done = 0

    def told(more: int, left: int) -> None:
        nonlocal done, said
        done += more
        rate = done / max(time.monotonic() - began, 1e-9)
        at = f"{what}: {rate:,.0f}/s"
        shown.update(task, description=at, completed=done, total=done + left)
        if not console.is_terminal and time.monotonic() - said >= SAID_EVERY:
            said = time.monotonic()
            minutes = left / rate / 60 if rate else 0.0
            console.print(
                f"{at}, {done:,} done, {left:,} left, some {minutes:,.0f} min", highlight=False
            )

    with shown:
        yield told
