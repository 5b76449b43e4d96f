"""What a job says about data that it cannot use, and about what stops it."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(Exception):
    """A table or file of training data is not as expected, or holds too little.

    The message is one line: the file or table, what was expected of it, what to do.
    """


class JobError(Exception):
    """A job cannot go on, for a reason outside this program; the message is one line."""


@contextmanager
def in_a_line() -> Iterator[None]:
    """Say in one line what is this machine's fault: no memory, no disk."""
    try:
        yield
    except OSError as error:
        raise JobError(f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except RuntimeError as error:
        said = " ".join(str(error).split())
        if "out of memory" in said or "can't allocate memory" in said:
            raise JobError(
                "out of memory: lower optimisation.batch (and raise accumulation) or max_length, "
                f"or set optimisation.checkpointing: {said[:200]}"
            ) from None
        raise
