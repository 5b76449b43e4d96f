"""What `kailin status` shows of the ingest: how far each source is read, and what failed."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka.errors import KafkaError
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from infra import topic_view
from infra.kafka import BrokerUnreachable
from infra.settings import Settings
from streams.errors import Transient
from streams.records import Progress
from streams.topics import PROGRESS

# Failed files and windows that are shown one by one.
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A source that is followed: as of when all that it had was read, and what was in the way."""

    what: str
    as_of: datetime | None
    behind_seconds: float | None
    trouble: str | None


@dataclass(frozen=True, kw_only=True)
class IngestStatus:
    """Files, windows and lists by state; citations by what they were; what failed, each a line."""

    followed: tuple[Followed, ...]
    done: int
    running: int
    failed: tuple[str, ...]
    not_given: int
    citations: dict[str, int]


def read_status(settings: Settings) -> IngestStatus | None:
    """The ingest as it was last committed; None where no broker answers."""
    try:
        progress = asyncio.run(
            asyncio.wait_for(topic_view.read(settings, PROGRESS, Progress), 10.0)
        )
    except (BrokerUnreachable, KafkaError, TimeoutError, Transient):
        return None
    return summarise(progress, datetime.now(UTC))


def summarise(progress: Mapping[str, Progress], now: datetime) -> IngestStatus:
    """The status that the progress of all files, windows and polls amounts to."""
    polls = [p for id, p in progress.items() if id.startswith("poll:")]
    units = [p for id, p in progress.items() if not id.startswith("poll:")]
    citations: dict[str, int] = {}
    for unit in units:
        for change, count in unit.counts.items():
            citations[change] = citations.get(change, 0) + count
    return IngestStatus(
        followed=tuple(_followed(poll, now) for poll in polls),
        done=sum(unit.state == "done" for unit in units),
        running=sum(unit.state == "running" for unit in units),
        failed=tuple(f"{u.what}: {u.reason}" for u in units if u.state == "failed"),
        not_given=sum(len(unit.unread) for unit in units),
        citations={change: count for change, count in citations.items() if count},
    )


def _followed(poll: Progress, now: datetime) -> Followed:
    trouble = "; ".join(filter(None, (poll.reason, *(unread.reason for unread in poll.unread))))
    read = poll.state == "done"
    return Followed(
        what=poll.id.removeprefix("poll:"),
        as_of=poll.at if read else None,
        behind_seconds=(now - poll.at).total_seconds() if read else None,
        trouble=trouble or None,
    )


def render(status: IngestStatus) -> RenderableType:
    """The status as a table of what is followed, a line of sums, and the failures."""
    parts: list[RenderableType] = []
    if status.followed:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("followed", "up to date as of", "behind", ""):
            table.add_column(column)
        for source in status.followed:
            as_of = "[red]failed[/]" if source.trouble else "being read"
            if source.as_of:
                as_of = f"{source.as_of:%Y-%m-%d %H:%M} UTC"
            behind = "" if source.behind_seconds is None else _span(source.behind_seconds)
            table.add_row(escape(source.what), as_of, behind, escape(source.trouble or ""))
        parts.append(table)
    met = ", ".join(f"{count:,} {change}" for change, count in status.citations.items())
    parts.append(
        f"ingest: {status.done:,} files and windows done, {status.running:,} begun, "
        f"{len(status.failed):,} failed; citations: {met or 'none'}"
    )
    parts += [f"[red]failed[/] {escape(line)}" for line in _some(status.failed)]
    if status.failed or status.not_given:
        parts.append(
            f"{status.not_given:,} citations are listed as not read; "
            "`kailin ingest retry` reads once more what failed"
        )
    return Group(*parts)


def _some(lines: Iterable[str]) -> list[str]:
    listed = list(lines)
    more = len(listed) - SHOWN
    return [*listed[:SHOWN], f"and {more:,} more"] if more > 0 else listed


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
