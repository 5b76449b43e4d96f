"""Records of every fate, as NLM's files bring them, and the count of what became of each.

fates = Fates(seed=7, count=400, files=5)
fates.write(directory)             # the files, in NLM's order
account = count(world, fates)      # account.wrong names each record that is lost or doubled
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fakes import records
from fakes.model_server import Reply, refusing
from fakes.pubmed_records import Record, nlm_file
from faults.service import MESH, pmid
from infra.elastic import connect
from infra.settings import Settings
from infra.tables import DECIDED, PARKED, TableError, select
from published import messages, put
from streams.codec import decode, encode
from streams.records import DeadLetter
from streams.topics import (
    ALIGNMENTS,
    ARTICLES,
    CONTEXTS,
    DEAD_LETTERS,
    IDEAL,
    PREFERENCES,
    QUESTIONS,
    Topic,
)

POISON = "UNSPEAKABLE"
DESCRIPTORS = [tuple(line.split("\t")[:2]) for line in MESH.splitlines()]
# What becomes of a record, and of how many in a hundred.
SHARES = {
    "appended": 82,
    "dead letter": 3,  # the model refuses to talk about it
    "parked": 4,  # it has no MeSH
    "late": 5,  # it gets its MeSH in the file after
    "tombstone": 4,  # it is deleted in the file after
    "silent": 2,  # without abstract it is searched and not asked about
}
# Seconds that a model takes to write something.
TAKES = 0.3
# PMIDs of messages that are no records.
GARBAGE = 50_000_000
ASKED = ("index", "generate", "rescore")


def poisoning(request: dict[str, Any]) -> Reply:
    """Generators refuse to talk about some records; whoever answers says yes."""
    if "messages" not in request:
        return Reply()
    if request["model"] == "teacher":
        return Reply(text="Yes.", delay=TAKES)
    return refusing(POISON, lambda _: Reply(delay=TAKES))(request)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A message that is no record of its topic, and the stages that set it aside, and why."""

    key: int
    topic: Topic
    value: bytes
    stages: tuple[str, ...]
    reason: str


class Fates:
    """`count` records of PMIDs from 1 on, over `files` files; what becomes of each is drawn."""

    def __init__(self, seed: int, count: int, files: int) -> None:
        self.seed = seed
        dice = random.Random(seed)
        names, weights = list(SHARES), list(SHARES.values())
        self.of = dict(enumerate(dice.choices(names, weights, k=count), start=1))
        self.files = files
        self.garbage = [_garbage(GARBAGE + n) for n in range(max(6, count // 100))]
        self._mesh = {number: tuple(dice.sample(DESCRIPTORS, 3)) for number in self.of}

    def all(self, fate: str) -> set[int]:
        return {number for number, given in self.of.items() if given == fate}

    def write(self, directory: Path) -> list[Path]:
        """The files: each has its part of the records, and what changes of those before."""
        directory.mkdir()
        numbers = list(self.of)
        size = -(-len(numbers) // self.files)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        written = []
        for at, (before, part) in enumerate(zip([[], *parts], [*parts, []], strict=True), start=1):
            late = [self._record(n, self._mesh[n]) for n in before if self.of[n] == "late"]
            gone = [(n, 1) for n in before if self.of[n] == "tombstone"]
            path = directory / f"pubmed26n{at:04}.xml.gz"
            path.write_bytes(nlm_file([*map(self._record, part), *late], gone))
            written.append(path)
        return written

    def _record(self, number: int, mesh: tuple[tuple[str, ...], ...] = ()) -> Record:
        fate = self.of[number]
        topic = " and ".join(name.lower() for _, name in self._mesh[number])
        poison = POISON if fate == "dead letter" else ""
        example: Any = Record(
            pmid=number,
            title=f"On {topic}, part {number}.",
            abstract=f"We studied {topic} in {number} adults. {poison}",
            mesh=mesh or (() if fate in ("parked", "late") else self._mesh[number]),
        )
        return replace(example, abstract="") if fate == "silent" else example


def _garbage(key: int) -> Garbage:
    article = encode(records.article(key))
    kinds: list[tuple[Topic, bytes, tuple[str, ...], str]] = [
        (ARTICLES, b"{not JSON", ASKED, "not JSON"),
        (QUESTIONS, article, ("retrieve",), "schema"),
        (CONTEXTS, b"[]", ("score",), "not JSON"),
        (ALIGNMENTS, b'{"schema":"alignments/9"}', ("prefer", "answer"), "schema"),
        (PREFERENCES, b"null", ("append",), "not JSON"),
        (IDEAL, encode(records.preference(key)), ("append",), "schema"),
    ]
    return Garbage(key, *kinds[key % len(kinds)])


def publish(settings: Settings, garbage: Sequence[Garbage]) -> None:
    """Publish messages as they are. Raises `KafkaError` where the broker is away for long."""
    put(settings, [(each.topic, b"%d" % each.key, each.value) for each in garbage])


@dataclass
class Account:
    """What became of the records: one line a fate in `table`, one a wrong record in `wrong`."""

    wrong: list[str] = field(default_factory=list)
    table: list[tuple[str, int, int]] = field(default_factory=list)
    repeated_letters: int = 0
    repeated_parked: int = 0

    def __str__(self) -> str:
        lines = [f"{fate:<14}{expected:>8}{found:>8}" for fate, expected, found in self.table]
        return "\n".join([f"{'fate':<14}{'due':>8}{'found':>8}", *lines, *self.wrong[:40]])


@dataclass(frozen=True)
class Found:
    """Everything that records can end as: rows by PMID (table, id, mark), dead letters, documents.

    A dead letter is its PMID, stage and reason, with how many there are of it.
    """

    rows: dict[int, list[tuple[str, str, str | None]]]
    letters: Counter[tuple[int, str, str]]
    indexed: set[int]


def count(settings: Settings, fates: Fates) -> Account:
    """Look at the tables, the dead letters and the index, and account for every record."""
    return judge(fates, look(settings, list(fates.of)))


def look(settings: Settings, numbers: Sequence[int]) -> Found:
    rows: dict[int, list[tuple[str, str, str | None]]] = defaultdict(list)
    for table in (*DECIDED, PARKED):
        try:
            held = select(settings, table, "select id, pmid, retracted from rows")
        except TableError:
            continue
        for row in held:
            rows[row["pmid"]].append((table, row["id"], row["retracted"]))
    letters = [decode(DeadLetter, m.value) for m in messages(settings, DEAD_LETTERS)]
    dead = Counter((pmid(letter), letter.stage, letter.reason) for letter in letters)
    return Found(rows, dead, asyncio.run(_indexed(settings, numbers)))


def judge(fates: Fates, found: Found) -> Account:
    """What of the records is where it should be, and what is not."""
    account = Account()
    account.repeated_letters = sum(found.letters.values()) - len(found.letters)
    reasons: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for key, stage, reason in found.letters:
        reasons[key].add((stage, reason))
    good: Counter[str] = Counter()
    for number, fate in fates.of.items():
        rows = found.rows.get(number, [])
        parked = [id for table, id, _ in rows if table == PARKED]
        account.repeated_parked += len(parked) - len(set(parked))
        is_so = (
            [mark for table, _, mark in rows if table != PARKED],
            len(set(parked)),
            reasons[number],
            number in found.indexed,
        )
        if is_so == _due(fate):
            good[fate] += 1
        else:
            account.wrong.append(f"PMID {number}, {fate}: due {_due(fate)}, found {is_so}")
    account.table = [(fate, len(fates.all(fate)), good[fate]) for fate in SHARES]
    decided = [id for rows in found.rows.values() for table, id, _ in rows if table != PARKED]
    twice = [(id, times) for id, times in Counter(decided).items() if times > 1]
    account.wrong += [f"id {id}: {times} rows" for id, times in twice]
    due = {(g.key, stage, g.reason) for g in fates.garbage for stage in g.stages}
    set_aside = {letter for letter in found.letters if letter[0] >= GARBAGE}
    account.table.append(("no record", len(due), len(due & set_aside)))
    account.wrong += [f"dead letter {each} is not there" for each in due - set_aside]
    account.wrong += [f"dead letter {each} was not due" for each in set_aside - due]
    strangers = found.rows.keys() - fates.of.keys()
    account.wrong += [f"PMID {number} was never fed and has a row" for number in strangers]
    return account


def _due(fate: str) -> tuple[list[str | None], int, set[tuple[str, str]], bool]:
    """Marks of the rows, ids that are parked, dead letters, and whether the index has it."""
    refused = {("generate", "model refused")}
    return {
        "appended": ([None], 0, set(), True),
        "late": ([None], 0, set(), True),
        "dead letter": ([], 0, refused, True),
        "parked": ([], 1, set(), True),
        "tombstone": (["deleted"], 0, set(), False),
        "silent": ([], 0, set(), True),
    }[fate]


async def _indexed(settings: Settings, numbers: Sequence[int]) -> set[int]:
    found: set[int] = set()
    async with connect(settings.elasticsearch) as client:
        for start in range(0, len(numbers), 1000):
            ids = [str(number) for number in numbers[start : start + 1000]]
            answer = await client.mget(index=settings.elasticsearch.alias, ids=ids, source=False)
            found |= {int(doc["_id"]) for doc in answer["docs"] if doc.get("found")}
    return found
