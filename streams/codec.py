"""Records to bytes and back. A message is one JSON object that begins with its schema.

`{"schema": "article/1", "pmid": …}`. A change that an old reader would misread raises the version
in `VERSIONS` and adds a step to `UPGRADES`, so that messages of every version stay readable; fields
that a reader does not know are passed over, so that a newer writer may add some.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from streams.citation import Change
from streams.errors import Invalid
from streams.records import Record, type_names

R = TypeVar("R", bound=Record)

VERSIONS: dict[str, int] = dict.fromkeys(type_names.values(), 1) | {"article": 2}


def _keywords_with_owner(fields: dict[str, Any]) -> dict[str, Any]:
    """Of keywords, which are objects from article/2 on, article/1 had only the authors' texts."""
    texts = fields.get("keywords")
    if not isinstance(texts, list):  # which is for the validation to name
        return fields
    return fields | {"keywords": [{"text": text, "owner": "NOTNLM"} for text in texts]}


# (schema name, version) → how its fields become those of the next version.
UPGRADES: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("article", 1): _keywords_with_owner,
}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(next(record for record, known in type_names.items() if known == name))


def encode(record: Record) -> bytes:
    """The message of a record: UTF-8 JSON, its schema first."""
    name = type_names[type(record)]
    # A record is never empty, so its JSON has a field to put the schema in front of.
    return b'{"schema":"%s/%d",' % (name.encode(), VERSIONS[name]) + orjson.dumps(record)[1:]


def with_change(article: bytes, change: Change) -> bytes:
    """An encoded article that says `change`: its last field, so that it can be put in as bytes."""
    fields, _, _ = article.rpartition(b'"change":"')
    return b'%s"change":"%s"}' % (fields, change.encode())


def decode(record: type[R], message: bytes) -> R:
    """The record in a message.

    Raises `Invalid`: "not JSON", "schema" (another record's, or a version that this program is
    too old for) or "field", with the path of the offending field.
    """
    try:
        fields = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise Invalid("not JSON", str(error)) from None
    if not isinstance(fields, dict):
        raise Invalid("not JSON", f"expected an object, got {type(fields).__name__}")
    name = type_names[record]
    version = _version(name, fields.get("schema"))
    try:
        if version == VERSIONS[name]:
            return cast(R, _adapter(name).validate_json(message, strict=True))
        for step in range(version, VERSIONS[name]):
            fields = UPGRADES[name, step](fields)
        return cast(R, _adapter(name).validate_json(orjson.dumps(fields), strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or name
        raise Invalid("field", f"{path}: {first['msg']}") from None


def _version(name: str, schema: object) -> int:
    newest = VERSIONS[name]
    kind, _, number = schema.partition("/") if isinstance(schema, str) else ("", "", "")
    # Without a sign, leading zeros or more digits than any version will have.
    if kind != name or not re.fullmatch("[1-9][0-9]{0,8}", number):
        raise Invalid("schema", f"expected {name}/1 to {name}/{newest}, got {str(schema)[:80]!r}")
    if int(number) > newest:
        raise Invalid("schema", f"{schema} is not known here: the newest is {name}/{newest}")
    return int(number)
