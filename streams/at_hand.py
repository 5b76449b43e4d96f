"""What the work at hand is about, task by task: what its log lines are to carry."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Protocol

_fields: ContextVar[Mapping[str, str | int]] = ContextVar(
    "fields",
    default=MappingProxyType({}),
)


class InTopic(Protocol):
    """A message of a topic, as every client of Kafka has it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...


def fields() -> Mapping[str, str | int]:
    """What the running task is about."""
    return _fields.get()


@contextmanager
def at_hand(**more: str | int | None) -> Iterator[None]:
    """Until the end of the block, and in the tasks begun in it, the work is about this, too."""
    known = {name: value for name, value in more.items() if value is not None}
    token = _fields.set({**_fields.get(), **known})
    try:
        yield
    finally:
        _fields.reset(token)


def place(message: InTopic) -> dict[str, str | int | None]:
    """The fields of a message: `pmid`, where it is keyed by one, `topic`, `partition`, `offset`."""
    return {
        "pmid": keyed_pmid(message.key),
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
    }


def keyed_pmid(key: bytes | None) -> int | None:
    """The PMID that a key is, None for any other."""
    return int(key) if key and re.fullmatch(rb"[1-9][0-9]{0,9}", key) else None
