"""`kailin dlq`: the dead letters, and what is done about them."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from infra.cli_context import FAILED, WRONG, By, Config, give_up, settings_of, signed

if TYPE_CHECKING:
    from infra.dead_letters import Found, Wanted
    from infra.settings import Settings

T = TypeVar("T")

# More letters than this are put back or dropped only if that is confirmed.
MANY = 50
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]

dlq_app = typer.Typer(no_args_is_help=True)

Origins = Annotated[
    list[str] | None,
    typer.Argument(metavar="MESSAGE…", help="topic/partition/offset, as in the list. Else all."),
]
ByStage = Annotated[str | None, typer.Option("--stage", help="Set aside by this stage.")]
Reason = Annotated[str | None, typer.Option(help="For this reason, as in the list.")]
Topic = Annotated[str | None, typer.Option(help="From this topic, as the broker calls it.")]
Since = Annotated[datetime | None, typer.Option(formats=TIMES, help="From this time on (UTC).")]
Until = Annotated[datetime | None, typer.Option(formats=TIMES, help="Before this time (UTC).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help=f"Also more than {MANY} at once.")]


@dlq_app.callback()
def dlq() -> None:
    """The dead letters: messages that a stage could never use, with the reason.

    They are kept for 90 days. One is open until it is put back (replay) or given up (drop).
    """


@dlq_app.command("list")
def list_letters(
    context: typer.Context,
    config: Config = None,
    stage: ByStage = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    settled: Annotated[
        bool, typer.Option("--all", "-a", help="Those too about which something was done.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many lines, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the open dead letters: first how many by stage and reason, then the newest.

    Examples: [bold]kailin dlq list[/],
    [bold]kailin dlq list --stage generate --since 2026-03-01 --json[/]

    Exit codes: 0 shown, 1 Kafka cannot be reached, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import dead_letters_view as view

    wanted = _wanted(None, stage, reason, topic, since, until)
    found, unreadable = _find(settings, wanted, settled=settled)
    if as_json:
        for each in found:
            typer.echo(view.as_line(each))
    else:
        view.show_list(found, Console(), limit=limit, unreadable=unreadable)


@dlq_app.command()
def show(
    context: typer.Context,
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="topic/partition/offset, as in the list.")
    ],
    config: Config = None,
    stage: ByStage = None,
    full: Annotated[bool, typer.Option("--full", help="Long texts uncut.")] = False,
) -> None:
    """Print the dead letters of one message whole: cause, stack, and the record as JSON.

    Example: [bold]kailin dlq show pubmed.articles/3/1207[/]

    Exit codes: 0 shown, 1 there is none, or Kafka cannot be reached, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import dead_letters_view as view
    from infra.dead_letters import whole

    wanted = _wanted([message], stage, None, None, None, None)
    found, _unreadable = _find(settings, wanted, settled=True)
    if not found:
        give_up(f"{message}: no dead letter of this message is kept", FAILED)
    for each in _done(whole(settings, found)):
        view.show_letter(each, Console(), full=full)


@dlq_app.command()
def replay(
    context: typer.Context,
    messages: Origins = None,
    config: Config = None,
    stage: ByStage = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    why: Annotated[str, typer.Option(help="Why; it is kept with the letter.")] = "",
    by: By = None,
    most: Annotated[
        int, typer.Option("--most", min=1, help="Leave what was put back as often already.")
    ] = 3,
    force: Annotated[bool, typer.Option("--force", help="However often it was put back.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put open dead letters back on the topics they came from, for the stage that set them aside.

    Mend the cause first. One that fails again is a new letter, which keeps the first cause and how
    often it was put back. Of pubmed.articles only the newest state of a record is put back; a
    letter that a newer one has overtaken is settled as that. Those wait for their turn where an
    ingest is at work. Each is put back once, also if this is killed: run it again for the others.

    Examples: [bold]kailin dlq replay --stage generate --reason "model refused"[/],
    [bold]kailin dlq replay pubmed.articles/3/1207 --force[/]

    Exit codes: 0 none of them is open any more, 1 some are (or Kafka failed), 2 wrong usage or
    settings.
    """
    settings, _ = settings_of(context, config)
    who = signed(by)
    from rich.console import Console

    from infra import dead_letter_replay, dead_letters_view
    from infra.cli_context import say
    from infra.dead_letter_replay import Order

    wanted = _wanted(messages, stage, reason, topic, since, until)
    found, _unreadable = _find(settings, wanted, settled=False)
    _confirm(found, yes=yes or dry_run)
    console = Console(stderr=True)
    # As often as a number can say.
    order = Order(who=who, why=why, most=2**62 if force else most, dry_run=dry_run)
    steps = _done(
        dead_letter_replay.replay(settings, found, order, lambda line: say(console, line))
    )
    dead_letters_view.show_steps(steps, Console(), dry_run=dry_run)
    if any(step.how == "left" for step in steps):
        raise typer.Exit(FAILED)


@dlq_app.command()
def drop(
    context: typer.Context,
    why: Annotated[str, typer.Option(help="Why they are given up; it is kept with them.")],
    messages: Origins = None,
    config: Config = None,
    stage: ByStage = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give open dead letters up: they are not listed or put back any more.

    Example: [bold]kailin dlq drop --stage index --reason key --why "a test of ours"[/]

    Exit codes: 0 done, 1 Kafka cannot be reached, 2 wrong usage or settings.
    """
    settings, _ = settings_of(context, config)
    if not why.strip():
        give_up("--why: expected why, in a few words", WRONG)
    who = signed(by)
    from infra import dead_letter_replay

    wanted = _wanted(messages, stage, reason, topic, since, until)
    found, _unreadable = _find(settings, wanted, settled=False)
    _confirm(found, yes=yes or dry_run)
    if not dry_run:
        _done(dead_letter_replay.drop(settings, found, who=who, why=why))
    typer.echo(f"{len(found):,} {'would be ' if dry_run else ''}dropped")


def _wanted(
    messages: list[str] | None,
    stage: str | None,
    reason: str | None,
    topic: str | None,
    since: datetime | None,
    until: datetime | None,
) -> "Wanted":
    from infra.dead_letters import Wanted, utc

    for message in messages or ():
        if not (message.count("/") == 2 and message.rpartition("/")[2].isdecimal()):
            give_up(f"{message}: expected topic/partition/offset, as in `kailin dlq list`", WRONG)
    return Wanted(
        stage=stage,
        reason=reason,
        topic=topic,
        since=utc(since),
        until=utc(until),
        origins=frozenset(messages or ()),
    )


def _find(settings: "Settings", wanted: "Wanted", *, settled: bool) -> "tuple[list[Found], int]":
    from infra import dead_letters

    found, unreadable = _done(dead_letters.find(settings, wanted))
    return [each for each in found if settled or each.settled is None], unreadable


def _confirm(found: "list[Found]", *, yes: bool) -> None:
    if len(found) > MANY and not yes:
        give_up(f"{len(found):,} letters: narrow it down, look (--dry-run), or say --yes", WRONG)


def _done(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; ends the program where Kafka fails."""
    from infra.dead_letter_replay import TakenOver
    from infra.kafka import BrokerUnreachable
    from streams.errors import Transient

    try:
        return asyncio.run(work)
    except (BrokerUnreachable, TakenOver, Transient) as error:
        give_up(str(error), FAILED)
