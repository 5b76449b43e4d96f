"""Messages and PubMed XML as damage and malice make them: by structure and by byte, from a seed.

dice = random.Random(7)
mutant(golden, dice), mutant_entry(citation, dice), mutant_file(document, dice)
"""

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]
Damage = Callable[[bytes, random.Random], bytes]

# Values where others belong. JSON knows neither bounds nor NaN; Python writes and reads both.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400),
    *(float("nan"), float("inf"), 1e308, "", " ", "\0", "\ud800", "\u202e", "é" * 300, "７"),
    *("1001", "true", "null", "a" * 100_000, "{", "</s>", "article/1", "question/99"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-03-07", "yesterday"),
    *([], {}, [[]], [None], {"": None}, [1] * 2000, ["D001241"] * 1001),
)
DEEP = 3000

# Pieces of markup that are out of place wherever they come.
MARKUP = (
    *("<", ">", "&", "&#0;", "&#xD800;", "&unknown;", "&amp", "]]>", "<!--", "<![CDATA[", "<?x"),
    *("<PMID>", "</PMID>", "<PMID>0</PMID>", "<PMID>-7</PMID>", "<PMID>99999999999</PMID>"),
    *("<AbstractText>", "</Article>", "<MeshHeading/>", '<DescriptorName UI="">', "<i><sub>"),
    *("<Year>99999</Year>", "<Month>Foo</Month>", "\0", "\x0b", "\ufffe", "\u2028"),
)
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "latin-1", "utf-7", "cp037")


def mutant(message: bytes, dice: random.Random) -> bytes:
    """A message of JSON with one to three things wrong with it, or, seldom, with none."""
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        by_structure = dice.random() < 0.8 and _is_object(message)
        message = dice.choice(_JSON if by_structure else _BYTES)(message, dice)
    return message


def mutant_entry(entry: bytes, dice: random.Random) -> bytes:
    """One entry of a file, damaged between its outermost tags."""
    start, end = entry.index(b">") + 1, entry.rindex(b"</")
    inside = entry[start:end]
    for _ in range(dice.choice((1, 1, 2, 3))):
        inside = dice.choice(_XML)(inside, dice)
    return entry[:start] + inside + entry[end:]


def mutant_file(document: bytes, dice: random.Random) -> bytes:
    """A whole file with something wrong: its encoding, its head, its end, its packing."""
    return dice.choice(_FILE)(document, dice)


# By byte.


def _flip(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) or 1)
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def _truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) or 1)]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    noise = dice.choice(
        (b"\xff\xfe", b"\xed\xa0\x80", b"\0", b'"', b"\\", b"\xc3(", b"\xef\xbb\xbf")
    )
    return data[:at] + noise + data[at:]


def _drop(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) or 1)
    return data[:at] + data[at + dice.randrange(1, 40) :]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) or 1)
    part = data[at : at + dice.randrange(1, 200)]
    return data[:at] + part * dice.choice((2, 3, 500)) + data[at + len(part) :]


def _encode(data: bytes, dice: random.Random) -> bytes:
    return data.decode(errors="replace").encode(dice.choice(ENCODINGS), "replace")


def _nothing(data: bytes, dice: random.Random) -> bytes:
    return dice.choice((b"", b"null", b"[]", b"{}", b'""', b"0", b"[" * 100_000, b'{"a":' * 5000))


# By the structure of JSON.


def _value(data: bytes, dice: random.Random) -> bytes:
    return _at_any(data, dice, lambda held, name: _put(held, name, dice.choice(VALUES)))


def _missing(data: bytes, dice: random.Random) -> bytes:
    return _at_any(data, dice, lambda held, name: held.pop(name))


def _renamed(data: bytes, dice: random.Random) -> bytes:
    def rename(held: Any, name: str | int) -> None:
        if isinstance(held, dict):
            held[f"{name} "] = held.pop(name)

    return _at_any(data, dice, rename)


def _many(data: bytes, dice: random.Random) -> bytes:
    """A list that is empty, or far too long; or a value in a list of its own."""

    def multiply(held: Any, name: str | int) -> None:
        value = held[name]
        held[name] = value * dice.choice((0, 2, 300)) if isinstance(value, list) else [value]

    return _at_any(data, dice, multiply)


def _deep(data: bytes, dice: random.Random) -> bytes:
    """One value in thousands of brackets, as text: Python's own writer would not write it."""
    marked = _at_any(data, dice, lambda held, name: _put(held, name, "HERE"))
    return marked.replace(b'"HERE"', b"[" * DEEP + b"]" * DEEP)


def _twice(data: bytes, dice: random.Random) -> bytes:
    """A field that is there twice, with another value the second time."""
    name = dice.choice(list(json.loads(data)) or [""])
    value = json.dumps(dice.choice(VALUES))
    return data.rstrip()[:-1] + f",{json.dumps(name)}:{value}}}".encode()


def _swapped(data: bytes, dice: random.Random) -> bytes:
    fields = json.loads(data)
    if len(fields) > 1:
        one, other = dice.sample(list(fields), 2)
        fields[one], fields[other] = fields[other], fields[one]
    return _written(fields)


def _schema(data: bytes, dice: random.Random) -> bytes:
    fields = json.loads(data)
    versions = ("article/1", "article/2", "article/9", "questions/1", "/1", "article/²", 7, None)
    return _written({**fields, "schema": dice.choice(versions)})


def _at_any(data: bytes, dice: random.Random, change: Callable[[Any, str | int], object]) -> bytes:
    fields = json.loads(data)
    paths = list(_paths(fields))
    if not paths:
        return data
    *way, name = dice.choice(paths)
    held = fields
    for step in way:
        held = held[step]
    change(held, name)
    return _written(fields)


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:20]
    for name, inner in items:
        yield (*at, name)
        yield from _paths(inner, (*at, name))


def _put(held: Any, name: str | int, value: Any) -> None:
    held[name] = value


def _written(fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _is_object(message: bytes) -> bool:
    try:
        return isinstance(json.loads(message), dict)
    except (ValueError, RecursionError):
        return False


# By the structure of XML.


def _tags(data: bytes, dice: random.Random, change: Callable[[re.Match[bytes]], bytes]) -> bytes:
    found = list(re.finditer(rb"<[^<>]*>", data))
    if not found:
        return data
    tag = dice.choice(found)
    return data[: tag.start()] + change(tag) + data[tag.end() :]


def _without_tag(data: bytes, dice: random.Random) -> bytes:
    return _tags(data, dice, lambda tag: b"")


def _other_tag(data: bytes, dice: random.Random) -> bytes:
    names = (b"Abstract", b"PMID", b"Article", b"MeshHeading", b"\xc3\xa9", b"a:b", b"1")
    return _tags(data, dice, lambda tag: re.sub(rb"[\w]+", dice.choice(names), tag[0], count=1))


def _tag_twice(data: bytes, dice: random.Random) -> bytes:
    return _tags(data, dice, lambda tag: tag[0] * dice.choice((2, 2, 300)))


def _attribute(data: bytes, dice: random.Random) -> bytes:
    more = (b' UI=""', b" UI", b' Version="-1"', b' Version="x"', b" a='&lt;' a='2'", b' b="')
    return _tags(data, dice, lambda tag: tag[0][:-1] + dice.choice(more) + b">")


def _markup(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(MARKUP).encode() + data[at:]


def _text(data: bytes, dice: random.Random) -> bytes:
    found = list(re.finditer(rb">([^<>]+)<", data))
    if not found:
        return data
    text = dice.choice(found)
    new = dice.choice((b"", b" ", b"\xff", b"x" * 50_000, "\U0001f9ec".encode() * 50, b"0", b"-1"))
    return data[: text.start(1)] + new + data[text.end(1) :]


def _packed_badly(data: bytes, dice: random.Random) -> bytes:
    packed = gzip.compress(data, 1)
    return dice.choice((_flip, _truncate, _drop))(packed, dice)


_BYTES: tuple[Damage, ...] = (_flip, _truncate, _insert, _drop, _repeat, _encode, _nothing)
_JSON: tuple[Damage, ...] = (
    *(_value, _value, _value, _missing, _renamed, _many, _deep, _twice, _swapped, _schema),
)
_XML: tuple[Damage, ...] = (
    *(_without_tag, _other_tag, _tag_twice, _attribute, _markup, _markup, _text, _text),
    *(_flip, _insert, _drop, _repeat),
)
_FILE: tuple[Damage, ...] = (_encode, _truncate, _flip, _insert, _packed_badly, _drop)
