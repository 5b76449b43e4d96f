"""One version of a Delta table copied as it is, and such a copy as a table again.

The copy holds the files of that version and the log up to it, from the last checkpoint on: so a
restored table goes on counting its versions where it was, and jobs' ids, which name a version, do
not come twice.
"""

import re
import shutil
from pathlib import Path

import pyarrow as pa
from aiokafka import TopicPartition
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from pyarrow import fs

from infra.backup_manifest import CHUNK, BackupError
from infra.settings import Settings
from infra.sink_table import PARTITIONS, application, sources
from infra.tables import SCHEMAS, location, open_table

LOG = "_delta_log"
# A checkpoint, and the other files of the log that a reader needs.
ENTRY = re.compile(r"(\d{20})(\.checkpoint.*\.parquet|\.json)")


def copy_version(delta: DeltaTable, to: Path) -> None:
    """Copy the version that `delta` is at. Raises `BackupError`, `OSError`, and deltalake's own."""
    store, root = _store(delta.table_uri)
    version = delta.version()
    entries = {
        Path(info.path).name: int(match[1])
        for info in store.get_file_info(fs.FileSelector(f"{root}/{LOG}"))
        if (match := ENTRY.fullmatch(Path(info.path).name)) and int(match[1]) <= version
    }
    checkpoints = [at for name, at in entries.items() if "checkpoint" in name]
    first = max(checkpoints, default=0)
    log = [f"{LOG}/{name}" for name, at in entries.items() if at >= first]
    data = pa.table(delta.get_add_actions()).column("path").to_pylist()
    for name in (*data, *log):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open_input_stream(f"{root}/{name}") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    if DeltaTable(str(to)).version() != version:
        raise BackupError(f"table {delta.table_uri}: version {version} could not be copied whole")


def is_there(settings: Settings, table: str) -> bool:
    """Whether there is a table already, or anything else in its place."""
    store, root = _store(location(settings, table))
    return bool(store.get_file_info(root).type != fs.FileType.NotFound)


def restore(settings: Settings, table: str, copy: Path) -> None:
    """Put a copy in the table's place, which is empty. Raises `OSError`, and deltalake's own.

    Where the append stage was in its topics is put back to before their beginning, for the topics
    begin anew. What comes once more has its id in the tables already, and is left out.
    """
    store, root = _store(location(settings, table))
    for path in sorted(copy.rglob("*")):
        if path.is_file():
            target = f"{root}/{path.relative_to(copy)}"
            store.create_dir(str(Path(target).parent), recursive=True)
            with path.open("rb") as source, store.open_output_stream(target) as file:
                shutil.copyfileobj(source, file, CHUNK)
    delta = open_table(settings, table)
    held = [
        name
        for topic in sources(settings, table)
        for name in (application(TopicPartition(topic, n)) for n in range(PARTITIONS))
        if delta.transaction_version(name) is not None
    ]
    if held:
        write_deltalake(
            delta,
            SCHEMAS[table].empty_table(),
            mode="append",
            commit_properties=CommitProperties(
                app_transactions=[Transaction(name, -1) for name in held],
                custom_metadata={"restored": "topics begin anew"},
            ),
        )


def _store(uri: str) -> tuple[fs.FileSystem, str]:
    """Where a table lies, as pyarrow has it. Raises `BackupError`."""
    try:
        store, root = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise BackupError(f"tables at {uri}: cannot be reached: {error}") from None
    return store, root.rstrip("/")
