"""The life of a PubMed record: what an incoming citation is, compared with what is known of it.

What is known of a record is its `State`: a few hashes, not its text. It travels in a header of each
message of `pubmed.articles`, tombstones too, so that whoever replays the topic knows the state of
every record without reading the records themselves.

Which of two states is the later one is told by the citation's version and, between NLM's files, by
the order of the files, never by DateRevised, which NLM also sets back.
"""

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from streams.citation import Article, Change
from streams.codec import encode

# Retractions as they are packed; the phrases are those of `Article.retraction`.
RETRACTIONS = (None, "retracted", "erratum")
MESH_CHANGED = "MeSH changed"

# Flags, retraction, version, order, and the hashes of text, MeSH and all else.
_LAYOUT = struct.Struct(">BBHIQQQ")
SIZE = _LAYOUT.size
_HELD, _DELETED = 1, 2
# NLM's versions are small numbers; whatever is beyond this is equally new.
MOST_VERSION = 0xFFFF

# Where the parts of an encoded article begin that are hashed. What is in none of them tells a
# citation apart, or says how this copy of it came here. Within a string of JSON a quotation mark is
# escaped, so only a field can begin like this, and nothing but an article has such fields.
_TITLE, _LANGUAGES, _MESH, _INDEXING = b',"title":', b',"languages":', b',"mesh":[', b',"indexing":'
_CORPUS, _VERNACULAR, _ORDER = b',"corpus":', b',"vernacular_title":', b',"order":'
# NLM's class of a section is no part of its text.
_CATEGORY = re.compile(rb',"category":(?:null|"[^"]*")')
# A qualifier's UI begins with Q.
_DESCRIPTOR = re.compile(rb'\{"ui":"([^Q"][^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A record as of one citation of it.

    `order` is the place of the file it came in among NLM's, 0 where it came in none. `text`, `mesh`
    and `other` are 64-bit hashes; `mesh`, of the set of descriptors, is 0 where there are none. A
    deleted record keeps the hashes of the state before, 0 where that is unknown.
    """

    version: int
    order: int = 0
    deleted: bool = False
    text: int = 0
    mesh: int = 0
    other: int = 0
    retraction: str | None = None


def state_of(article: Article) -> State:
    """The state that an article puts its record in."""
    return encoded_state(
        encode(article),
        version=article.version,
        order=article.order or 0,
        retraction=article.retraction,
    )


def encoded_state(message: bytes, *, version: int, order: int, retraction: str | None) -> State:
    """The state that an encoded article puts its record in, read off its bytes.

    The publishing process does so for each of thousands a second, and need not decode them.
    """
    title = message.index(_TITLE)
    languages = message.index(_LANGUAGES, title)
    mesh = message.index(_MESH, languages)
    indexing = message.index(_INDEXING, mesh)
    corpus = message.index(_CORPUS, indexing)
    vernacular = message.index(_VERNACULAR, corpus)
    descriptors = set(_DESCRIPTOR.findall(message, mesh, indexing))
    return State(
        version=version,
        order=order,
        text=_hash(_CATEGORY.sub(b"", message[title:languages])),
        mesh=_hash(b" ".join(sorted(descriptors))) if descriptors else 0,
        other=_hash(
            message[title:corpus] + message[vernacular : message.index(_ORDER, vernacular)]
        ),
        retraction=retraction,
    )


def pack(state: State) -> bytes:
    """A state as `SIZE` bytes, which are never all zero."""
    return _LAYOUT.pack(
        _HELD | _DELETED * state.deleted,
        RETRACTIONS.index(state.retraction),
        min(state.version, MOST_VERSION),
        state.order,
        state.text,
        state.mesh,
        state.other,
    )


def unpack(packed: bytes) -> State:
    """The state in `SIZE` bytes. Raises `ValueError` for bytes that `pack` does not make."""
    try:
        flags, retraction, version, order, text, mesh, other = _LAYOUT.unpack(packed)
        if not flags & _HELD:
            raise ValueError("the bytes hold no state")
        return State(
            version=version,
            order=order,
            deleted=bool(flags & _DELETED),
            text=text,
            mesh=mesh,
            other=other,
            retraction=RETRACTIONS[retraction],
        )
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a packed state: {error}") from None


def decide(incoming: State, known: State | None) -> Change:
    """What an incoming citation, or deletion, is to what is known of its record.

    "new", "text", "mesh" and "other" say what has changed, in this order of weight; "unchanged",
    "older" than what is known, "deleted", or "reinstated" with the text that it had before.
    """
    if known is None:
        # A deletion of what is not known is kept too: an older file may bring the record later.
        return "deleted" if incoming.deleted else "new"
    if incoming.version < known.version:
        return "older"
    if incoming.version == known.version and 0 < incoming.order < known.order:
        return "older"
    if incoming.deleted:
        return "unchanged" if known.deleted else "deleted"
    if known.deleted:
        return "reinstated" if incoming.text == known.text else "new"
    if incoming.text != known.text:
        return "text"
    if incoming.mesh != known.mesh:
        return "mesh"
    if (incoming.other, incoming.version) != (known.other, known.version):
        return "other"
    return "unchanged"


def settle(incoming: State, known: State | None) -> State:
    """The state of the record after a citation that is not older than what is known."""
    if known is None:
        return incoming
    kept = known if incoming.deleted else incoming
    return State(
        version=incoming.version,
        # A source without an order is taken to be as late as the last file known.
        order=incoming.order or known.order,
        deleted=incoming.deleted,
        text=kept.text,
        mesh=kept.mesh,
        other=kept.other,
        retraction=incoming.retraction,
    )


def withdrawn(change: Change, before: State | None, after: State) -> tuple[bool, str | None]:
    """Whether a change alters how the rows made from the record stand, and why they do not stand.

    The reason is that of a `Retraction`; None where they stand.
    """
    if change == "deleted":
        return True, "deleted"
    was = before.retraction if before else None
    if after.retraction != was or (before and before.deleted):
        return True, after.retraction
    if before and after.mesh != before.mesh and not after.retraction:
        return True, MESH_CHANGED
    return False, None


def pack_pmids(pmids: Iterable[int]) -> str:
    """PMIDs as text: their sorted differences, compressed. Those of a baseline file take little."""
    ordered = sorted(set(pmids))
    steps = [after - before for before, after in zip([0, *ordered], ordered, strict=False)]
    return base64.b64encode(zlib.compress(orjson.dumps(steps), 9)).decode()


def unpack_pmids(packed: str) -> list[int]:
    """The PMIDs that `pack_pmids` packed, in rising order."""
    pmid, pmids = 0, []
    for step in orjson.loads(zlib.decompress(base64.b64decode(packed))):
        pmid += step
        pmids.append(pmid)
    return pmids


def _hash(data: bytes) -> int:
    """64 bits; never 0, which stands for nothing known."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") or 1
