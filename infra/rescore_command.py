"""`kailin rescore`: rows scored anew, and what that has changed."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from infra import mesh_edition
from infra import settings as sections
from infra.artifacts import ArtifactError
from infra.cli_context import say
from infra.mesh_files import measure, scorer
from infra.mesh_use import read_named
from infra.rescore_tables import TABLES, Contended, Mean, Span, Tally, rescore
from infra.settings import Settings
from infra.tables import STORE_ERRORS, TableError, one_line, open_table
from streams.mesh import MeshError
from streams.similarity import Similarity

DONE, FAILED, WRONG = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line changes of the settings; None leaves a setting as it is."""

    mesh: Path | None = None
    edition: str | None = None
    frequency: str | None = None
    terms: str | None = None
    margin: float | None = None
    floor: float | None = None


# What a table's times can be compared with.
EARLIEST, LATEST = date(1970, 1, 1), date(2200, 1, 1)


def run(
    settings: Settings,
    span: Span,
    tables: list[str],
    options: Options,
    *,
    dry_run: bool,
    console: Console,
) -> int:
    """Score rows anew and print what has become of them; the exit status."""
    if unknown := [table for table in tables if table not in TABLES]:
        say(console, f"--table {unknown[0]}: expected one of {', '.join(TABLES)}")
        return WRONG
    if options.edition and not options.mesh:
        say(console, "--edition names what --mesh holds: give the file with --mesh PATH")
        return WRONG
    if beyond := [day for day in (span.since, span.until) if day and not EARLIEST <= day <= LATEST]:
        say(console, f"{beyond[0]}: expected a day from {EARLIEST} to {LATEST}")
        return WRONG
    if span.since and span.until and span.since > span.until:
        say(console, f"--since {span.since}: expected a day up to --until {span.until}")
        return WRONG
    chosen = [table for table in TABLES if not tables or table in tables]
    margin = settings.prefer.margin if options.margin is None else options.margin
    floor = settings.ideal.floor if options.floor is None else options.floor
    try:
        similarity = _scorer(settings, options)
        before = {table: open_table(settings, table).version() for table in TABLES}
        say(
            console,
            f"rows of {', '.join(chosen)} under MeSH {similarity.edition}, frequency "
            f"{similarity.frequency}, terms {similarity.terms}, margin {margin:g}, "
            f"floor {floor:g}",
        )
        tally = rescore(
            settings,
            span,
            chosen,
            similarity,
            margin,
            floor,
            dry_run=dry_run,
            tell=lambda month, done: say(console, f"{month}  {done.read:,} rows read"),
        )
        _report(console, tally)
        if dry_run:
            say(console, "nothing was written (--dry-run)")
            return DONE
        for table, version in before.items():
            after = open_table(settings, table).version()
            say(console, f"table {table}: version {version} before, {after} now")
    except ValidationError as error:
        for wrong in error.errors():
            say(console, wrong["msg"].removeprefix("Value error, "))
        return WRONG
    except (ArtifactError, Contended, MeshError, TableError) as error:
        say(console, str(error))
        return FAILED
    except STORE_ERRORS as error:
        say(console, f"tables: {one_line(error)}; the same command goes on from here")
        return FAILED
    except KeyboardInterrupt:
        say(console, "stopped; the same command goes on from here")
        return FAILED
    return DONE


def _scorer(settings: Settings, options: Options) -> Similarity:
    """Raises `ValidationError`, `MeshError`, `ArtifactError`."""
    in_use = mesh_edition.current(settings)
    changes: dict[str, Any] = {
        name: value
        for name, value in (("frequency", options.frequency), ("terms", options.terms))
        if value is not None
    }
    how = sections.Mesh.model_validate({**in_use.model_dump(), **changes})
    if options.mesh is None:
        return scorer(how)
    return measure(read_named(options.mesh, options.edition), how)


def _report(console: Console, tally: Tally) -> None:
    rest = (
        f", of which {tally.left:,} stay for want of MeSH, candidates or an answer"
        if tally.left
        else ""
    )
    say(console, f"read     {tally.read:,} rows{rest}")
    moves = [f"{count:,} {old} → {new}" for (old, new), count in sorted(tally.moved.items())]
    say(console, f"moved    {'; '.join(moves) or 'none'}")
    say(console, f"flipped  {tally.flipped:,} of {tally.compared:,} that stay preferences")
    say(console, f"score    {_mean(tally.before)} before, {_mean(tally.after)} now (mean)")


def _mean(mean: Mean) -> str:
    return "none" if mean.value is None else f"{mean.value:.4f} over {mean.count:,}"
