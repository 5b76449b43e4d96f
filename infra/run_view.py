"""How a running service looks in a terminal: one line a component."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from infra.run_state import ComponentState, RunState

COLOURS = {"ready": "green", "failed": "red", "stopped": "yellow", "silent": "yellow"}


def component_table(state: RunState) -> Table:
    """One row a component: state, the seconds in it, its pid, restarts, and what is to be said."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("component", "state"):
        table.add_column(column)
    for column in ("seconds", "pid", "restarts"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, component in state.components.items():
        colour = COLOURS.get(component.state, "cyan")
        table.add_row(
            name,
            f"[{colour}]{component.state}[/]",
            f"{time.time() - component.since:.0f}",
            str(component.pid or ""),
            str(component.restarts),
            component.note,
        )
    return table


class Display:
    """Shows a state again and again: live in a terminal, elsewhere a line for each change."""

    def __init__(self, console: Console, tell: Callable[[str], None] | None = None) -> None:
        """`tell` takes the lines in place of the console, where that is no terminal."""
        self._tell = tell or partial(console.print, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._shown: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            if self._live:
                self._live.stop()

    def show(self, state: RunState) -> None:
        with suppress(OSError):  # the terminal may be gone
            if self._live:
                self._live.update(component_table(state))
                return
            for name, component in state.components.items():
                self._show_change(name, component, time.time() - state.since)

    def _show_change(self, name: str, component: ComponentState, seconds: float) -> None:
        now = (component.state, component.note)
        if now != self._shown.get(name, ("waiting", "")):
            self._shown[name] = now
            line = f"{seconds:7.1f} s  {name:<14} {component.state:<10} {component.note}"
            self._tell(line.rstrip())
