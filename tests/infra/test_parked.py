"""What waits for MeSH goes on when it has come, whatever fails meanwhile, or leaves in the end."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from prometheus_client import CollectorRegistry

from consumers.answer import gate
from consumers.prefer import prefer
from consumers.score import score
from fakes import records as example
from fakes.entries import entry
from fakes.mesh import metals
from fakes.search import FakeLibrary
from infra import mesh_edition, parked
from infra.delta_sink import DeltaSink
from infra.parked import sweep, sweeping
from infra.settings import Settings
from infra.tables import PARKED, open_table, row_counts, select
from streams.citation import MeshHeading
from streams.errors import Invalid, Transient
from streams.metrics import Metrics
from streams.records import Contexts, Ideal, Preference
from streams.similarity import Similarity
from streams.topics import Topic

SCORER = Similarity(metals())
# Of the small edition: gold and copper.
MESH = ("D000006", "D000008")
# Of no edition.
UNKNOWN = ("D999998", "D999999")
NOW = example.ARRIVED + timedelta(days=40)


@dataclass
class Stream:
    """The tables, the index, and the stages after rescore, without Kafka between them."""

    settings: Settings
    library: FakeLibrary = field(default_factory=lambda: FakeLibrary(1))
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    published: list[Contexts | Preference | Ideal] = field(default_factory=list)
    scorer: Similarity = SCORER
    offset: int = 0
    failures: list[Exception] = field(default_factory=list)

    def append(self, *records: Preference | Ideal) -> None:
        sink = DeltaSink(self.settings, Metrics(CollectorRegistry()))
        sink.open()
        sink.append([entry(at, record) for at, record in enumerate(records, self.offset)])
        self.offset += len(records)

    def scored(self, *many: Contexts) -> None:
        """What score, prefer and append make of contexts."""
        alignments = [score(contexts, self.scorer) for contexts in many]
        self.append(*(prefer(each, 0.01) or gate(each, 0.5) for each in alignments))

    def arrive(self) -> None:
        """Whatever was published goes through the stages after."""
        for record in self.published:
            if isinstance(record, Contexts):
                self.scored(record)
            else:
                self.append(record)
        self.published.clear()

    async def index(self, pmid: int, mesh: tuple[str, ...], version: int = 1) -> None:
        headings = tuple(MeshHeading(ui=ui, name=ui) for ui in mesh)
        vector = np.ones(1, dtype=np.float32)
        await self.library.put(example.article(pmid, mesh=headings), vector, version=version)

    async def publish(self, topic: Topic, record: Contexts | Preference | Ideal) -> None:
        if self.failures:
            raise self.failures.pop()
        assert topic.record is type(record)
        self.published.append(record)

    async def sweep(self, now: datetime = NOW) -> None:
        await sweep(
            self.settings,
            lookup=self.library.lookup,
            publish=self.publish,
            metrics=self.metrics,
            now=now,
        )

    def rows(self, table: str) -> list[dict[str, Any]]:
        return select(self.settings, table, "select * from rows order by pmid, appended")

    def counts(self) -> tuple[int, int, int]:
        """Rows of `preferences`, `dropped` and `parked`."""
        counts = row_counts(self.settings)
        return counts["preferences"], counts["dropped"], counts["parked"]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"kailin_parked_{name}", labels)


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    mesh = {"edition": "test"}
    return Stream(Settings(data=tmp_path, tables=str(tmp_path / "tables"), mesh=mesh))


def waiting(pmid: int = 1001, mesh: tuple[str, ...] = (), **changes: Any) -> Contexts:
    """Contexts of which the first question's fit gold better than the second's."""
    gold, copper = (
        (example.passage(2000 + n, mesh=(f"D00000{ui}",)),) for n, ui in ((1, 6), (2, 8))
    )
    return example.contexts(
        pmid,
        source=example.source(pmid, mesh=mesh, **changes),
        retrievals=(
            example.retrieval("theta1", passages=gold),
            example.retrieval("theta2", passages=copper),
        ),
    )


def ideal(pmid: int = 1001, mesh: tuple[str, ...] = (), **changes: Any) -> Contexts:
    """Contexts of role ideal whose question's fit gold."""
    return replace(
        waiting(pmid, mesh, **changes),
        role="ideal",
        retrievals=(
            example.retrieval("theta3", passages=(example.passage(2001, mesh=("D000006",)),)),
        ),
    )


async def test_an_ideal_record_waits_and_goes_on_too(stream: Stream) -> None:
    stream.scored(ideal(1001), waiting(1002))
    await stream.index(1001, MESH[:1])
    assert stream.counts() == (0, 0, 2)

    await stream.sweep()
    assert [(c.source.pmid, c.role) for c in stream.published] == [(1001, "ideal")]
    stream.arrive()

    (row,) = stream.rows("ideal")
    assert (row["pmid"], row["mesh"], row["score"]) == (1001, list(MESH[:1]), 1.0)
    assert [parked["pmid"] for parked in stream.rows("parked")] == [1002]


async def test_an_ideal_record_that_went_on_before_is_only_taken_out(stream: Stream) -> None:
    stream.scored(ideal(1001))
    await stream.index(1001, MESH[:1])
    await stream.sweep()
    stream.arrive()
    stream.scored(ideal(1001))
    assert (len(stream.rows("ideal")), len(stream.rows("parked"))) == (1, 1)

    await stream.sweep()

    assert (stream.published, stream.rows("parked")) == ([], [])


async def test_an_ideal_row_under_other_mesh_keeps_the_answer_it_had(stream: Stream) -> None:
    answered = replace(ideal(mesh=MESH[:1]), answer=example.answer(decision="no"))
    stream.scored(answered)
    open_table(stream.settings, "ideal").update(updates={"retracted": "'MeSH changed'"})
    await stream.index(1001, MESH)

    await stream.sweep(datetime.now(UTC))
    stream.arrive()

    old, new = stream.rows("ideal")
    assert (old["mesh"], new["mesh"]) == (list(MESH[:1]), list(MESH))
    assert old["id"] != new["id"]
    answers = [{k: v for k, v in r.items() if k.startswith("answer")} for r in (old, new)]
    assert answers[0] == answers[1]
    assert (new["answer"], new["answer_prompt_tokens"]) == ("no", 900)


async def test_no_tables_are_nothing_to_look_after(stream: Stream) -> None:
    await stream.sweep()

    assert stream.published == []
    assert stream.sample("oldest_seconds") == 0


async def test_a_record_waits_until_it_has_mesh(stream: Stream) -> None:
    stream.scored(waiting(1001), waiting(1002))
    await stream.index(1001, ())
    assert stream.counts() == (0, 0, 2)

    await stream.sweep()
    assert (stream.published, stream.counts()) == ([], (0, 0, 2))

    await stream.index(1001, ("D000006",), version=2)
    await stream.sweep()
    assert [contexts.source.pmid for contexts in stream.published] == [1001]
    assert [parked["pmid"] for parked in stream.rows("parked")] == [1002]

    stream.arrive()
    (preference,) = stream.rows("preferences")
    assert (preference["pmid"], preference["mesh"]) == (1001, ["D000006"])
    assert (preference["generator_chosen"], preference["score_chosen"]) == ("theta1", 1.0)
    assert stream.sample("resumed_total", reason="record without MeSH") == 1


async def test_the_mesh_of_the_passages_is_looked_up_again(stream: Stream) -> None:
    stream.scored(waiting())
    await stream.index(1001, ("D000006",))
    await stream.index(2001, ("D000008",))
    await stream.index(2002, ())

    await stream.sweep()

    (contexts,) = stream.published
    assert [[p.mesh for p in r.passages] for r in contexts.retrievals] == [[("D000008",)], [()]]


async def test_a_row_whose_record_got_other_mesh_on_its_way_is_scored_under_it(
    stream: Stream,
) -> None:
    """The message passed before there was a row, which came in marked."""
    stream.scored(waiting(mesh=MESH[:1]), waiting(1002, mesh=MESH[:1]))
    open_table(stream.settings, "preferences").update(
        updates={"retracted": "'MeSH changed'"}, predicate="pmid = 1001"
    )
    for pmid in (1001, 1002):
        await stream.index(pmid, MESH[1:])

    await stream.sweep(datetime.now(UTC))
    assert [(c.source.pmid, c.source.mesh) for c in stream.published] == [(1001, MESH[1:])]

    stream.arrive()
    await stream.sweep(datetime.now(UTC))
    assert stream.published == []
    rows = [row for row in stream.rows("preferences") if row["pmid"] == 1001]
    assert [row["mesh"] for row in rows] == [list(MESH[:1]), list(MESH[1:])]


async def test_a_record_that_went_on_before_is_only_taken_out(stream: Stream) -> None:
    """The message that brought the MeSH was in time, or a worker died before it took it out."""
    stream.scored(waiting())
    await stream.index(1001, MESH[:1])
    removed = parked._take_out
    parked._take_out = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    try:
        with suppress(KeyboardInterrupt):
            await stream.sweep()
    finally:
        parked._take_out = removed
    assert len(stream.published) == 1
    stream.arrive()
    assert stream.counts() == (1, 0, 1)

    await stream.sweep()

    assert (stream.published, stream.counts()) == ([], (1, 0, 0))


async def test_what_is_sent_twice_makes_one_row(stream: Stream) -> None:
    stream.scored(waiting())
    await stream.index(1001, MESH[:1])
    await stream.sweep()
    stream.published *= 2

    stream.arrive()

    assert stream.counts() == (1, 0, 0)


async def test_what_the_broker_has_not_confirmed_stays(stream: Stream) -> None:
    stream.scored(waiting())
    await stream.index(1001, MESH[:1])
    stream.failures.append(Transient("broker away"))

    with pytest.raises(Transient, match="broker away"):
        await stream.sweep()
    assert stream.counts() == (0, 0, 1)

    await stream.sweep()
    assert (len(stream.published), stream.counts()) == (1, (0, 0, 0))


async def test_what_is_too_large_stays_and_holds_nobody_up(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    stream.scored(waiting(1001), waiting(1002))
    await stream.index(1001, MESH[:1])
    await stream.index(1002, MESH[:1])
    stream.failures.append(Invalid("too large", "1,048,600 bytes"))

    await stream.sweep()

    (stays,) = stream.rows("parked")
    assert f"PMID {stays['pmid']} stays parked: too large" in caplog.text
    assert len(stream.published) == 1


async def test_unknown_descriptors_wait_for_another_edition(stream: Stream) -> None:
    stream.scored(waiting(mesh=UNKNOWN))
    await stream.index(1001, UNKNOWN)
    assert stream.counts() == (0, 0, 1)

    await stream.sweep()
    assert stream.published == []

    newer = replace_edition(stream, "2027")
    await newer.sweep()
    assert len(newer.published) == 1
    assert newer.counts() == (0, 0, 0)
    # The edition does not have them either: they wait for the one after it.
    newer.scorer = Similarity(replace(metals(), edition="2027"))
    newer.arrive()
    assert newer.counts() == (0, 0, 1)
    await newer.sweep()
    assert newer.published == []


async def test_what_is_parked_again_meanwhile_is_not_taken_out(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored under the edition before, say, as the score stage had not changed to the new one."""
    stream.scored(waiting(mesh=UNKNOWN))
    await stream.index(1001, UNKNOWN)
    newer = replace_edition(stream, "2027")

    take_out = parked._take_out

    def after_the_stages(*arguments: Any) -> None:
        newer.arrive()
        take_out(*arguments)

    monkeypatch.setattr(parked, "_take_out", after_the_stages)
    await newer.sweep()

    assert newer.counts() == (0, 0, 1)
    (again,) = newer.rows("parked")
    assert again["mesh_edition"] == "test"


def replace_edition(stream: Stream, edition: str) -> Stream:
    settings = stream.settings.model_copy(
        update={"mesh": stream.settings.mesh.model_copy(update={"edition": edition})}
    )
    return replace(stream, settings=settings)


async def test_after_a_year_a_record_is_given_up(stream: Stream) -> None:
    long_ago = example.ARRIVED - timedelta(days=326)
    stream.scored(waiting(1001, arrived=long_ago), waiting(1002))

    await stream.sweep()
    assert [p.source.pmid for p in stream.published] == [1001]
    stream.arrive()

    (lost,) = stream.rows("dropped")
    assert (lost["pmid"], lost["outcome"], lost["reason"]) == (1001, "unscorable", "never indexed")
    assert len(lost["candidates"][0]["context"]) == 1
    assert [parked["pmid"] for parked in stream.rows("parked")] == [1002]
    assert stream.sample("given_up_total") == 1

    await stream.sweep()
    assert stream.published == []


async def test_an_ideal_record_is_given_up_as_one(stream: Stream) -> None:
    stream.scored(ideal(arrived=example.ARRIVED - timedelta(days=326)))

    await stream.sweep()
    assert [type(p) for p in stream.published] == [Ideal]
    stream.arrive()

    (lost,) = stream.rows("dropped")
    assert (lost["role"], lost["reason"], lost["floor"]) == ("ideal", "never indexed", 0.5)
    assert stream.rows("parked") == []


async def test_a_record_whose_mesh_came_at_last_is_not_given_up(stream: Stream) -> None:
    stream.scored(waiting(arrived=example.ARRIVED - timedelta(days=400)))
    await stream.index(1001, MESH[:1])

    await stream.sweep()
    stream.arrive()

    assert stream.counts() == (1, 0, 0)


async def test_who_waits_is_counted_by_age(stream: Stream) -> None:
    days = (0.5, 3, 39, 39, 300)
    stream.scored(
        *(waiting(1000 + n, arrived=NOW - timedelta(days=age)) for n, age in enumerate(days))
    )

    await stream.sweep()

    ages = {age: stream.sample("records", age=age) for age in (*parked.AGES, parked.OLDER)}
    assert ages == {
        "1 day": 1,
        "7 days": 1,
        "30 days": 0,
        "90 days": 2,
        "365 days": 1,
        "older": 0,
    }
    assert stream.sample("oldest_seconds") == 300 * 86_400


@pytest.mark.slow
async def test_thousands_go_on_in_parts(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "PART", 7)
    stream.scored(*(waiting(1000 + n) for n in range(40)))
    for n in range(30):
        await stream.index(1000 + n, MESH[:1])

    await stream.sweep()
    stream.arrive()

    assert stream.counts() == (30, 0, 10)


async def test_a_deletion_that_meets_a_compaction_is_tried_again(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.scored(waiting())
    await stream.index(1001, MESH[:1])
    delete, conflicts = DeltaTable.delete, iter([True, True, False])

    def contended(self: DeltaTable, *arguments: Any, **options: Any) -> Any:
        if next(conflicts):
            raise CommitFailedError("a concurrent transaction deleted data this operation read")
        return delete(self, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "delete", contended)
    await stream.sweep()

    assert stream.counts() == (0, 0, 0)


async def test_a_table_that_fails_is_transient(stream: Stream) -> None:
    stream.scored(waiting())
    for uri in open_table(stream.settings, PARKED).file_uris():
        os.unlink(uri.removeprefix("file://"))

    with pytest.raises(Transient, match="parked"):
        await stream.sweep()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Transient("elasticsearch away"), "looks after parked records again in 0 s: elasticsearch"),
        (RuntimeError("a fault of ours"), "a fault in looking after parked records"),
    ],
)
async def test_a_sweep_that_fails_is_logged_and_not_the_last(
    stream: Stream, caplog: pytest.LogCaptureFixture, failure: Exception, told: str
) -> None:
    caplog.set_level(logging.WARNING)
    stream.scored(waiting())
    await stream.index(1001, MESH[:1])
    stream.failures.append(failure)
    settings = stream.settings.model_copy(
        update={"parked": stream.settings.parked.model_copy(update={"check_every": 0.05})}
    )

    async with sweeping(
        settings,
        lookup=stream.library.lookup,
        publish=stream.publish,
        metrics=stream.metrics,
        going=not_paused(),
    ):
        await until(lambda: stream.counts() == (0, 0, 0))

    assert told in caplog.text
    assert ("Traceback" in caplog.text) == isinstance(failure, RuntimeError)


async def test_another_edition_of_mesh_is_looked_after_at_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "LOOK", 0.05)
    stream.scored(waiting(mesh=UNKNOWN))
    await stream.index(1001, UNKNOWN)
    newer = stream.settings.data / "d2027.tsv"
    newer.write_text("D999998\tGold\t\tA01\n")

    async with sweeping(
        stream.settings,
        lookup=stream.library.lookup,
        publish=stream.publish,
        metrics=stream.metrics,
        going=not_paused(),
    ):
        await until(lambda: stream.sample("oldest_seconds") or False)
        assert stream.published == []
        mesh_edition.choose(stream.settings, newer, "2027")
        await until(lambda: len(stream.published) == 1)


def not_paused() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing came of it")
