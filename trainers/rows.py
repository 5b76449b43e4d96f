"""The rows of a Delta table as of one version, a batch at a time.

deltalake's own engine reads them: pyarrow's file system for Delta leaves threads behind that can
abort a program which ends soon after, and a job ends like any other program.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from trainers.errors import DataError

# Rows of a batch: some 20 MB where each carries a long context.
BATCH = 512
# One file at a time, so that memory does not grow with the cores, and the order is the files'.
_SESSION = {
    "datafusion.execution.target_partitions": "1",
    "datafusion.execution.batch_size": str(BATCH),
}
_LARGEST = 1 << 256


@dataclass(frozen=True, slots=True)
class Pinned:
    """A table as of one version, whatever is written to it later."""

    uri: str
    version: int
    table: DeltaTable

    def count(self, where: str = "true") -> int:
        """How many rows a condition in SQL holds for. Raises `DataError`."""
        (batch,) = self._query(f"SELECT count(*) AS n FROM rows WHERE {where}")  # noqa: S608
        return int(batch.column("n")[0].as_py())

    def batches(self, columns: Sequence[str], where: str = "true") -> Iterator[pa.RecordBatch]:
        """The rows for which a condition in SQL holds, up to `BATCH` at a time, some columns only.

        Raises `DataError` where a file is gone or cannot be read.
        """
        names = ", ".join(f'"{column}"' for column in columns)
        yield from self._query(f"SELECT {names} FROM rows WHERE {where}")  # noqa: S608

    def _query(self, sql: str) -> Iterator[pa.RecordBatch]:
        try:
            engine = QueryBuilder(_SESSION).register("rows", self.table)
            for batch in engine.execute(sql):
                yield pa.record_batch(batch)
        except Exception as error:  # The engine's own have no class of theirs.
            raise DataError(
                f"table {self.uri}, version {self.version}: cannot be read: {_one_line(error)}"
            ) from None


def pin(uri: str, version: int | None = None) -> Pinned:
    """A table (path or URI) at a version, or at its newest. Raises `DataError`.

    Credentials of an object store are taken from the environment, as by the append stage.
    """
    try:
        newest = DeltaTable(uri)
    except TableNotFoundError:
        raise DataError(
            f"there is no table at {uri}: it is made when records are appended"
        ) from None
    except (DeltaError, OSError) as error:
        raise DataError(f"table {uri}: cannot be opened: {_one_line(error)}") from None
    if version is None or version == newest.version():
        return Pinned(uri, newest.version(), newest)
    if version > newest.version():
        raise DataError(
            f"table {uri} has no version {version}, the newest is {newest.version()}: "
            "is it the table that was meant?"
        )
    try:
        return Pinned(uri, version, DeltaTable(uri, version=version))
    except (DeltaError, OSError):
        kept = newest.metadata().configuration.get("delta.logRetentionDuration", "30 days")
        raise DataError(
            f"table {uri} can no longer be read at version {version}: its log is kept for "
            f"{kept.removeprefix('interval ')} (delta.logRetentionDuration); train on a newer "
            "version, or let it be kept for longer"
        ) from None


class Digest:
    """A digest of row ids, whatever their order: the sum of their BLAKE2b hashes, modulo 2^256.

    An id that is added twice counts twice.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, id: str) -> None:
        self._sum += int.from_bytes(hashlib.blake2b(id.encode(), digest_size=32).digest(), "big")

    @property
    def hex(self) -> str:
        """64 hex digits."""
        return f"{self._sum % _LARGEST:064x}"


def _one_line(error: Exception) -> str:
    # delta-rs colours the causes in its messages.
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
