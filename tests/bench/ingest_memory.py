"""Memory of an ingest over a million records, of both its processes.

    python tests/bench/ingest_memory.py [--records 1000000]

Generated NLM files of 50,000 citations are ingested one after the other, on a real broker, and
after each the resident memory of both processes is told. What is known of the records grows by
some 40 bytes a record; all else is flat.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import psutil  # noqa: E402

from engines import running_kafka  # noqa: E402

IN_A_FILE = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    files = parser.parse_args().records // IN_A_FILE
    with (
        tempfile.TemporaryDirectory() as directory,
        running_kafka(Path(directory) / "kafka", java=()) as kafka,
    ):
        base = Path(directory)
        for number in range(files):
            write(base / "files" / f"pubmed26n{number + 1:04}.xml.gz", number)
        config = base / "kailin.toml"
        config.write_text(f'data = "{base}/data"\n[kafka]\nbootstrap = "{kafka.bootstrap}"\n')
        process = subprocess.Popen(
            (
                *(sys.executable, "-m", "infra.cli", "-c", str(config)),
                *("ingest", "files", str(base / "files")),
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        most = watch(process)
        last = process.stderr.read().splitlines()[-1] if process.stderr else ""
        process.wait()
        print(last)
        print(f"first quarter: at most {max(most[: len(most) // 4]):.0f} MB, both processes")
        print(f"last quarter: at most {max(most[-(len(most) // 4) :]):.0f} MB, both processes")


def watch(process: "subprocess.Popen[str]") -> list[float]:
    """Resident memory of both, in MB, once a second until the end; told every ten seconds."""
    seen: list[float] = []
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            held = [p.memory_info().rss for p in (parent, *parent.children())]
        except psutil.Error:
            continue
        seen.append(sum(held) / 1e6)
        if len(seen) % 10 == 0:
            print(f"{len(seen):4} s  " + "  ".join(f"{m / 1e6:6.0f} MB" for m in held), flush=True)
        time.sleep(1)
    return seen


def write(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "Aggregation of platelets fell by half within a week of treatment. " * 12
    with gzip.open(path, "wt", compresslevel=1) as out:
        out.write("<PubmedArticleSet>\n")
        for pmid in range(number * IN_A_FILE + 1, (number + 1) * IN_A_FILE + 1):
            out.write(
                f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article><Journal>'
                f"<Title>J</Title></Journal><ArticleTitle>Trial {pmid}.</ArticleTitle><Abstract>"
                f"<AbstractText>{text}</AbstractText></Abstract></Article><MeshHeadingList>"
                '<MeshHeading><DescriptorName UI="D001241">Aspirin</DescriptorName></MeshHeading>'
                "</MeshHeadingList></MedlineCitation></PubmedArticle>\n"
            )
        out.write("</PubmedArticleSet>\n")


if __name__ == "__main__":
    main()
