"""How far a list of items has come: a bar on a terminal, a line for each tenth otherwise."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Told = Callable[[], None]


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
