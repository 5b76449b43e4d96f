"""Messages: what is written is read back, old messages stay readable, bad ones name their fault."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import records as example
from streams.citation import Article, Keyword
from streams.codec import UPGRADES, VERSIONS, decode, encode
from streams.errors import Invalid
from streams.operations import Control, Settled
from streams.records import (
    Cause,
    DeadLetter,
    Preference,
    Progress,
    Questions,
    Record,
    Retraction,
    Unread,
    type_names,
)

GOLDEN = Path(__file__).parent.parent / "golden"

EXAMPLES: list[Record] = [
    example.article(),
    example.questions(candidates=(example.candidate(), example.rejected("theta2"))),
    example.contexts(),
    example.alignments(alignments=(example.alignment(), example.unscored("theta2"))),
    example.preference(),
    example.ideal(),
    example.training_data(),
    example.job(),
    example.verdict(),
    example.serving(),
    example.spending(),
    DeadLetter(
        stage="generate",
        reason="field",
        detail="pmid: expected an integer",
        stack="",
        topic="pubmed.articles",
        partition=3,
        offset=12,
        key="MTAwMQ==",
        value="e30=",
        headers=(("trace", "MQ=="),),
        cut=("key cut to 4 of 5 bytes",),
        first=Cause(
            stage="generate",
            reason="field",
            topic="pubmed.articles",
            partition=3,
            offset=7,
            at=datetime(2026, 3, 6, tzinfo=UTC),
        ),
        replays=1,
        at=datetime(2026, 3, 7, tzinfo=UTC),
    ),
    Settled(
        stage="generate",
        topic="pubmed.articles",
        partition=3,
        offset=12,
        letter=datetime(2026, 3, 7, tzinfo=UTC),
        how="replayed",
        who="ana",
        why="the prompt is mended",
        times=1,
        at=datetime(2026, 3, 8, tzinfo=UTC),
    ),
    Control(
        stage="generate",
        paused=True,
        who="ana",
        why="the teacher is being moved",
        at=datetime(2026, 3, 7, tzinfo=UTC),
    ),
    Retraction(
        pmid=1001,
        reason="MeSH changed",
        mesh=("D001241",),
        at=datetime(2026, 3, 7, tzinfo=UTC),
    ),
    Progress(
        id="nlm:updatefiles/pubmed26n1402.xml.gz",
        source="nlm",
        what="pubmed26n1402.xml.gz",
        state="failed",
        position=1200,
        announced=None,
        counts={"new": 1100, "deleted": 98, "failed": 2},
        unread=(Unread(pmid=7, reason="no Article"), Unread(pmid=None, reason="PMID")),
        reason="file: 429: too many requests",
        at=datetime(2026, 3, 7, tzinfo=UTC),
    ),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda r: type_names[type(r)])
def test_a_record_is_read_back_as_it_was_written(record):
    assert decode(type(record), encode(record)) == record


@given(
    pmid=st.integers(1, 10**9),
    title=st.text(),
    arrived=st.datetimes(timezones=st.just(UTC)),
    corpus=st.booleans(),
    keywords=st.lists(
        st.builds(Keyword, text=st.text(), owner=st.text(), major=st.booleans()), max_size=4
    ).map(tuple),
    doi=st.none() | st.text(),
)
def test_any_article_is_read_back_as_it_was_written(pmid, **fields):
    article = example.article(pmid, **fields)
    assert decode(Article, encode(article)) == article


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda p: p.stem)
def test_messages_of_every_version_stay_readable(path):
    """A golden file is a message as it was once written; it is never edited, only added to."""
    name, _, version = path.stem.rpartition("-")
    record = next(record for record, known in type_names.items() if known == name)
    message = path.read_bytes()
    assert orjson.loads(message)["schema"] == f"{name}/{version}"
    decoded = decode(record, message)
    if int(version) == VERSIONS[name]:
        assert holds(orjson.loads(encode(decoded)), orjson.loads(message))


def holds(written: Any, once: Any) -> bool:
    """Whether what is written now says all that was once written; it may say more."""
    if isinstance(once, dict):
        return all(name in written and holds(written[name], once[name]) for name in once)
    if isinstance(once, list):
        return len(written) == len(once) and all(map(holds, written, once))
    return written == once


def test_there_is_a_golden_message_of_every_version_of_every_record():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {
        f"{name}-{version}" for name, newest in VERSIONS.items() for version in range(1, newest + 1)
    }


def test_a_message_of_an_older_version_is_upgraded_step_by_step(monkeypatch):
    monkeypatch.setitem(VERSIONS, "article", 3)
    monkeypatch.setitem(UPGRADES, ("article", 1), lambda f: {**f, "title": f["title"] + " one"})
    monkeypatch.setitem(UPGRADES, ("article", 2), lambda f: {**f, "title": f["title"] + " two"})
    message = encode(example.article(title="T")).replace(b"article/3", b"article/1")
    assert decode(Article, message).title == "T one two"


def test_keywords_were_those_of_the_authors_only():
    article = decode(Article, (GOLDEN / "article-1.json").read_bytes())
    assert article.keywords == (
        Keyword(text="aspirin", owner="NOTNLM"),
        Keyword(text="platelets", owner="NOTNLM"),
    )
    assert (article.authors, article.corrections, article.retraction) == ((), (), None)


@pytest.mark.parametrize("keywords", [None, 1, "aspirin", [1], [None], [["aspirin"]]])
def test_a_message_that_was_wrong_in_its_own_version_is_refused(keywords):
    fields = orjson.loads((GOLDEN / "article-1.json").read_bytes())
    with pytest.raises(Invalid, match="keywords"):
        decode(Article, orjson.dumps(fields | {"keywords": keywords}))


def test_a_field_that_is_not_known_yet_is_passed_over():
    message = orjson.dumps({**orjson.loads(encode(example.questions())), "added_later": 1})
    assert decode(Questions, message) == example.questions()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"pmid": "1001"}, "pmid"),
        ({"pmid": 0}, "pmid"),
        ({"title": None}, "title"),
        ({"mesh": [{"ui": "D1", "name": "A", "major": "yes"}]}, "mesh.0.major"),
        ({"arrived": "yesterday"}, "arrived"),
        ({"sections": "text"}, "sections"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(change, path):
    message = orjson.dumps({**orjson.loads(encode(example.article())), **change})
    with pytest.raises(Invalid) as caught:
        decode(Article, message)
    assert caught.value.reason == "field"
    assert caught.value.detail.startswith(f"{path}: ")


def integers(fields: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all integers in a JSON value."""
    if isinstance(fields, dict | list):
        items = fields.items() if isinstance(fields, dict) else enumerate(fields)
        for name, value in items:
            yield from integers(value, (*path, name))
    elif type(fields) is int:
        yield path


@pytest.mark.parametrize(
    ("record", "path"),
    [
        pytest.param(r, path, id=f"{type_names[type(r)]}: {'.'.join(map(str, path))}")
        for r in EXAMPLES
        for path in integers(orjson.loads(encode(r)))
    ],
)
def test_an_integer_is_one_that_can_be_written_on_or_refused(record, path):
    for number in (2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, 10**300):
        fields = json.loads(encode(record))
        held = fields
        for step in path[:-1]:
            held = held[step]
        held[path[-1]] = number
        message = json.dumps(fields).encode()
        if -(2**63) <= number < 2**63 and path[-1] != "pmid":
            read = decode(type(record), message)
            assert decode(type(record), encode(read)) == read
        else:
            with pytest.raises(Invalid, match=re.escape(".".join(map(str, path)))):
                decode(type(record), message)


@pytest.mark.parametrize(
    ("record", "holder"),
    [
        (example.article(), ()),
        (example.questions(), ("source",)),
        (example.contexts(), ("retrievals", 0, "passages", 0)),
    ],
)
def test_more_descriptors_than_a_record_can_have_are_refused(record, holder):
    """Scoring takes as long as the product of the numbers of descriptors."""
    fields = orjson.loads(encode(record))
    held = fields
    for step in holder:
        held = held[step]
    held["mesh"] = held["mesh"][:1] * 1000
    decode(type(record), orjson.dumps(fields))
    held["mesh"] += held["mesh"][:1]
    with pytest.raises(Invalid, match=r"mesh: .*at most 1000"):
        decode(type(record), orjson.dumps(fields))


def test_a_score_out_of_range_is_refused():
    message = orjson.loads(encode(example.preference()))
    message["alignments"][1]["score"] = 1.5
    with pytest.raises(Invalid, match=r"alignments\.1\.score"):
        decode(Preference, orjson.dumps(message))


def test_a_missing_field_is_named():
    message = orjson.loads(encode(example.article()))
    del message["title"]
    with pytest.raises(Invalid, match="title: Field required"):
        decode(Article, orjson.dumps(message))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "not JSON"),
        (b'{"pmid": NaN}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"pmid": 1}', "schema"),
        (b'{"schema": "questions/1"}', "schema"),
        (b'{"schema": "article/99"}', "schema"),
        (b'{"schema": "article/-1"}', "schema"),
        (b'{"schema": "article/' + b"9" * 5000 + b'"}', "schema"),
        (b'{"schema": "article/000000001' + b"9" * 4400 + b'"}', "schema"),
        (b'{"schema": "article/01"}', "schema"),
        (b'{"schema": "article/0000000019"}', "schema"),
        (b'{"schema": 1}', "schema"),
        (b'{"schema": "article/1"}', "field"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(message, reason):
    with pytest.raises(Invalid) as caught:
        decode(Article, message)
    assert caught.value.reason == reason


@given(st.binary())
def test_bytes_decode_to_a_record_or_are_invalid(message):
    with pytest.raises(Invalid):
        decode(Article, message)
