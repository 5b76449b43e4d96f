"""Hostile PubMed XML: bombs, entities, endless entries, wrong bytes. The rest of it is read."""

import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fakes.pubmed import citation, document, numbered, parse, parse_until_damage
from infra.pubmed_cut import MOST
from infra.pubmed_xml import Skipped
from streams.citation import Article

# What a child that reads a file with nothing wrong in it may grow by, and one that reads any.
CALM, ANY = 30_000_000, 900_000_000
MEGABYTE = b"many words here " * 65536

CHILD = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from infra.pubmed_xml import DamagedFile, Skipped, read_file

def peak():  # getrusage tells the parent's too
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

before, found, skipped, damage = peak(), 0, [], ""
try:
    for entry in read_file(Path(sys.argv[1]), corpus=True, arrived=datetime.now(UTC)):
        if isinstance(entry, Skipped):
            skipped.append([entry.number, entry.pmid, entry.reason])
        else:
            found += 1
except DamagedFile as error:
    damage = str(error)
print(json.dumps([found, skipped, damage, peak() - before]))
"""


def read_in_child(path: Path, content: Iterator[bytes]) -> tuple[int, list[list[str]], str, int]:
    """Records, entries skipped, damage and how much memory it took, of gzipped content."""
    packer = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        for part in content:
            file.write(packer.compress(part))
        file.write(packer.flush())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], check=True, capture_output=True, timeout=120
    )
    found, skipped, damage, grown = json.loads(done.stdout)
    return found, skipped, damage, grown


def between(inside: Iterator[bytes]) -> Iterator[bytes]:
    """A document of 50 citations, one of PMID 7 with this in its abstract, and 50 more."""
    before, _, after = citation(abstract="<Abstract>|</Abstract>").partition("|")
    yield b"<PubmedArticleSet>" + numbered(range(101, 151)).encode() + before.encode()
    yield from inside
    yield after.encode() + numbered(range(151, 201)).encode() + b"</PubmedArticleSet>"


def repeated(part: bytes, size: int) -> Iterator[bytes]:
    block = part * (MOST // 16 // len(part))
    for _ in range(size // len(block)):
        yield block


def a_long_text(size: int) -> Iterator[bytes]:
    yield b"<AbstractText>"
    yield from repeated(MEGABYTE, size)
    yield b"</AbstractText>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        pytest.param(a_long_text(200 * 2**20), "longer than", id="abstract of 200 MB"),
        pytest.param(a_long_text(2**30), "longer than", id="gzip bomb of 1 GB"),
        pytest.param(a_long_text(12 * 2**20), "line 50, column", id="text above 10 MB"),
        pytest.param(repeated(b"<AbstractText>", 2**23), "line 50, column", id="depth"),
        pytest.param(repeated(b"<a/>", 64 * 2**20), "longer than", id="tags alone, 64 MB"),
        pytest.param(repeated(b"<!-- x -->", 32 * 2**20), "longer than", id="comments, 32 MB"),
    ],
)
def test_an_endless_entry_is_skipped_in_bounded_memory(
    inside: Iterator[bytes], reason: str, tmp_path: Path
) -> None:
    found, skipped, damage, grown = read_in_child(tmp_path / "some.xml.gz", between(inside))
    assert (found, damage) == (100, "")
    ((number, pmid, why),) = skipped
    assert (number, pmid) == (51, 7)
    assert reason in why
    assert grown < 6 * MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        b"<AbstractText/>",
        b"<AbstractText>a</AbstractText>",
        b'<a b=""/>',
        b"<a/>",
        b"a<b/>",
        b"a<sup>1</sup>",
    ],
)
def test_an_entry_as_long_as_is_allowed_stays_within_the_bound(part: bytes, tmp_path: Path) -> None:
    inside = [b"<AbstractText>", *repeated(part, MOST - MOST // 8), b"</AbstractText>"]
    found, skipped, damage, grown = read_in_child(tmp_path / "some.xml.gz", between(iter(inside)))
    assert (found, skipped, damage) == (101, [], "")
    assert grown < ANY


def test_an_ordinary_file_takes_next_to_no_memory(tmp_path: Path) -> None:
    content = [b"<PubmedArticleSet>", numbered(range(1, 20_001)).encode(), b"</PubmedArticleSet>"]
    found, _, _, grown = read_in_child(tmp_path / "some.xml.gz", iter(content))
    assert found == 20_000
    assert grown < CALM


@pytest.mark.parametrize(
    ("start", "part", "problem"),
    [
        (b"", b" ", "expected one of"),
        (b"<!DOCTYPE x [", b"<!ENTITY a 'b'>", "expected one of"),
        (b"<PubmedArticleSet><PubmedArticle>", b"word ", "has no end"),
        (b"<PubmedArticleSet>", b"<!-- ", "has no end"),
    ],
)
def test_a_document_without_beginning_or_end_is_damage(
    start: bytes, part: bytes, problem: str, tmp_path: Path
) -> None:
    content = [start, *repeated(part, 2**27)]
    found, skipped, damage, grown = read_in_child(tmp_path / "some.xml.gz", iter(content))
    assert (found, skipped) == (0, [])
    assert problem in damage
    assert "\n" not in damage
    assert grown < 6 * MOST


def test_external_entities_are_not_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    doctype = f'<!DOCTYPE PubmedArticleSet [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    entries = parse(
        document(citation(title="<ArticleTitle>&x;</ArticleTitle>"), citation(), before=doctype)
    )
    assert isinstance(entries[0], Skipped)
    assert isinstance(entries[1], Article)
    assert "a secret" not in repr(entries)


@pytest.mark.parametrize(
    "bomb",
    [
        "<Abstract><AbstractText>&l9;</AbstractText></Abstract>",
        '<Abstract><AbstractText Label="&l9;">x</AbstractText></Abstract>',
    ],
)
def test_entities_that_grow_are_not_expanded(bomb: str) -> None:
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    doctype = f'<!DOCTYPE PubmedArticleSet [<!-- it\'s ]> --><!ENTITY l0 "ha">{laughs}]>'
    before, skipped, after = parse(
        document(citation(), citation(abstract=bomb), citation(), before=doctype)
    )
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert isinstance(skipped, Skipped)
    assert (skipped.pmid, "'l9' not defined" in skipped.reason) == (7, True)


@pytest.mark.parametrize(
    "wrong", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\0"]
)
def test_bytes_that_are_not_utf_8_cost_their_own_entry_only(wrong: bytes) -> None:
    raw = document(numbered(range(1, 4))).encode().replace(b"A title.", b"A title.", 1)
    second = raw.index(b"A title.", raw.index(b"<PMID>2<"))
    before, skipped, after = parse(raw[:second] + wrong + raw[second:])
    assert isinstance(before, Article)
    assert isinstance(after, Article)
    assert isinstance(skipped, Skipped)
    assert (before.pmid, skipped.pmid, after.pmid) == (1, 2, 3)


def test_utf_16_is_named() -> None:
    _, damage = parse_until_damage(document(citation()).encode("utf-16"))
    assert "expected UTF-8" in str(damage)


@pytest.mark.parametrize("hidden", ["<!--{}-->", "<![CDATA[{}]]>", "<?pi {}?>"])
@pytest.mark.parametrize("broken", ["", "<PubmedArticle><oops</PubmedArticle>"])
def test_what_looks_like_an_entry_but_is_hidden_is_none(hidden: str, broken: str) -> None:
    """In a well-formed document, and in what is well-formed of one that is not."""
    fake = citation(pmid="<PMID>666</PMID>")
    entry = citation(title=f"<ArticleTitle>a {hidden.format(fake)} b</ArticleTitle>")
    between = "" if "CDATA" in hidden else hidden.format(fake)  # where there may be no text
    entries = parse(document(entry, broken, between, entry))
    assert [entry.pmid for entry in entries if isinstance(entry, Article)] == [7, 7]
    assert sum(isinstance(entry, Skipped) for entry in entries) == bool(broken)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_entry_never_costs_another(data: st.DataObject) -> None:
    """Bytes of one of many entries are overwritten, all within it: the others are read."""
    before, after = numbered(range(1, 41)), numbered(range(42, 81))
    bad = bytearray(citation(pmid="<PMID>41</PMID>").encode())
    start, end = len("<PubmedArticle>"), len(bad) - len("</PubmedArticle>")
    at = data.draw(st.integers(start, end - 1))
    noise = data.draw(st.binary(min_size=1, max_size=min(20, end - at)))
    bad[at : at + len(noise)] = noise
    # A comment, CDATA section or instruction that is begun hides all that follows.
    assume(not any(opener in bad for opener in (b"<!", b"<?")))
    raw = f"<PubmedArticleSet>{before}".encode() + bad + f"{after}</PubmedArticleSet>".encode()
    read = [entry.pmid for entry in parse(raw) if isinstance(entry, Article)]
    assert [pmid for pmid in read if pmid <= 40] == list(range(1, 41))
    assert read[-39:] == list(range(42, 81))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_or_named(content: bytes, packed: bool) -> None:
    raw = b"<PubmedArticleSet><PubmedArticle>" + content
    _, damage = parse_until_damage(zlib.compress(raw, wbits=31) if packed else raw)
    assert str(damage).startswith("some.xml: line ")
