"""What `kailin dlq` prints: dead letters by stage and reason, as lines, and one of them whole."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.cli_context import say
from infra.dead_letter_replay import Step
from infra.dead_letters import Found, grouped, held, origin

# Characters: of a letter's detail in a line, of a text in a record that is shown, and of a message
# that is no JSON.
DETAIL, TEXT, BYTES = 80, 400, 4000


def show_list(found: Sequence[Found], console: Console, *, limit: int, unreadable: int) -> None:
    """Print the groups of letters, largest first, and the newest `limit` letters as lines."""
    if unreadable:
        say(console, f"{unreadable:,} messages of the topic are no dead letters and are left out")
    if not found:
        say(console, "no dead letters")
        return
    groups = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("stage", "reason"):
        groups.add_column(column)
    groups.add_column("letters", justify="right")
    for column in ("oldest (UTC)", "newest (UTC)"):
        groups.add_column(column)
    for (stage, reason), held_ in grouped(found).items():
        times = [each.letter.at for each in held_]
        span = (f"{moment:%Y-%m-%d %H:%M}" for moment in (min(times), max(times)))
        groups.add_row(Text(stage), Text(reason), f"{len(held_):,}", *span)
    console.print(groups)
    lines = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("at (UTC)", "stage", "message", "replays"):
        lines.add_column(column, no_wrap=True)
    lines.add_column("why", overflow="fold")
    for each in found[: -limit - 1 : -1]:
        letter = each.letter
        lines.add_row(
            f"{letter.at:%Y-%m-%d %H:%M:%S}",
            Text(letter.stage),
            Text(origin(letter)),
            f"{each.replays or ''}",
            Text(_why(each)),
        )
    console.print("", lines)
    if len(found) > limit:
        say(console, f"… and {len(found) - limit:,} older ones (--limit)")


def as_line(found: Found) -> str:
    """A letter as one line of JSON, without what its message holds."""
    letter = asdict(found.letter)
    for left_out in ("value", "headers", "stack", "key"):
        del letter[left_out]
    told = {
        "key": _readable(held(found.letter)[0]),
        "replays": found.replays,
        "settled": found.settled,
    }
    return orjson.dumps({**letter, **told}, option=orjson.OPT_UTC_Z).decode()


def show_letter(found: Found, console: Console, *, full: bool) -> None:
    """Print a letter whole: cause, stack and the record; long texts cut, unless `full`."""
    letter = found.letter
    key, value, headers = held(letter)
    facts = Table.grid(padding=(0, 2))
    rows: dict[str, str] = {
        "stage": letter.stage,
        "reason": letter.reason,
        "detail": letter.detail,
        "at": f"{letter.at:%Y-%m-%d %H:%M:%S} UTC",
        "key": _readable(key) or "none",
        "headers": ", ".join(name for name, _ in headers) or "none",
    }
    if letter.first:
        first = letter.first
        rows["first"] = (
            f"{first.stage}: {first.reason}, at {first.topic}/{first.partition}/{first.offset}, "
            f"{first.at:%Y-%m-%d %H:%M:%S} UTC"
        )
    if found.replays:
        rows["replays"] = str(found.replays)
    if found.settled:
        rows["settled"] = _told(found)
    for name, text in rows.items():
        facts.add_row(Text(name, style="dim"), Text(text))
    parts: list[RenderableType] = [
        facts,
        Text(f"\n{letter.stack.rstrip()}\n"),
        _record(value, full),
    ]
    console.print(Panel(Group(*parts), title=Text(origin(letter)), title_align="left"))


def show_steps(steps: Sequence[Step], console: Console, *, dry_run: bool) -> None:
    """Print what was done, or would be, and why where it was not simply put back."""
    would = "would be " if dry_run else ""
    said = {"replayed": "put back", "superseded": "settled as superseded", "left": "left open"}
    for step in steps:
        if step.how != "replayed":
            letter = step.found.letter
            say(console, f"{letter.stage} {origin(letter)}: {would}{said[step.how]}: {step.why}")
    counts = ((how, sum(step.how == how for step in steps)) for how in said)
    told = [f"{count:,} {would}{said[how]}" for how, count in counts if count]
    say(console, "; ".join(told) or "no letter is open")


def _why(found: Found) -> str:
    letter = found.letter
    detail = " ".join(letter.detail.split())
    cut = detail if len(detail) <= DETAIL else f"{detail[:DETAIL]}…"
    why = f"{letter.reason}: {cut}" if cut else letter.reason
    return f"{why} ({_told(found)})" if found.settled else why


def _told(found: Found) -> str:
    told = found.settled
    if told is None:
        return "open"
    why = f": {told.why}" if told.why else ""
    return f"{told.how} by {told.who} at {told.at:%Y-%m-%d %H:%M} UTC{why}"


def _readable(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _record(value: bytes | None, full: bool) -> RenderableType:
    if value is None:
        return Text("a tombstone: it has no value")
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        text = value.decode(errors="backslashreplace")
        return Text(text if full or len(text) <= BYTES else f"{text[:BYTES]}… (--full)")
    shown = record if full else _cut(record)
    return Text(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


def _cut(value: Any) -> Any:
    """The same JSON with its long texts cut."""
    if isinstance(value, dict):
        return {name: _cut(held_) for name, held_ in value.items()}
    if isinstance(value, list):
        return [_cut(held_) for held_ in value]
    if isinstance(value, str) and len(value) > TEXT:
        return f"{value[:TEXT]}… ({len(value):,} characters, --full)"
    return value
