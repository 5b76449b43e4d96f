"""Requests to NCBI for 10,000 records, against the least possible, on a scripted server.

    python tests/bench/ingest_requests.py [--batch 500]

The least is one esearch for each 9,999 hits, which is as far as it reaches, and one efetch a batch.
"""

import argparse
import asyncio
import sys
from collections import Counter
from datetime import date
from math import ceil
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from fakes.ncbi_server import running_ncbi  # noqa: E402
from fakes.pubmed_records import records  # noqa: E402
from infra.entrez import REACH, Entrez, Span, Window, answers, windows  # noqa: E402
from infra.ncbi_requests import Requests  # noqa: E402
from infra.settings_ingest import Ncbi  # noqa: E402

SHAPES = {"a month": (10_000, 30), "a day": (10_000, 1), "a year": (100_000, 365)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=500)
    batch = parser.parse_args().batch
    for shape, (count, days) in SHAPES.items():
        held = records(count, first=date(2025, 1, 1), days=days)
        with running_ncbi(held, limits=(10_000, 10_000)) as server:
            ncbi = Ncbi(
                email="bench@example.org",
                eutils=server.eutils,
                requests_per_second=1000.0,
                batch=batch,
            )
            got = asyncio.run(read(ncbi))
            made = Counter(asked.endpoint for asked in server.asked)
        least = ceil(count / REACH) + ceil(count / batch)
        each = 10_000 / count
        print(
            f"{count:,} records of {shape}: {made.total() * each:.1f} requests per 10,000 "
            f"({dict(made)}), least {least * each:.1f}: ratio {made.total() / least:.2f}"
        )
        if got != count:
            raise SystemExit(f"{got:,} records were read")


async def read(ncbi: Ncbi) -> int:
    got = 0
    async with Requests(ncbi, lambda *_: None) as requests:
        entrez = Entrez(requests)
        span = Span("asthma", "edat", date(1900, 1, 1), date(2026, 12, 31))
        async for window in windows(entrez, span):
            if isinstance(window, Window):
                async for answer in answers(entrez, window.found):
                    got += len(answer.given)
    return got


if __name__ == "__main__":
    main()
