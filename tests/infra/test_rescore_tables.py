"""Rows scored anew under another edition: none lost, none twice, whatever happens meanwhile."""

import io
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry
from rich.console import Console

from consumers.answer import gate
from consumers.append import row
from consumers.prefer import prefer
from consumers.score import score
from consumers.stored import contexts as stored
from fakes.entries import entry
from fakes.records import answer, candidate, contexts, passage, retrieval, source
from infra import rescore_command, rescore_tables
from infra.delta_sink import DeltaSink
from infra.rescore_command import Options
from infra.rescore_tables import TABLES, Contended, Span, Tally, rescore
from infra.retractions import Retractions
from infra.settings import Settings
from infra.tables import open_table
from streams.errors import Transient
from streams.mesh import Descriptor, build
from streams.metrics import Metrics
from streams.records import Contexts, Ideal, Preference, Retraction
from streams.similarity import Similarity

pytestmark = pytest.mark.slow

UIS = [f"D{number:06}" for number in range(1, 13)]
START = datetime(2026, 2, 20, 12, tzinfo=UTC)
MARGIN, FLOOR = 0.01, 0.2


def edition(name: str, chance: random.Random, uis: list[str]) -> Similarity:
    """A tree in which the place of each descriptor is a matter of chance."""
    places = [f"A{number:02}.{chance.choice((100, 200, 300))}" for number in range(1, len(uis) + 1)]
    shuffled = chance.sample(places, len(places))
    tops = {place[:3] for place in places}
    held = [
        Descriptor(ui, f"{name} {ui}", (place, f"{chance.choice(sorted(tops))}.900.{at:03}"))
        for at, (ui, place) in enumerate(zip(uis, shuffled, strict=True), 100)
    ]
    heads = [Descriptor(f"D9{at:05}", f"head {at}", (top,)) for at, top in enumerate(sorted(tops))]
    return Similarity(build(name, [*held, *heads]), "intrinsic")


# The last descriptors are unknown to the old edition, the first to the new one.
OLD = edition("2024", random.Random(1), UIS[:10])
NEW = edition("2025", random.Random(2), UIS[2:])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", tables=str(tmp_path / "tables"))


def record(number: int, chance: random.Random) -> Contexts:
    """One in three is of role ideal, half of these with an answer."""
    is_ideal = number % 3 == 0

    def some(low: int = 1) -> tuple[str, ...]:
        return tuple(chance.sample(UIS, chance.randint(low, 3)))

    retrievals = tuple(
        retrieval(
            candidate=candidate(name, question=f"Is {name} right about {number}?"),
            passages=tuple(passage(2000 + at, mesh=some(0)) for at in range(3)),
        )
        for name in (("theta3",) if is_ideal else ("theta1", "theta2"))
    )
    mesh = chance.choice([some(), some(), some(), (UIS[11],), (UIS[0],), ()])
    arrived = START + timedelta(hours=7 * number)
    return contexts(
        number,
        role="ideal" if is_ideal else "preference",
        source=source(number, mesh=mesh, arrived=arrived),
        retrievals=retrievals,
        answer=answer() if number % 6 == 0 else None,
    )


def judged(kept: Contexts, scorer: Similarity) -> Preference | Ideal:
    """What the stages make of contexts."""
    scored = score(kept, scorer)
    return prefer(scored, MARGIN) or gate(scored, FLOOR)


class Worker:
    """An append stage's hold on the tables."""

    def __init__(self, settings: Settings, retractions: Retractions | None = None) -> None:
        metrics = Metrics(CollectorRegistry())
        self.sink = DeltaSink(settings, metrics, retractions)
        self.sink.open()
        leads = (self.sink.lead(TopicPartition(topic, 0)) for topic in ("preferences", "ideal"))
        self._next = max(leads) + 1
        self.refused = 0

    def append(self, records: list[Contexts], scorer: Similarity = OLD) -> None:
        made = [judged(each, scorer) for each in records]
        entries = [entry(offset, record) for offset, record in enumerate(made, self._next)]
        self._next += len(made)
        for _ in range(50):
            try:
                self.sink.append(entries)
                return
            except Transient:
                self.refused += 1
        raise AssertionError("not appended in 50 attempts")


def filled(settings: Settings, many: int = 60, seed: int = 3) -> Worker:
    chance = random.Random(seed)
    worker = Worker(settings)
    records = [record(number, chance) for number in range(1, many + 1)]
    for at in range(0, many, 25):
        worker.append(records[at : at + 25])
    return worker


def rows(settings: Settings, version: dict[str, int] | None = None) -> dict[str, list[Any]]:
    """Each table's rows, by id."""
    found = {}
    for table in TABLES:
        where = f"{settings.tables_uri}/{table}"
        delta = DeltaTable(where, version=version[table] if version else None)
        found[table] = sorted(delta.to_pyarrow_table().to_pylist(), key=lambda each: each["id"])
    return found


def ids(settings: Settings) -> Counter[str]:
    return Counter(each["id"] for held in rows(settings).values() for each in held)


def anew(before: dict[str, list[Any]], scorer: Similarity = NEW) -> dict[str, list[Any]]:
    """What the handlers make of all rows, which is what the tables should hold."""
    made: dict[str, list[Any]] = {table: [] for table in TABLES}
    for table, held in before.items():
        for old in held:
            kept = stored(table, old)
            if not kept.source.mesh:
                made[table].append(old)
                continue
            target, new = row(judged(kept, scorer))
            if (table, target) == ("parked", "ideal"):
                made[table].append(old)
                continue
            if target == "parked" and table != "parked":
                target = "dropped"
            same = {"appended": old["appended"], "retracted": old["retracted"]}
            made[target].append({**new, **same})
    return {table: sorted(held, key=lambda each: each["id"]) for table, held in made.items()}


def plain(tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Without what depends on the order of the sides that a preference was stored in."""
    return {
        name: [
            {
                **{key: value for key, value in each.items() if key != "candidates"},
                **(
                    {"candidates": sorted(map(repr, each["candidates"]))}
                    if "candidates" in each
                    else {}
                ),
            }
            for each in held
        ]
        for name, held in tables.items()
    }


def versions(settings: Settings) -> dict[str, int]:
    return {table: open_table(settings, table).version() for table in TABLES}


def test_rows_are_what_the_handlers_make_of_what_they_keep(settings):
    filled(settings)
    before, then = rows(settings), versions(settings)
    expected = anew(before)
    tally = rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert plain(rows(settings)) == plain(expected)
    moves = {(old, new): count for (old, new), count in tally.moved.items()}
    # The two editions are far enough apart for rows to go every way there is.
    assert set(moves) >= {
        ("parked", "preferences"),
        ("preferences", "dropped"),
        ("dropped", "preferences"),
        ("ideal", "dropped"),
        ("dropped", "ideal"),
    }
    assert tally.read == 60
    assert tally.flipped
    # A parked record that could be ideal now is for the stages to answer.
    left = [old for held in before.values() for old in held if not old["mesh"]]
    to_answer = [old for old in before["parked"] if old["mesh"] and old in expected["parked"]]
    assert to_answer
    assert tally.left == len(left) + len(to_answer)
    # The old versions are readable as they were.
    assert rows(settings, then) == before


def test_run_again_it_changes_nothing_and_commits_nothing(settings):
    filled(settings)
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    before, then = rows(settings), versions(settings)
    tally = rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert (tally.flipped, dict(tally.moved), tally.changed) == (0, {}, 0)
    assert tally.before == tally.after
    assert versions(settings) == then
    assert rows(settings) == before


def test_only_rows_that_arrived_in_the_span_are_touched(settings):
    """The span begins and ends within months, and within files."""
    filled(settings)
    before = rows(settings)
    first, last = date(2026, 2, 25), date(2026, 3, 3)

    def inside(each: Any) -> bool:
        return first <= each["arrived"].date() <= last

    wanted = {table: [each for each in held if inside(each)] for table, held in before.items()}
    tally = rescore(settings, Span(first, last), TABLES, NEW, MARGIN, FLOOR)
    after = rows(settings)
    assert tally.read == sum(map(len, wanted.values())) > 10
    for table in TABLES:
        assert [e for e in after[table] if not inside(e)] == [
            e for e in before[table] if not inside(e)
        ]
    changed = {table: [each for each in held if inside(each)] for table, held in after.items()}
    assert plain(changed) == plain(anew(wanted))


def test_marks_and_times_of_appending_are_kept(settings):
    filled(settings)
    open_table(settings, "preferences").update(new_values={"retracted": "deleted"})
    appended = {e["id"]: e["appended"] for held in rows(settings).values() for e in held}
    marked = {e["id"] for e in rows(settings)["preferences"]}
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    after = [each for held in rows(settings).values() for each in held]
    assert {e["id"]: e["appended"] for e in after} == appended
    assert {e["id"] for e in after if e["retracted"] == "deleted"} == marked


def test_an_answer_outlives_that_its_question_does_not_pass_for_a_while(settings):
    filled(settings)

    def answers() -> dict[str, Any]:
        """By id, who answered what."""
        held = rows(settings)
        found = {e["id"]: (e["answerer"], e["answer"]) for e in held["ideal"]}
        undecided = [e for name in ("dropped", "parked") for e in held[name]]
        found |= {
            e["id"]: (e["answered"]["answerer"], e["answered"]["answer"])
            for e in undecided
            if e["answered"]
        }
        return {id: of for id, of in found.items() if of[0]}

    before = answers()
    assert len(before) == 10
    rescore(settings, Span(), TABLES, OLD, MARGIN, 1.0)
    assert [e["score"] for e in rows(settings)["ideal"] if e["score"] < 1] == []
    assert answers() == before
    rescore(settings, Span(), TABLES, OLD, MARGIN, 0.0)
    passed = rows(settings)["ideal"]
    assert {e["floor"] for e in passed} == {0.0}
    assert {e["id"] for e in passed} & before.keys() == {e["id"] for e in passed if e["answer"]}
    assert answers() == before


def test_a_dry_run_tells_the_same_and_writes_nothing(settings):
    filled(settings)
    before, then = rows(settings), versions(settings)
    dry = rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR, dry_run=True)
    assert (rows(settings), versions(settings)) == (before, then)
    wet = rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    # Rows are summed up in another order where they have moved meanwhile.
    assert (dry.before.value, dry.after.value) == pytest.approx(
        (wet.before.value, wet.after.value), rel=1e-12
    )
    assert replace(dry, before=wet.before, after=wet.after) == wet


class Crash(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("step", ["_bring", "_replace"])
@pytest.mark.parametrize("then", [NEW, OLD], ids=["the same again", "back again"])
def test_a_crash_between_the_tables_is_made_good_by_running_it_again(
    settings, monkeypatch, at, step, then
):
    """The commits before the crash are there, that which it came before is not."""
    filled(settings)
    before = rows(settings)
    everyone = ids(settings)
    whole: Callable[..., None] = getattr(rescore_tables._Portion, step)
    calls = iter(range(1, 1000))

    def crashing(self: Any, *arguments: Any) -> None:
        if next(calls) == at:
            raise Crash
        whole(self, *arguments)

    monkeypatch.setattr(rescore_tables._Portion, step, crashing)
    with pytest.raises(Crash):
        rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert set(ids(settings)) == set(everyone)
    monkeypatch.undo()
    rescore(settings, Span(), TABLES, then, MARGIN, FLOOR)
    assert ids(settings) == everyone
    if then is NEW:
        assert plain(rows(settings)) == plain(anew(before))


def test_appends_meanwhile_survive(settings):
    """A worker appends all the while, to the months that are scored anew."""
    worker = filled(settings, many=120)
    more = random.Random(9)
    late = [record(number, more) for number in range(1001, 1161)]
    # They arrive in the months that are being scored.
    late = [
        replace(each, source=replace(each.source, arrived=START + timedelta(hours=5 * at)))
        for at, each in enumerate(late)
    ]
    failed: list[Exception] = []

    def appending() -> None:
        try:
            for at in range(0, len(late), 8):
                worker.append(late[at : at + 8])
        except Exception as error:
            failed.append(error)

    everyone = ids(settings)
    thread = threading.Thread(target=appending)
    thread.start()
    while thread.is_alive():
        rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    thread.join()
    assert failed == []
    assert ids(settings) == everyone + Counter(each.id for each in late)
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert ids(settings) == everyone + Counter(each.id for each in late)
    scored = [each for held in rows(settings).values() for each in held if each["mesh"]]
    # What waits to be answered stays as it was.
    to_answer = [e for e in rows(settings)["parked"] if e["role"] == "ideal"]
    assert {e["mesh_edition"] for e in scored if e not in to_answer} == {"2025"}


def test_an_append_between_reading_and_committing_needs_no_second_try(settings, monkeypatch):
    worker = filled(settings)
    attempts = []
    attempt, put = rescore_tables._Portion._attempt, rescore_tables._Portion._replace

    def counted(self: Any, seen: set[str]) -> Tally:
        attempts.append(self._table)
        return attempt(self, seen)

    late = iter(range(2001, 3000))

    def with_append(self: Any, *arguments: Any) -> None:
        made = record(next(late), random.Random(4))
        worker.append([replace(made, source=replace(made.source, arrived=START, mesh=(UIS[4],)))])
        put(self, *arguments)

    monkeypatch.setattr(rescore_tables._Portion, "_attempt", counted)
    monkeypatch.setattr(rescore_tables._Portion, "_replace", with_append)
    tally = rescore(settings, Span(until=date(2026, 2, 28)), TABLES, NEW, MARGIN, FLOOR)
    assert tally.changed
    assert len(attempts) == len(TABLES)
    assert all(count == 1 for count in ids(settings).values())
    assert len([id for id in ids(settings) if int(id, 16) > 2000]) == next(late) - 2001 > 2


def test_a_row_marked_meanwhile_keeps_its_mark(settings, monkeypatch):
    filled(settings)
    put = rescore_tables._Portion._replace
    seen = Retractions()
    pmid = next(e["pmid"] for e in rows(settings)["preferences"] if e["mesh"])
    worker = Worker(settings, seen)

    def with_mark(self: Any, *arguments: Any) -> None:
        if self._table == "preferences":
            monkeypatch.undo()
            seen.put(Retraction(pmid=pmid, reason="deleted", at=START))
            worker.sink.mark([pmid])
        put(self, *arguments)

    monkeypatch.setattr(rescore_tables._Portion, "_replace", with_mark)
    everyone = ids(settings)
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    # Where the row has moved, the worker sees it at its next look at the tables.
    worker.sink.mark(())
    found = [e for held in rows(settings).values() for e in held if e["pmid"] == pmid]
    assert [each["retracted"] for each in found] == ["deleted"]
    assert ids(settings) == everyone


def test_a_row_that_comes_by_both_ways_is_there_once(settings):
    """A parked row moves on here while it also comes through the stages, under the same id."""
    worker = Worker(settings)
    waiting = contexts(
        5,
        source=source(5, mesh=(UIS[11],), arrived=START),
        retrievals=tuple(
            retrieval(
                candidate=candidate(name, question=f"Is {name} right?"),
                passages=(passage(mesh=mesh),),
            )
            for name, mesh in (("theta1", (UIS[11],)), ("theta2", (UIS[3], UIS[4])))
        ),
    )
    worker.append([waiting])
    assert [len(held) for held in rows(settings).values()] == [0, 0, 0, 1]
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert [len(held) for held in rows(settings).values()] == [1, 0, 0, 0]
    # The worker has not looked at the tables since, so its commit must fail once.
    worker.append([waiting], NEW)
    assert worker.refused == 1
    assert [len(held) for held in rows(settings).values()] == [1, 0, 0, 0]


def test_what_another_writer_changes_again_and_again_is_given_up_in_one_line(settings, monkeypatch):
    filled(settings, many=10)
    put = rescore_tables._Portion._replace
    monkeypatch.setattr(rescore_tables, "ATTEMPTS", 3)
    monkeypatch.setattr(rescore_tables.time, "sleep", lambda seconds: None)

    def contended(self: Any, *arguments: Any) -> None:
        open_table(settings, self._table).update(new_values={"retracted": "deleted"})
        put(self, *arguments)

    monkeypatch.setattr(rescore_tables._Portion, "_replace", contended)
    with pytest.raises(Contended, match="have changed 2026-02 3 times"):
        rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)


def test_small_pieces_make_the_same_tables(settings, monkeypatch):
    monkeypatch.setattr(rescore_tables, "AT_ONCE", 4)
    monkeypatch.setattr(rescore_tables, "PART", 7)
    filled(settings)
    expected = anew(rows(settings))
    rescore(settings, Span(), TABLES, NEW, MARGIN, FLOOR)
    assert plain(rows(settings)) == plain(expected)


def run(settings: Settings, *tables: str, dry_run: bool = False, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    status = rescore_command.run(
        settings, Span(), list(tables), Options(**options), dry_run=dry_run, console=console
    )
    return f"[{status}] {console.file.getvalue()}"  # type: ignore[attr-defined]


def test_the_command_tells_what_has_changed(settings, tmp_path):
    filled(settings)
    path = tmp_path / "new.tsv"
    path.write_text("".join(f"{ui}\tname {ui}\t\tA{n:02}\t\n" for n, ui in enumerate(UIS, 1)))
    then = versions(settings)
    text = run(settings, mesh=path, edition="2026", margin=0.0)
    assert text.startswith(
        "[0] rows of preferences, ideal, dropped, parked under MeSH 2026, frequency"
    )
    assert "read     60 rows, of which" in text
    assert "parked → " in text
    assert "that stay preferences" in text
    assert f"table preferences: version {then['preferences']} before, " in text
    dry = run(settings, dry_run=True, mesh=path, edition="2026", margin=0.0)
    assert "moved    none" in dry
    assert "nothing was written" in dry


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"frequency": "corpus"}, 2, "frequency corpus needs counts"),
        ({"frequency": "rare"}, 2, "Input should be 'intrinsic', 'corpus' or 'kailin'"),
        ({"mesh": Path("/nowhere.tsv"), "edition": "x"}, 1, "/nowhere.tsv: cannot be read"),
    ],
)
def test_wrong_options_are_one_line(settings, options, status, said):
    filled(settings, many=3)
    text = run(settings, **options)
    assert text.startswith(f"[{status}] ")
    assert said in text
    assert text.count("\n") == 1


def test_a_table_that_there_is_not(settings):
    assert run(settings, "prefs").startswith("[2] --table prefs: expected one of preferences, ")
