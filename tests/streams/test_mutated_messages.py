"""Mutated messages of every topic: read, or refused by name; what is read can be worked on.

MUTANTS=100000 .venv/bin/pytest tests/streams/test_mutated_messages.py     # as `make soak` does
"""

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from consumers.answer import Answerer, answer
from consumers.append import row
from consumers.dead_letters import dead_letter
from consumers.delivery import check_key, key_and_value
from consumers.generate import Generator, generate, not_asked, withheld
from consumers.index import index
from consumers.prefer import prefer
from consumers.rescore import rescore
from consumers.retrieve import retrieve
from consumers.score import score
from consumers.stage import arrival
from fakes.generate import FakeGenerate
from fakes.mesh import mesh
from fakes.mutants import mutant
from fakes.search import FakeLibrary
from fakes.stored import FakeStored
from infra.elastic_mapping import document
from infra.retractions import Retractions
from infra.spending import by_model
from infra.tables import SCHEMAS
from streams.codec import decode, encode
from streams.errors import Invalid
from streams.life import state_of
from streams.questions import Limits
from streams.records import Record, type_names
from streams.similarity import Similarity
from streams.topics import DEAD_LETTERS, TOPICS, Topic

MUTANTS = int(os.environ.get("MUTANTS", "5000"))
SEED = int(os.environ.get("FAULTS_SEED", "20261127"))
GOLDEN = Path(__file__).parent.parent / "golden"
DIMENSIONS = 4
REASONS = {"not JSON", "schema", "field", "key", "too large"}

LIBRARY = FakeLibrary(DIMENSIONS)
MESH = Similarity(mesh({"Aspirin": "D02.455", "Platelet Aggregation": "G09.188"}))
SAMPLED: dict[str, Any] = {
    "revision": "base",
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 64,
    "attempts": 1,
    "ask": FakeGenerate(),
}
THETA = [Generator(name="theta1", model="theta1", prompt="question/1", **SAMPLED)]
TEACHER = [Answerer(name="teacher", model="teacher", prompt="answer/1", share=1.0, **SAMPLED)]


async def embed(text: str) -> Any:
    text.encode()  # a server gets it as UTF-8
    return np.ones(DIMENSIONS, np.float32) / 2


# What the readers of each topic do with a record, and what they make of it.


async def article(of: Any) -> list[Record]:
    state_of(of)
    await index(of, pmid=of.pmid, version=1, embed=embed, index=LIBRARY)
    orjson.dumps(
        document(of, np.ones(DIMENSIONS, np.float32), 1), option=orjson.OPT_SERIALIZE_NUMPY
    )
    made: list[Record] = list(await rescore(of, stored=FakeStored(), lookup=LIBRARY.lookup))
    if not_asked(of):
        return [withheld(of, role="preference"), *made] if of.retraction else made
    return [await generate(of, role="preference", generators=THETA, limits=Limits()), *made]


async def questions(of: Any) -> list[Record]:
    how: dict[str, Any] = {"mode": "hybrid", "k": 2, "depth": 5, "rrf_k": 60}
    return [await retrieve(of, embed=embed, search=LIBRARY, lookup=LIBRARY.lookup, **how)]


async def contexts(of: Any) -> list[Record]:
    return [score(of, MESH)]


async def alignments(of: Any) -> list[Record]:
    made = [prefer(of, 0.01), await answer(of, floor=0.2, answerers=TEACHER)]
    return [record for record in made if record]


async def appended(of: Any) -> list[Record]:
    table, made = row(of)
    now = datetime.now(UTC)
    pa.Table.from_pylist([{**made, "appended": now, "retracted": None}], schema=SCHEMAS[table])
    return []


async def retraction(of: Any) -> list[Record]:
    view = Retractions()
    view.put(of)
    view.mark(of.pmid, ["D001241"])
    return []


async def spending(of: Any) -> list[Record]:
    by_model([of], of.month)
    return []


async def read_only(of: Any) -> list[Record]:
    return []


READERS: dict[str, Callable[[Any], Awaitable[list[Record]]]] = {
    "article": article,
    "questions": questions,
    "contexts": contexts,
    "alignments": alignments,
    "preference": appended,
    "ideal": appended,
    "retraction": retraction,
    "spending": spending,
}


async def refusal(topic: Topic, message: bytes) -> Invalid | None:
    """Why a message is set aside, or None where its readers take it.

    As the agent does it: whatever else is raised here would stop a worker.
    """
    try:
        record = decode(topic.record, message)
        again = encode(record)
        # By their bytes, for NaN is unlike itself.
        assert encode(decode(topic.record, again)) == again
        check_key(topic, record, topic.key(record))
        arrival(record)
        for made in await READERS.get(type_names[topic.record], read_only)(record):
            sink = next(t for t in TOPICS if t.record is type(made))
            _, value = key_and_value(sink, made, sink.name)
            decode(type(made), value)
    except Invalid as error:
        return error
    return None


def check_letter(topic: Topic, message: bytes, error: Invalid) -> None:
    """The dead letter names what is wrong, and fits its own topic."""
    where: dict[str, Any] = {"stage": "tests", "topic": topic.name, "partition": 0, "offset": 1}
    now = datetime.now(UTC)
    letter = dead_letter(error, **where, key=b"1", value=message, headers=(), at=now)
    assert letter.reason in REASONS
    assert letter.detail
    key_and_value(DEAD_LETTERS, letter, DEAD_LETTERS.name)


def golden(topic: Topic) -> list[bytes]:
    name = type_names[topic.record]
    return [path.read_bytes() for path in sorted(GOLDEN.glob(f"{name}-*.json"))]


async def test_a_mutated_message_is_read_or_refused_by_name():
    dice = random.Random(SEED)
    fates: Counter[str] = Counter()
    sound = [(topic, message) for topic in TOPICS for message in golden(topic)]
    for number in range(MUTANTS):
        topic, message = sound[number % len(sound)]
        message = mutant(message, dice)
        try:
            error = await refusal(topic, message)
            if error:
                check_letter(topic, message, error)
        except Exception as fault:
            fault.add_note(f"seed {SEED}, mutant {number} of {topic.name}: {message[:2000]!r}")
            raise
        fates[error.reason if error else "read"] += 1
    print(dict(fates))
    # The damage is of every kind, and some of it does no harm.
    assert min(fates[fate] for fate in ("read", "not JSON", "schema", "field")) > MUTANTS / 50
