"""`kailin ingest entrez` and `pmids`, on a real broker and a server that behaves like NCBI.

The sum is exact: what esearch announced is what was published, was known already, or is listed.
"""

import os
import signal
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from engines import KafkaEngine
from fakes.ncbi_server import Asked, Fault, NcbiServer, at_random, in_turn, running_ncbi
from fakes.pubmed_records import Record, records
from infra.ingest_commands import ingest_entrez, ingest_pmids, retry
from infra.settings import Kafka, Settings
from infra.settings_ingest import Ncbi
from published import Published, published
from streams.records import Progress

pytestmark = pytest.mark.kafka

TODAY = datetime.now(UTC).date()


@pytest.fixture
def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}."),
    )


def asking(settings: Settings, server: NcbiServer, **ncbi: object) -> Settings:
    """The settings, for this server, and a client that is in no need to wait."""
    options = {
        "email": "team@example.org",
        "eutils": server.eutils,
        "files": server.files,
        "requests_per_second": 200.0,
        "attempts": 6,
        "retry_first": 0.01,
        "retry_longest": 0.05,
        "timeout": 5.0,
        "batch": 2000,
        **ncbi,
    }
    return settings.model_copy(update={"ncbi": Ncbi(**options)})


def entrez(settings: Settings, query: str = "asthma", since: date | None = None) -> int:
    return ingest_entrez(settings, query, since=since, backfill=False, follow=False)


def windows(found: Published) -> list[Progress]:
    return [p for p in found.progress.values() if p.id.startswith("entrez:")]


def assert_exact(found: Published, server: NcbiServer) -> None:
    """Each of the server's records is there once, in its newest version, and none else."""
    held = server.holdings.all
    assert found.alive() == {pmid: record.version for pmid, record in held.items()}
    for window in windows(found):
        assert window.state == "done"
        assert sum(window.counts.values()) == window.announced == window.position


def fast(server: NcbiServer) -> NcbiServer:
    server.limits = (10_000, 10_000)
    return server


def test_25000_records_of_one_query_come_in_windows_that_are_never_cut(settings: Settings):
    with running_ncbi(records(25_000, first=date(2025, 11, 1), days=200)) as server:
        assert entrez(asking(settings, fast(server))) == 0
        found = published(settings)
        assert_exact(found, server)
        assert sum(w.counts.get("new", 0) for w in windows(found)) == 25_000
        assert max(w.announced or 0 for w in windows(found)) <= 9_999
        # esearch and splits aside, one efetch a batch.
        fetches = sum(asked.endpoint == "efetch" for asked in server.asked)
        assert fetches <= 25_000 / 2000 + len(windows(found))


def test_a_day_with_12000_records_is_split_by_pmid(settings: Settings):
    with running_ncbi(records(12_000, first=date(2026, 5, 5))) as server:
        assert entrez(asking(settings, fast(server))) == 0
        found = published(settings)
        assert_exact(found, server)
        assert sum(w.announced or 0 for w in windows(found)) == 12_000


def test_a_second_run_reads_only_what_is_new_or_changed(settings: Settings):
    old = records(300, first=TODAY - timedelta(days=30), days=25)
    with running_ncbi(old) as server:
        asked = asking(settings, fast(server), batch=50)
        assert entrez(asked) == 0
        server.asked.clear()
        server.holdings.put(
            *records(5, first_pmid=1000, first=TODAY),
            replace(old[7], title="Asthma, revised.", mdat=TODAY),
            replace(old[8], version=2, mdat=TODAY),
        )
        assert entrez(asked) == 0
        found = published(settings)
        assert_exact(found, server)
        assert found.changes(old[7].pmid) == ["new", "text"]
        assert found.changes(old[8].pmid) == ["new", "other"]
        assert found.changes(old[9].pmid) == ["new"]
        assert found.changes(1000) == ["new"]
        # Two windows, what is new, what has changed: nothing of the 300 is fetched again.
        assert sum(a.endpoint == "efetch" for a in server.asked) <= 2
        assert len(server.asked) <= 5


def test_a_record_that_entered_and_changed_within_the_overlap_is_read_again(settings: Settings):
    old = records(20, first=TODAY)
    with running_ncbi(old) as server:
        asked = asking(settings, fast(server))
        assert entrez(asked) == 0
        server.holdings.put(replace(old[4], title="Asthma, revised.", mdat=TODAY))
        assert entrez(asked) == 0
        assert published(settings).changes(old[4].pmid) == ["new", "text"]


def test_an_interrupted_first_run_is_gone_on_with_and_leaves_no_gap(settings: Settings):
    """A later run, of a few days only, must not take the rest for read."""
    with running_ncbi(records(12_000, first=date(2026, 1, 1), days=200)) as server:
        asked = asking(settings, fast(server))

        def stopping(asked: Asked) -> Fault | None:
            if asked.endpoint == "efetch" and asked.number > 12:
                os.kill(os.getpid(), signal.SIGINT)
            return None

        server.script = stopping
        assert entrez(asked) == 1
        before = published(settings).alive()
        assert 0 < len(before) < 12_000
        server.script = lambda _: None
        server.asked.clear()
        assert entrez(asked, since=TODAY) == 0
        assert_exact(published(settings), server)
        # What was read is not read again.
        fetched = sum(a.endpoint == "efetch" for a in server.asked)
        assert fetched <= (12_000 - len(before)) / 2000 + 4


def test_a_window_that_fails_is_listed_and_read_by_a_retry(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi(records(40, first=TODAY)) as server:
        fast(server).script = lambda asked: (
            Fault(status=503) if asked.endpoint == "efetch" else None
        )
        asked = asking(settings, server)
        assert entrez(asked) == 1
        found = published(settings)
        (failed,) = [p for p in windows(found) if p.state == "failed"]
        assert failed.announced == 40
        assert "server error" in (failed.reason or "")
        assert "server error" in capsys.readouterr().err
        server.script = lambda _: None
        assert retry(asked) == 0
        assert_exact(published(settings), server)


def test_a_citation_that_ncbi_does_not_give_is_listed_by_pmid(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wanted = tmp_path / "pmids.txt"
    wanted.write_text("1 # a remark\n2\n\n777\n3\n2\n")
    with running_ncbi(records(3)) as server:
        asked = asking(settings, fast(server))
        assert ingest_pmids(wanted, asked, False) == 1
        assert "PMID 777: NCBI does not give it" in capsys.readouterr().err
        found = published(settings)
        assert found.alive() == {1: 1, 2: 1, 3: 1}
        (progress,) = found.progress.values()
        assert [u.pmid for u in progress.unread] == [777]
        assert sum(progress.counts.values()) == progress.announced == 4
        server.holdings.put(Record(pmid=777, edat=TODAY))
        assert retry(asked) == 0
        found = published(settings)
        assert found.alive() == {1: 1, 2: 1, 3: 1, 777: 1}
        (progress,) = found.progress.values()
        assert progress.unread == ()
        assert progress.counts == {"new": 4, "failed": 0}


@pytest.mark.parametrize("seed", [1, 2])
def test_every_fault_at_random_for_a_whole_run(settings: Settings, seed: int):
    with running_ncbi(records(2500, first=TODAY - timedelta(days=40), days=39)) as server:
        fast(server).script = at_random(seed, 0.4, in_a_row=3, wait=0.01)
        assert entrez(asking(settings, server, batch=100, timeout=0.5)) == 0
        assert_exact(published(settings), server)


def test_a_source_that_changes_while_it_is_read(settings: Settings):
    with running_ncbi(records(1000, first=TODAY)) as server:
        fast(server)

        def changing(asked: Asked) -> Fault | None:
            if asked.endpoint == "efetch" and asked.number % 3 == 0:
                server.holdings.delete(asked.number)
                server.holdings.put(
                    Record(pmid=5000 + asked.number, title="Asthma.", edat=TODAY, mdat=TODAY)
                )
            return None

        server.script = changing
        asked = asking(settings, server, batch=50)
        entrez(asked)
        server.script = lambda _: None
        # What came meanwhile, and what was not given any more, is settled by the next run.
        entrez(asked)
        found = published(settings)
        held = server.holdings.all
        gone = {u.pmid for p in found.progress.values() for u in p.unread}
        assert held.keys() <= found.alive().keys()
        assert (found.alive().keys() - held.keys()) | gone <= set(range(1, 1000))
        for window in windows(found):
            assert sum(window.counts.values()) == window.announced


def test_history_that_expires_half_way(settings: Settings):
    with running_ncbi(records(1000, first=TODAY)) as server:
        expiring = [None, Fault(expired=True), None, Fault(expired=True)]
        fast(server).script = in_turn(*expiring, endpoint="efetch")
        assert entrez(asking(settings, server, batch=100)) == 0
        assert_exact(published(settings), server)
        assert sum(a.endpoint == "epost" for a in server.asked) == 2


def test_without_an_email_it_refuses_with_one_line(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    assert entrez(settings) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("ncbi.email")]


@pytest.mark.parametrize(
    ("content", "said"), [("12\nx12\n", "line 2: expected a PMID"), ("# none\n", "holds no PMID")]
)
def test_a_wrong_list_of_pmids_is_one_line(
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    said: str,
):
    path = tmp_path / "list.txt"
    path.write_text(content)
    assert ingest_pmids(path, settings, False) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
