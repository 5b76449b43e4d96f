"""MLflow's SQLite database and its directory of artifacts, copied and put back.

The database names the artifacts by where they lie, so that is put right where they come to lie
elsewhere.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from infra.settings import Settings

DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
# The columns that say where artifacts lie.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def directory(settings: Settings) -> Path | None:
    """Where both lie; None where a server has them."""
    uri = settings.mlflow_uri
    return Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else None


def database(settings: Settings) -> Path:
    """The file of the database."""
    return Path(settings.mlflow_uri.removeprefix("sqlite:///"))


def copy(settings: Settings, to: Path) -> bool:
    """Copy what there is while it is in use; whether there is anything.

    The database first: the artifacts that it names are there by then. Raises `OSError` and
    `sqlite3.Error`.
    """
    home = directory(settings)
    if home is None or not database(settings).exists():
        return False
    to.mkdir(parents=True)
    with (
        closing(sqlite3.connect(database(settings))) as source,
        closing(sqlite3.connect(to / DATABASE)) as target,
    ):
        source.backup(target)
    if (home / ARTIFACTS).exists():
        shutil.copytree(home / ARTIFACTS, to / ARTIFACTS)
    return True


def restore(settings: Settings, copied: Path, was: Path) -> None:
    """Put a copy in its place, which is empty; `was` is the directory that it was copied from.

    Raises `OSError` and `sqlite3.Error`.
    """
    home = directory(settings)
    if home is None:
        return
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(copied / DATABASE, database(settings))
    if (copied / ARTIFACTS).exists():
        shutil.copytree(copied / ARTIFACTS, home / ARTIFACTS)
    if home == was:
        return
    with closing(sqlite3.connect(database(settings))) as held, held:
        for table, column in PLACES:
            known = {row[1] for row in held.execute(f"pragma table_info({table})")}
            if column in known:
                for old, new in ((was.as_uri(), home.as_uri()), (str(was), str(home))):
                    held.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"where {column} = ? or substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
