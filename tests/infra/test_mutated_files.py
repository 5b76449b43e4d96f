"""Mutated PubMed XML: what is whole in a file is read, what is not is named, nothing else happens.

MUTANTS=100000 .venv/bin/pytest tests/infra/test_mutated_files.py     # as `make soak` does
"""

import os
import random
import re
from collections import Counter
from pathlib import Path

from consumers.delivery import key_and_value
from fakes.mutants import mutant_entry, mutant_file
from fakes.pubmed import parse, parse_until_damage
from infra.arrivals import portion
from infra.pubmed_xml import DamagedFile, Entry
from streams.citation import Article
from streams.codec import decode
from streams.errors import Invalid
from streams.topics import ARTICLES

MUTANTS = int(os.environ.get("MUTANTS", "5000"))
SEED = int(os.environ.get("FAULTS_SEED", "20261127"))
SAMPLE = Path(__file__).parent.parent / "data" / "pubmed_sample.xml"
ENTRIES = re.findall(rb"<PubmedArticle>.*?</PubmedArticle>", SAMPLE.read_bytes(), re.DOTALL)
# What begins so hides what follows.
OPENERS = (b"<!", b"<?")


def read(document: bytes) -> list[Entry]:
    """What is in a file, up to where it is damaged; all of it can be published and read again."""
    try:
        entries = parse(document)
    except DamagedFile:
        entries, damage = parse_until_damage(document)
        assert str(damage).startswith("some.xml: ")
        assert "\n" not in str(damage)
    made = portion(entries)
    assert made.entries == len(entries)
    assert all(unread.reason for unread in made.unread)
    for entry in (entry for entry in entries if isinstance(entry, Article)):
        try:
            _, message = key_and_value(ARTICLES, entry, ARTICLES.name)
        except Invalid:  # too large, as the writer says
            continue
        assert decode(Article, message) == entry
    return entries


def whole(entry: bytes) -> int:
    """The PMID of a sound entry."""
    (article,) = parse(b"<PubmedArticleSet>" + entry + b"</PubmedArticleSet>")
    assert isinstance(article, Article)
    return article.pmid


def test_a_mutated_entry_is_read_or_named_and_costs_no_other():
    dice = random.Random(SEED)
    pmids = [whole(entry) for entry in ENTRIES]
    fates: Counter[str] = Counter()
    for number in range(MUTANTS):
        first, bad, last = dice.choices(range(len(ENTRIES)), k=3)
        damaged = mutant_entry(ENTRIES[bad], dice)
        document = b"<PubmedArticleSet>%b%b%b</PubmedArticleSet>"
        try:
            entries = read(document % (ENTRIES[first], damaged, ENTRIES[last]))
            fates.update(type(entry).__name__ for entry in entries[1:-1])
            if any(damaged.count(opener) > ENTRIES[bad].count(opener) for opener in OPENERS):
                continue
            found = [entry.pmid for entry in entries if isinstance(entry, Article)]
            assert (found[0], found[-1]) == (pmids[first], pmids[last])
            assert len(entries) >= 3
        except Exception as fault:
            fault.add_note(f"seed {SEED}, mutant {number}: {damaged[:3000]!r}")
            raise
    print(dict(fates))
    assert min(fates["Article"], fates["Skipped"]) > MUTANTS / 10


def test_a_mutated_file_is_read_up_to_its_damage():
    dice = random.Random(SEED)
    head = b'<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>'
    sound = head + b"".join(ENTRIES) + b"</PubmedArticleSet>"
    most = 0
    for number in range(MUTANTS // 10):
        document = mutant_file(sound, dice)
        try:
            most = max(most, len(read(document)))
        except Exception as fault:
            fault.add_note(f"seed {SEED}, mutant {number}: {len(document)} bytes")
            raise
    assert most >= len(ENTRIES) - 1
