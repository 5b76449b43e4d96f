"""`kailin ingest nlm` on a real broker and a server with NLM's file tree."""

import gzip
import re
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from engines import KafkaEngine
from fakes.ncbi_server import Fault, NcbiServer, at_random, in_turn, running_ncbi
from fakes.pubmed_records import Record, records
from infra.ingest_commands import ingest_nlm, retry
from infra.settings import Kafka, Settings
from infra.settings_ingest import Ncbi
from published import published

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_broker: KafkaEngine, tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        kafka=Kafka(bootstrap=kafka_broker.bootstrap, prefix=f"t{uuid.uuid4().hex[:8]}."),
    )


def asking(settings: Settings, server: NcbiServer, **ncbi: object) -> Settings:
    options = {
        "eutils": server.eutils,
        "files": server.files,
        "requests_per_second": 200.0,
        "attempts": 6,
        "retry_first": 0.01,
        "retry_longest": 0.05,
        "timeout": 2.0,
        **ncbi,
    }
    return settings.model_copy(update={"ncbi": Ncbi(**options)})


def nlm(settings: Settings, *, baseline: bool = True, updates: bool = True) -> int:
    return ingest_nlm(settings, baseline=baseline, updates=updates, follow=False)


def name(number: int, year: int = 26) -> str:
    return f"pubmed{year}n{number:04}.xml.gz"


def fill(server: NcbiServer, year: int = 26, gone: set[int] = frozenset()) -> None:
    """A baseline of two files with PMIDs 1 to 200 but for `gone`, and two update files."""
    server.tree = {}
    held = [record for record in records(200) if record.pmid not in gone]
    server.publish("baseline", name(1, year), held[:100])
    server.publish("baseline", name(2, year), held[100:])
    server.publish("updatefiles", name(3, year), [replace(held[0], title="Revised.")])
    server.publish("updatefiles", name(4, year), records(3, first_pmid=900), [(7, 1), (8, 1)])


def test_files_are_applied_once_and_in_order(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi() as server:
        fill(server)
        asked = asking(settings, server)
        assert nlm(asked) == 0
        found = published(settings)
        assert found.changes(1) == ["new", "text"]
        assert found.changes(7) == ["new", "deleted"]
        assert found.alive().keys() == {*range(1, 201), 900, 901, 902} - {7, 8}
        # The baseline is searched, what comes after it is asked about.
        assert [state.corpus for state in found.states[1] if state] == [True, False]
        assert [state.corpus for state in found.states[900] if state] == [False]
        capsys.readouterr()
        server.asked.clear()
        server.publish("updatefiles", name(5), records(1, first_pmid=950))
        assert nlm(asked) == 0
        assert "1 citations: 1 new" in capsys.readouterr().err
        assert sum(a.endpoint.endswith(".gz") for a in server.asked) == 1
        assert not list((settings.data / "nlm").iterdir())


def test_a_gap_in_the_sequence_is_named_and_what_comes_late_is_put_in_its_place(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi() as server:
        server.publish("updatefiles", name(3), [Record(pmid=1, title="First.")])
        server.publish("updatefiles", name(5), [Record(pmid=1, title="Third.")], [(2, 1)])
        asked = asking(settings, server)
        assert nlm(asked, baseline=False) == 0
        assert f"{name(4)} is missing" in capsys.readouterr().err
        poll = published(settings).progress["poll:nlm:updates"]
        assert [unread.reason for unread in poll.unread] == [f"missing: {name(4)}"]
        late = [Record(pmid=pmid, title="Second.") for pmid in (1, 2, 3)]
        server.publish("updatefiles", name(4), late)
        assert nlm(asked, baseline=False) == 0
        found = published(settings)
        assert [state and state.title for state in found.states[1]] == ["First.", "Third."]
        assert found.alive().keys() == {1, 3}
        assert "missing" not in capsys.readouterr().err
        assert found.progress["poll:nlm:updates"].unread == ()


def test_a_record_that_a_new_baseline_holds_unreadably_is_kept(settings: Settings):
    with running_ncbi() as server:
        fill(server)
        asked = asking(settings, server)
        assert nlm(asked) == 0
        fill(server, year=27, gone={5})
        whole = gzip.decompress(server.tree[f"baseline/{name(1, 27)}"])
        # No article in it, so that it makes no record.
        rest = re.compile(rb"(<PMID[^>]*>6</PMID>).*?(</MedlineCitation>)", re.DOTALL)
        broken = rest.sub(rb"\1\2", whole, count=1)
        assert broken != whole
        server.publish("baseline", name(1, 27), content=gzip.compress(broken))
        assert nlm(asked) == 1
        alive = published(settings).alive()
        assert 5 not in alive
        assert 6 in alive


def test_a_new_baseline_removes_what_it_no_longer_holds(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi() as server:
        fill(server)
        asked = asking(settings, server)
        assert nlm(asked) == 0
        fill(server, year=27, gone={5, 150})
        whole = server.tree
        server.tree = {path: c for path, c in whole.items() if "updatefiles" not in path}
        assert nlm(asked) == 0
        # For all that is known, NLM is still writing this baseline.
        assert "deleted once it is whole" in capsys.readouterr().err
        assert {5, 150} <= published(settings).alive().keys()
        server.tree = whole
        assert nlm(asked) == 0
        found = published(settings)
        assert {5, 150} & found.alive().keys() == set()
        assert found.changes(5) == ["new", "deleted"]
        assert found.retractions[150].reason == "deleted"
        # 900 to 902 were in last year's update files and are in no baseline of this year.
        assert found.alive().keys() == {*range(1, 201), 900, 901, 902} - {5, 7, 8, 150}
        assert found.changes(900) == ["new", "deleted", "reinstated"]
        assert all(progress.held is None for progress in found.progress.values())
        assert nlm(asked) == 0
        assert published(settings).changes(5) == ["new", "deleted"]


def test_what_comes_after_an_update_file_that_failed_waits_for_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi() as server:
        server.publish("updatefiles", name(3), [Record(pmid=1, title="First.")])
        server.publish("updatefiles", name(4), [], [(1, 1)])
        server.publish("updatefiles", name(5), [Record(pmid=1, title="First.")])
        server.script = in_turn(*[Fault(status=503)] * 6, endpoint=name(4))
        asked = asking(settings, server)
        assert nlm(asked, baseline=False) == 1
        assert f"1 files wait for {name(4)}" in capsys.readouterr().err
        assert published(settings).changes(1) == ["new"]
        assert nlm(asked, baseline=False) == 0
        assert published(settings).changes(1) == ["new", "deleted", "reinstated"]


def test_a_baseline_file_that_cannot_be_had_is_listed_and_the_others_are_applied(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    with running_ncbi() as server:
        fill(server)
        server.script = in_turn(*[Fault(status=503)] * 6, endpoint=name(1))
        asked = asking(settings, server)
        assert nlm(asked) == 1
        assert "server error" in capsys.readouterr().err
        found = published(settings)
        assert found.progress[f"nlm:baseline/{name(1)}"].state == "failed"
        assert found.progress[f"nlm:baseline/{name(2)}"].state == "done"
        assert retry(asked) == 0
        found = published(settings)
        # Its file comes before the update files, whose states stand.
        assert found.alive().keys() == {*range(1, 201), 900, 901, 902} - {7, 8}
        assert [state and state.title for state in found.states[1]] == ["Revised."]


@pytest.mark.parametrize("seed", [3, 4])
def test_every_fault_at_random_for_a_whole_run(settings: Settings, seed: int):
    with running_ncbi() as server:
        fill(server)
        server.script = at_random(seed, 0.4, in_a_row=3, wait=0.01)
        assert nlm(asking(settings, server, timeout=0.5, attempts=8)) == 0
        found = published(settings)
        assert found.alive().keys() == {*range(1, 201), 900, 901, 902} - {7, 8}
        assert found.changes(1) == ["new", "text"]
