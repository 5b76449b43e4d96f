"""What a row keeps is what its record was scored from."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.answer import gate
from consumers.append import row
from consumers.prefer import prefer
from consumers.score import score
from consumers.stored import contexts, given_up
from fakes import records as example
from fakes.mesh import metals
from infra.tables import SCHEMAS
from streams.records import (
    Answer,
    Candidate,
    Contexts,
    Ideal,
    Passage,
    Preference,
    Retrieval,
    Role,
    Source,
)
from streams.similarity import Similarity

SCORER = Similarity(metals())
MARGIN = 0.01

# Of the small edition, and of none.
uis = st.sampled_from(["D000001", "D000003", "D000006", "D000008", "D999999"])
descriptors = st.lists(uis, max_size=4, unique=True).map(tuple)
ranks = st.none() | st.integers(1, 50)
passages = st.builds(
    Passage,
    pmid=st.integers(1, 10**9),
    title=st.text(),
    abstract=st.text(),
    mesh=descriptors,
    bm25_rank=ranks,
    dense_rank=ranks,
    score=st.floats(0, 1),
)
kept = st.builds(lambda text: {"question": text, "rejected": None}, st.text(min_size=1))
refused = st.builds(lambda text: {"question": None, "rejected": text}, st.text(min_size=1))


@st.composite
def retrievals(draw: st.DrawFn, mode: str) -> Retrieval:
    answer = draw(kept | refused)
    sampling = st.builds(
        Candidate,
        generator=st.sampled_from(["theta1", "theta2", "theta3"]),
        model=st.text(),
        revision=st.text(),
        prompt=st.just("question/1"),
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1),
        max_tokens=st.integers(1, 1000),
        seed=st.integers(0, 2**31),
        attempts=st.integers(1, 9),
        prompt_tokens=st.integers(0, 10**6),
        completion_tokens=st.integers(0, 10**6),
        **{name: st.just(value) for name, value in answer.items()},
    )
    found = () if answer["rejected"] else tuple(draw(st.lists(passages, max_size=4)))
    return Retrieval(candidate=draw(sampling), mode=mode, passages=found)


decided = st.builds(
    lambda decision, long: {"decision": decision, "long": long},
    st.sampled_from(["yes", "no", "maybe"]),
    st.none() | st.text(),
)
unread = st.builds(lambda reason: {"rejected": reason}, st.text(min_size=1))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    sampling = st.builds(
        Answer,
        answerer=st.text(min_size=1),
        model=st.text(),
        revision=st.text(),
        prompt=st.sampled_from(["answer/1", "answer-long/1"]),
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1),
        max_tokens=st.integers(1, 1000),
        seed=st.integers(0, 2**31),
        attempts=st.integers(1, 9),
        prompt_tokens=st.integers(0, 10**6),
        completion_tokens=st.integers(0, 10**6),
        **{name: st.just(value) for name, value in draw(decided | unread).items()},
    )
    return draw(sampling)


@st.composite
def asked(draw: st.DrawFn, role: Role = "preference") -> Contexts:
    mode = draw(st.sampled_from(["bm25", "dense", "hybrid"]))
    source = st.builds(
        Source,
        pmid=st.integers(1, 10**9),
        version=st.integers(1, 9),
        text_hash=st.text("0123456789abcdef", min_size=32, max_size=32),
        title=st.text(),
        abstract=st.text(),
        mesh=descriptors,
        indexing=st.none() | st.sampled_from(["Curated", "Automated"]),
        arrived=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),
    )
    return Contexts(
        id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        role=role,
        source=draw(source),
        retrievals=tuple(
            draw(st.lists(retrievals(mode), max_size=3 if role == "preference" else 1))
        ),
        answer=draw(st.none() | answers()) if role == "ideal" else None,
    )


def stored(record: Preference | Ideal) -> tuple[str, dict[str, Any]]:
    """The table of a record and its row, as it is read back."""
    table, columns = row(record)
    appended = {**columns, "appended": columns["arrived"]}
    (read,) = pa.Table.from_pylist([appended], schema=SCHEMAS[table]).to_pylist()
    return table, read


@given(asked())
def test_contexts_come_back_as_they_were_scored(taken: Contexts) -> None:
    preference = prefer(score(taken, SCORER), MARGIN)
    assert preference
    table, columns = stored(preference)
    back = contexts(table, columns)
    if table == "preferences":
        # The two that were compared, the better one first.
        assert back.retrievals == tuple(a.retrieval for a in preference.alignments)
        assert replace(back, retrievals=()) == replace(taken, retrievals=())
        assert score(back, SCORER).alignments[0].score == columns["score_chosen"]
    elif taken.retrievals:
        assert back == taken
    else:
        assert back.source.withheld == preference.reason


@given(asked(role="ideal"), st.floats(0, 1))
def test_contexts_of_ideal_records_come_back_with_their_answer(
    taken: Contexts, floor: float
) -> None:
    judged = gate(score(taken, SCORER), floor)
    table, columns = stored(judged)
    assert (table == "ideal") == (judged.outcome == "ideal")
    back = contexts(table, columns)
    if taken.retrievals:
        assert back == taken
        assert gate(score(back, SCORER), floor) == judged
    else:
        assert replace(back, source=taken.source) == taken
        assert back.source.withheld == judged.reason


@pytest.mark.parametrize("role", ["preference", "ideal"])
def test_what_is_given_up_is_unscorable_and_keeps_its_contexts(role: Role) -> None:
    retrievals = (
        (example.retrieval("theta3"),) if role == "ideal" else example.contexts().retrievals
    )
    taken = example.contexts(role=role, source=example.source(mesh=()), retrievals=retrievals)
    scored = score(taken, SCORER)
    table, columns = stored(prefer(scored, MARGIN) or gate(scored, 0.2))
    assert table == "parked"
    lost = given_up(columns, "never indexed")
    assert (lost.outcome, lost.reason, lost.id) == ("unscorable", "never indexed", taken.id)
    table, columns = stored(lost)
    assert (table, columns["role"], columns["reason"]) == ("dropped", role, "never indexed")
    assert contexts(table, columns) == taken
