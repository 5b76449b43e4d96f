"""`kailin trace PMID`: the history of a record, for a person or as JSON; times are UTC."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from infra.cli_context import DONE, FAILED, say
from infra.progress_bar import bar
from infra.record_events import Detail
from infra.record_history import History, Waiting, history
from infra.record_messages import Told
from infra.settings import Settings

# Characters of a question.
LONGEST = 120


def show(
    settings: Settings, pmid: int, since: datetime | None, console: Console, *, as_json: bool
) -> int:
    """Print what became of a record; the exit status.

    1 where nothing is known of it, or something could not be looked at.
    """
    with _bar(Console(stderr=True)) as told:
        found = asyncio.run(history(settings, pmid, since, told))
    if as_json:
        known = asdict(found)
        say(console, orjson.dumps(known, option=orjson.OPT_UTC_Z).decode())
    else:
        _print(found, console)
    return DONE if found.known and not found.unseen else FAILED


@contextmanager
def _bar(console: Console) -> Iterator[Told]:
    """Shown while messages are read, if that takes long enough to be seen."""
    shown = bar(console)
    task = shown.add_task("messages", total=None)

    def told(done: int, total: int) -> None:
        shown.update(task, completed=done, total=total)

    with shown:
        yield told


def _print(found: History, console: Console) -> None:
    stages = max((len(event.stage) for event in found.events), default=0)
    for event in found.events:
        bad = "dead letter" in event.outcome or "not readable" in event.outcome
        console.print(
            Text.assemble(
                (f"{event.at:%Y-%m-%d %H:%M:%S}  ", "dim"),
                f"{event.stage:<{stages}}  ",
                (event.outcome, "bold red" if bad else "bold"),
                (f"  {event.where}", "dim"),
            )
        )
        for detail in event.details:
            console.print(Padding(Text(_line(detail)), (0, 0, 0, 4)))
    for line in _rest(found):
        say(console, line)


def _line(detail: Detail) -> str:
    """A detail in words."""
    if "title" in detail:
        return (
            f"{detail['title']} ({detail['descriptors']} descriptors, abstract of "
            f"{detail['abstract_characters']} characters, from {detail['source']})"
        )
    if "message" in detail:
        return f"{detail['message']}: {detail['detail']}"
    who = detail.get("generator") or detail["answerer"]
    return f"{who}: {'; '.join(_words(detail))}"


def _words(detail: Detail) -> Iterator[str]:
    if question := detail.get("question"):
        yield question if len(question) <= LONGEST else f"{question[:LONGEST]}…"
    if rejected := detail.get("rejected"):
        yield f"nothing kept: {rejected}"
    if "decision" in detail:
        yield f"answers {detail['decision']}"
    if "score" in detail:
        yield f"scores {detail['score']:.3f}"
    if "unscored" in detail:
        yield f"no score: {detail['unscored']}"
    if passages := detail.get("passages"):
        yield "found " + ", ".join(map(_passage, passages))


def _passage(passage: Detail) -> str:
    names = (("bm25_rank", "BM25"), ("dense_rank", "dense"))
    ranks = [f"{name} {passage[key]}" for key, name in names if passage[key] is not None]
    return f"{passage['pmid']} ({', '.join(ranks)})"


def _rest(found: History) -> Iterator[str]:
    """What is said below the events, whose times are UTC."""
    if not found.events:
        yield f"PMID {found.pmid}: no topic or table that could be looked at says anything of it"
    if held := found.index:
        asked = "corpus, " if held["corpus"] else ""
        yield (
            f"in the search index: {asked}version {held['version']}, as of offset "
            f"{held['offset']} of its partition, arrived {held['arrived']}"
        )
    elif not any(line.startswith("index") for line in found.unseen):
        yield "not in the search index"
    yield from (_waits(waiting) for waiting in found.waiting)
    if found.since:
        begin = f"{found.since:%Y-%m-%d %H:%M} UTC"
        yield f"topics read from {begin} on; --since DATE goes further back"
    yield from (f"could not be looked at: {line}" for line in found.unseen)


def _waits(waiting: Waiting) -> str:
    line = f"{waiting.stage} has not done with {waiting.where}"
    if waiting.before is None:
        line += ": it has committed nothing yet"
    elif waiting.before:
        line += f": {waiting.before:,} before it are not done either"
    return f"{line}; {waiting.paused}" if waiting.paused else line
