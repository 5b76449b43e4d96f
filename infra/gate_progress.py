"""How far a comparison has come: a bar on a terminal, a line for each tenth otherwise."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Told = Callable[[], None]


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Told]:
    """Yields what to call for each item that is done."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(what, total=total)
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        bar.advance(task)
        if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            log.info("%s: %d of %d", what, done, total)

    with bar:
        yield told
