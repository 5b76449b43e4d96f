"""`kailin mesh`: the edition of MeSH in use; `kailin mesh use` puts another in use."""

import re
from pathlib import Path

from rich.console import Console

from infra import mesh_edition
from infra.artifacts import ArtifactError
from infra.cli_context import say
from infra.mesh_files import measure, read_edition, read_mesh, source_path
from infra.settings import Settings
from streams.mesh import Difference, Mesh, MeshError, difference

# What an edition may be called: it is part of a file's name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

# A year's edition drops some hundred of 30,000 descriptors; one that lacks this share is damaged.
LOST = 0.1
# Descriptors named for each kind of change.
SHOWN = 5


def show(settings: Settings, console: Console) -> int:
    """Print the edition in use and where it comes from; the exit status."""
    try:
        choice = mesh_edition.chosen(settings)
        mesh = mesh_edition.current(settings)
    except MeshError as error:
        say(console, str(error))
        return 1
    how = f"chosen on {choice.since:%Y-%m-%d %H:%M} UTC" if choice else "from the settings (`mesh`)"
    say(console, f"MeSH {mesh.edition}, {how}")
    say(console, f"source     {mesh.source}")
    say(console, f"frequency  {mesh.frequency}, terms {mesh.terms}")
    return 0


def use(
    settings: Settings, path: Path, edition: str | None, *, force: bool, console: Console
) -> int:
    """Put the edition in a file in use and print how it differs from the one before.

    The exit status: 1, with one line that says why, for a file that is no edition of MeSH, that
    does not say which one it is, or that lacks much of the one in use.
    """
    try:
        new = read_named(path, edition)
        changes = _against_the_one_in_use(settings, new, console)
        if changes and changes.lost > LOST and not force:
            raise MeshError(
                f"{path}: lacks {len(changes.removed):,} descriptors of the edition in use: is "
                "the file whole? --force uses it all the same"
            )
        # What cannot be scored with, for want of counts say, is not put in use.
        measure(new, settings.mesh)
        choice = mesh_edition.choose(settings, path, new.edition)
    except (ArtifactError, MeshError, OSError) as error:
        say(console, str(error))
        return 1
    say(console, f"MeSH {new.edition} is in use: {len(new):,} descriptors")
    say(console, f"kept at {mesh_edition.directory(settings) / choice.file}")
    return 0


def read_named(path: Path, edition: str | None) -> Mesh:
    """The edition in a file, called `edition` or what the file says.

    Raises `MeshError`: for a file that is none, where neither says what to call it, and for a name
    that cannot be one.
    """
    name = edition or read_edition(path)
    mesh = read_mesh(path, name or "")
    if name is None:
        raise MeshError(f"{path}: does not say which edition of MeSH it is: give --edition NAME")
    if not NAME.fullmatch(name):
        raise MeshError(
            f"--edition {name!r}: expected up to 32 letters, digits, dots, dashes and underscores"
        )
    return mesh


def _against_the_one_in_use(settings: Settings, new: Mesh, console: Console) -> Difference | None:
    """What changes, printed; None where the edition in use cannot be read."""
    try:
        mesh = mesh_edition.current(settings)
        old = read_mesh(source_path(mesh), mesh.edition)
    except (ArtifactError, MeshError) as error:
        say(console, f"not compared with the edition in use, which cannot be read: {error}")
        return None
    changes = difference(old, new)
    say(console, f"against MeSH {old.edition} ({len(old):,} descriptors):")
    for what, uis, of in (
        ("added", changes.added, new),
        ("removed", changes.removed, old),
        ("moved", changes.moved, new),
    ):
        first = [f"{ui} {of.descriptors[of.rows[ui]].name}" for ui in uis[:SHOWN]]
        rest = ", …" if len(uis) > SHOWN else ""
        say(console, f"{len(uis):>7,} {what}{': ' if uis else ''}{'; '.join(first)}{rest}")
    return changes
