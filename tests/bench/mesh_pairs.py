"""MeSH pairs a second, a document against its context, on one core: ours and nxontology's.

    python tests/bench/mesh_pairs.py [PUBMED_XML] [--documents N] [--rounds N]

With a file (PubMed XML, plain or gzipped), documents and contexts are its records' own
descriptors, four records a context; without, descriptors are drawn from the hierarchy with a fixed
seed, 10 a document and 40 a context. nxontology scores a part of the same pairs, and the scores
must agree. It keeps what it once computed of a descriptor: "cold" is a new ontology, "warm" the
same pairs again. For us the first round over all pairs is cold and the best one warm. Time is CPU
time, so that other work on the machine counts for less.
"""
# ruff: noqa: E402

import argparse
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
from lxml import etree

from fakes.mesh import nxontology_of
from infra.artifacts import fetch_pypi
from infra.mesh_files import read_mesh
from infra.settings import Mesh as MeshSettings
from streams.mesh import Mesh
from streams.similarity import Similarity

Pair = tuple[tuple[str, ...], tuple[str, ...]]

K = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("xml", nargs="?", type=Path)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    started = time.process_time()
    default = MeshSettings()
    mesh = read_mesh(fetch_pypi(default.source), default.edition)
    read = time.process_time()
    ours = Similarity(mesh)
    print(
        f"MeSH {mesh.edition}: {len(mesh):,} descriptors read in {read - started:.2f} s, ", end=""
    )
    print(f"scorer made in {time.process_time() - read:.2f} s of CPU time")

    drawn = from_xml(options.xml, mesh) if options.xml else from_seed(mesh)
    pairs = list(islice(drawn, options.documents))
    terms = [(len(document), len(context)) for document, context in pairs]
    document, context = np.mean(terms, axis=0)
    print(
        f"{len(pairs):,} documents of {document:.1f} terms, contexts of {context:.1f}, "
        f"{sum(d * c for d, c in terms):,} pairs"
    )

    rates: dict[str, float] = {}
    for frequency in ("intrinsic", "kailin"):
        scorer = ours if frequency == "intrinsic" else Similarity(mesh, "kailin")
        rounds = [rate(scorer.document_score, pairs) for _ in range(options.rounds)]
        rates[frequency] = max(rounds)
        print(f"{frequency:10} cold {rounds[0]:14,.0f} pairs/s, warm {max(rounds):14,.0f} pairs/s")

    peer = Peer(mesh)
    part = pairs[:: max(len(pairs) // 20, 1)]
    cold, warm = rate(peer.document_score, part), rate(peer.document_score, part)
    print(f"{'nxontology':10} cold {cold:14,.0f} pairs/s, warm {warm:14,.0f} pairs/s")
    for pair in part:
        theirs, found = peer.document_score(*pair), ours.document_score(*pair)
        if found is None or abs(theirs - found) > 1e-9:
            sys.exit(f"scores differ: ours {found}, nxontology's {theirs}, of {pair}")
    best = rates["intrinsic"]
    print(f"ratio to nxontology: cold {best / cold:,.0f}, warm {best / warm:,.0f} (aim: 600)")


class Peer:
    """Equation 3 over nxontology's Lin, with its intrinsic IC."""

    def __init__(self, mesh: Mesh) -> None:
        self.ontology = nxontology_of(mesh)

    def document_score(self, document: Sequence[str], context: Sequence[str]) -> float:
        lin = [
            self.ontology.similarity(x, y, ic_metric="intrinsic_ic").lin
            for x in document
            for y in context
        ]
        return sum(lin) / len(lin)


def rate(score: Callable[[Sequence[str], Sequence[str]], object], pairs: Sequence[Pair]) -> float:
    started = time.process_time()
    for document, context in pairs:
        score(document, context)
    taken = time.process_time() - started
    return sum(len(document) * len(context) for document, context in pairs) / taken


def from_seed(mesh: Mesh) -> Iterator[Pair]:
    rng = np.random.default_rng(14)
    uis = [d.ui for d in mesh.descriptors if d.tree_numbers]
    while True:
        drawn = [uis[row] for row in rng.integers(len(uis), size=50)]
        yield tuple(drawn[:10]), tuple(drawn[10:])


def from_xml(path: Path, mesh: Mesh) -> Iterator[Pair]:
    """Each record against the four after it; records without a descriptor are left out."""
    records: list[tuple[str, ...]] = []
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for _, listed in etree.iterparse(file, tag="MeshHeadingList", resolve_entities=False):
            uis = [name.get("UI") for name in listed.iterfind("MeshHeading/DescriptorName")]
            known = tuple(dict.fromkeys(ui for ui in uis if ui in mesh.rows))
            listed.clear()
            if known:
                records.append(known)
            if len(records) > K:
                document, *context = records
                yield document, tuple(ui for record in context for ui in record)
                del records[0]


if __name__ == "__main__":
    main()
