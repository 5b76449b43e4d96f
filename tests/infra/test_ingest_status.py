"""What `kailin status` says of the ingest."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from engines import KafkaEngine, free_port
from fakes.ncbi_server import Fault, in_turn, running_ncbi
from fakes.pubmed_records import records
from infra.ingest_commands import ingest_entrez
from infra.ingest_status import read_status, render, summarise
from infra.settings import Kafka, Settings
from infra.settings_ingest import Ncbi
from streams.records import Progress, Unread

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
UNIT = Progress(
    id="nlm:baseline/pubmed26n0001.xml.gz",
    source="nlm",
    what="pubmed26n0001.xml.gz",
    state="done",
    position=100,
    announced=None,
    counts={"new": 98, "failed": 2},
    unread=(Unread(pmid=7, reason="no title"), Unread(pmid=None, reason="PMID")),
    at=NOW,
)
POLL = replace(
    UNIT, id="poll:nlm:updates", counts={}, unread=(), at=NOW - timedelta(hours=5, minutes=3)
)


def shown(*progress: Progress) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(summarise({p.id: p for p in progress}, NOW)))
    return console.export_text()


def test_how_far_behind_a_followed_source_is():
    text = shown(UNIT, POLL)
    assert "nlm:updates" in text
    assert "2026-11-24 06:57 UTC" in text
    assert "5 h" in text
    assert "1 files and windows done, 0 begun, 0 failed; citations: 98 new, 2 failed" in text


def test_what_failed_is_named_and_what_to_do():
    failed = replace(
        UNIT, id="x", what="asthma[mh]", state="failed", reason="efetch: 429: too many"
    )
    missing = (Unread(pmid=None, reason="missing: pubmed26n0007.xml.gz"),)
    text = shown(failed, replace(POLL, state="failed", reason="1 files failed", unread=missing))
    assert "failed asthma[mh]: efetch: 429: too many" in text
    assert "1 files failed; missing: pubmed26n0007.xml.gz" in text
    assert "kailin ingest retry" in text


def test_many_failures_are_summed_up():
    many = [replace(UNIT, id=str(n), what=f"f{n}", state="failed", reason="cut") for n in range(25)]
    text = shown(*many)
    assert "f9: cut" in text
    assert "f10: cut" not in text
    assert "and 15 more" in text


def test_without_a_broker_there_is_none(tmp_path: Path):
    assert read_status(Settings(data=tmp_path, kafka=Kafka(port=free_port()))) is None


@pytest.mark.kafka
def test_the_status_is_what_was_committed(kafka_broker: KafkaEngine, tmp_path: Path):
    with running_ncbi(records(30), limits=(1000, 1000)) as server:
        server.script = in_turn(*[Fault(status=500)] * 2, endpoint="efetch")
        settings = Settings(
            data=tmp_path,
            kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}."),
            ncbi=Ncbi(
                email="team@example.org",
                eutils=server.eutils,
                requests_per_second=100.0,
                attempts=2,
                retry_first=0.01,
            ),
        )
        nothing = read_status(settings)
        assert nothing is not None
        assert (nothing.done, nothing.followed) == (0, ())
        ingest_entrez(settings, "asthma", since=None, backfill=False, follow=False)
        failed = read_status(settings)
        assert failed is not None
        assert (failed.done, len(failed.failed)) == (0, 1)
        assert failed.followed[0].trouble == "1 windows failed"
        ingest_entrez(settings, "asthma", since=None, backfill=False, follow=False)
        mended = read_status(settings)
        assert mended is not None
        assert mended.failed == ()
        assert mended.citations["new"] == 30
        assert mended.followed[0].behind_seconds is not None
