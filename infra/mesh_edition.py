"""The edition of MeSH in use: the one that `kailin mesh use` chose, or else that of the settings.

The choice is a small file, `<data>/mesh/edition.json`, beside the copy of the edition's own file
that it names. It is replaced in one step, so that who reads it has the old edition or the new one.
Workers on several machines see a switch where they share <data>.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from infra import settings as sections
from infra.artifacts import ArtifactError
from infra.mesh_files import scorer
from infra.settings import Settings
from streams.mesh import MeshError
from streams.similarity import Similarity

log = logging.getLogger(__name__)

# How often a worker looks whether another edition has been chosen, and how long it goes on with
# the one it has before it tries again to read one that it could not, in seconds.
LOOK_EVERY = 1.0
TRY_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Choice:
    """An edition that was chosen: its name, its file in <data>/mesh, and when that was."""

    edition: str
    file: str
    since: datetime


def directory(settings: Settings) -> Path:
    """Where the editions that were chosen lie."""
    return settings.data / "mesh"


def chosen(settings: Settings) -> Choice | None:
    """The edition that was chosen last, None where none was. Raises `MeshError`."""
    path = _choice_file(settings)
    try:
        return TypeAdapter(Choice).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not as this program writes it"
        raise MeshError(f"{path}: {reason}: choose again with `kailin mesh use PATH`") from None


def current(settings: Settings) -> sections.Mesh:
    """The settings of the edition in use: `mesh`, with the name and file of what was chosen.

    Raises `MeshError` where the choice cannot be read.
    """
    choice = chosen(settings)
    if choice is None:
        return settings.mesh
    source = str((directory(settings) / choice.file).resolve())
    return settings.mesh.model_copy(update={"edition": choice.edition, "source": source})


def stamp(settings: Settings, before: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """What changes with every switch, None where no edition was chosen. Costs one stat.

    While the data directory cannot be read, it is what it was `before`.
    """
    try:
        found = _choice_file(settings).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("whether MeSH was switched is not known: %s", error)
        return before
    return found.st_ino, found.st_mtime_ns


def choose(settings: Settings, path: Path, edition: str) -> Choice:
    """Put an edition in use: its file, already found to be sound, is copied to <data>/mesh.

    Raises `OSError`.
    """
    held = directory(settings)
    held.mkdir(parents=True, exist_ok=True)
    # Named by what is in it: whoever reads the file of an edition never has it changed meanwhile.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
    name = f"{edition}-{digest}{''.join(path.suffixes[-2:])}"
    if not (held / name).exists():
        partial = held / f".{name}.{os.getpid()}"
        shutil.copyfile(path, partial)
        partial.replace(held / name)
    choice = Choice(edition, name, datetime.now(UTC))
    partial = held / f".edition.json.{os.getpid()}"
    partial.write_bytes(
        orjson.dumps(choice, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    partial.replace(_choice_file(settings))
    return choice


class ScorerInUse:
    """The scorer of the edition in use; made anew, in a thread, once another has been chosen."""

    def __init__(self, settings: Settings) -> None:
        """Raises `MeshError` and `ArtifactError`, as `scorer` does."""
        self._settings = settings
        # Before the choice is read: a switch in between is noticed at the next look.
        self._stamp = stamp(settings)
        self._scorer = scorer(current(settings))
        self._look_at = time.monotonic() + LOOK_EVERY
        self._renewing = asyncio.Lock()

    @property
    def last(self) -> Similarity:
        """The scorer that `get` gave last."""
        return self._scorer

    async def get(self) -> Similarity:
        """The scorer for one record. Looks for another edition at most every second.

        While an edition cannot be read, that is logged and the one before stays in use.
        """
        async with self._renewing:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY
                found = stamp(self._settings, self._stamp)
                if found != self._stamp:
                    await self._renew(found)
        return self._scorer

    async def _renew(self, found: tuple[int, int] | None) -> None:
        try:
            self._scorer = await asyncio.to_thread(lambda: scorer(current(self._settings)))
        except (ArtifactError, MeshError) as error:
            self._look_at = time.monotonic() + TRY_EVERY
            log.error("score: goes on with MeSH %s: %s", self._scorer.edition, error)
            return
        self._stamp = found
        log.info("score: MeSH %s is in use now", self._scorer.edition)


def _choice_file(settings: Settings) -> Path:
    return directory(settings) / "edition.json"
