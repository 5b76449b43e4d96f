"""What a row keeps is what its record was scored from."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from consumers.append import row
from consumers.prefer import prefer
from consumers.score import score
from consumers.stored import contexts, given_up
from fakes import records as example
from fakes.mesh import metals
from infra.tables import SCHEMAS
from streams.records import (
    Candidate,
    Contexts,
    Passage,
    Preference,
    Retrieval,
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
    tokens = {"prompt_tokens": 120, "completion_tokens": 12}
    sampling = st.builds(
        Candidate,
        generator=st.sampled_from(["theta1", "theta2"]),
        model=st.text(),
        revision=st.text(),
        prompt=st.just("question/1"),
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1),
        max_tokens=st.integers(1, 1000),
        seed=st.integers(0, 2**31),
        attempts=st.integers(1, 9),
        **{name: st.just(value) for name, value in (tokens | answer).items()},
    )
    found = () if answer["rejected"] else tuple(draw(st.lists(passages, max_size=4)))
    return Retrieval(candidate=draw(sampling), mode=mode, passages=found)


@st.composite
def asked(draw: st.DrawFn) -> Contexts:
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
        role="preference",
        source=draw(source),
        retrievals=tuple(draw(st.lists(retrievals(mode), max_size=3))),
    )


def stored(preference: Preference) -> tuple[str, dict[str, Any]]:
    """The table of a record and its row, as it is read back."""
    table, columns = row(preference)
    appended = {**columns, "appended": columns["arrived"]}
    (read,) = pa.Table.from_pylist([appended], schema=SCHEMAS[table]).to_pylist()
    return table, read


def untallied(taken: Contexts) -> Contexts:
    """Without the token counts, which no table has."""
    return replace(
        taken,
        retrievals=tuple(
            replace(r, candidate=replace(r.candidate, prompt_tokens=0, completion_tokens=0))
            for r in taken.retrievals
        ),
    )


@given(asked())
def test_contexts_come_back_as_they_were_scored(taken: Contexts) -> None:
    preference = prefer(score(taken, SCORER), MARGIN)
    table, columns = stored(preference)
    back = contexts(table, columns)
    taken = untallied(taken)
    if table == "preferences":
        # The two that were compared, the better one first.
        chosen = {a.retrieval for a in untallied_alignments(preference)}
        assert set(back.retrievals) == chosen
        assert replace(back, retrievals=()) == replace(taken, retrievals=())
        assert score(back, SCORER).alignments[0].score == columns["score_chosen"]
    elif taken.retrievals:
        assert back == taken
    else:
        assert back.source.withheld == preference.reason


def untallied_alignments(preference: Preference) -> Any:
    kept = untallied(
        Contexts(
            id=preference.id,
            role="preference",
            source=preference.source,
            retrievals=tuple(a.retrieval for a in preference.alignments),
        )
    )
    return [
        replace(a, retrieval=r) for a, r in zip(preference.alignments, kept.retrievals, strict=True)
    ]


def test_what_is_given_up_is_unscorable_and_keeps_its_contexts() -> None:
    taken = example.contexts(source=example.source(mesh=()))
    table, columns = stored(prefer(score(taken, SCORER), MARGIN))
    assert table == "parked"
    lost = given_up(columns, "never indexed")
    assert (lost.outcome, lost.reason, lost.id) == ("unscorable", "never indexed", taken.id)
    table, columns = stored(lost)
    assert (table, columns["reason"]) == ("dropped", "never indexed")
    assert contexts(table, columns) == untallied(taken)
