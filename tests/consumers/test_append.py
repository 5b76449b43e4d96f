"""A preference or ideal record becomes a row of one of the tables."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from consumers.append import row
from fakes.records import (
    alignment,
    answer,
    ideal,
    preference,
    rejected,
    retrieval,
    source,
    unscored,
)
from infra.tables import SCHEMAS
from streams.errors import Invalid
from streams.records import Alignment


def test_a_preference_is_a_flat_row_with_both_questions_and_their_provenance():
    table, columns = row(preference(1001))
    assert table == "preferences"
    assert columns["pmid"] == 1001
    assert columns["title"] == "Aspirin and platelet aggregation in trial 1001."
    assert columns["question_chosen"] == "Does aspirin lower platelet aggregation, asks theta1?"
    assert columns["question_rejected"] == "Does aspirin lower platelet aggregation, asks theta2?"
    assert (columns["score_chosen"], columns["score_rejected"]) == (0.6, 0.4)
    assert (columns["generator_chosen"], columns["generator_rejected"]) == ("theta1", "theta2")
    assert columns["temperature_chosen"] == 0.7
    assert [passage["pmid"] for passage in columns["context_rejected"]] == [2001, 2002]
    assert columns["context_chosen"][0]["dense_rank"] == 2
    assert (columns["mode"], columns["mesh_edition"]) == ("hybrid", "2024")
    assert columns["month"] == "2026-03"


@pytest.mark.parametrize(
    "record",
    [
        preference(),
        preference(outcome="tie", reason="gap under the margin"),
        preference(outcome="unscorable", reason="retracted", alignments=()),
        preference(outcome="unscorable", reason="record without MeSH"),
        ideal(),
        ideal(answer=None),
        ideal(outcome="below the gate", reason="low alignment"),
        ideal(outcome="unscorable", reason="unknown descriptors", answer=None),
    ],
    ids=[
        "preference",
        "tie",
        "not asked about",
        "parked",
        "ideal",
        "not answered",
        "below the gate",
        "ideal, parked",
    ],
)
def test_a_row_has_every_column_of_its_table_but_those_of_its_appending(record):
    table, columns = row(record)
    assert set(columns) == set(SCHEMAS[table].names) - {"appended", "retracted"}


def test_an_ideal_record_is_a_flat_row_with_its_question_context_and_answer():
    long = answer(decision="maybe", long="Two trials disagree.", attempts=2)
    table, columns = row(ideal(1001, answer=long))
    assert table == "ideal"
    assert columns["question"] == "Does aspirin lower platelet aggregation, asks theta3?"
    assert (columns["generator"], columns["model"], columns["score"]) == ("theta3", "theta3", 0.6)
    assert (columns["prompt_tokens"], columns["completion_tokens"]) == (120, 12)
    assert [passage["pmid"] for passage in columns["context"]] == [2001, 2002]
    assert (columns["answer"], columns["answer_long"]) == ("maybe", "Two trials disagree.")
    assert (columns["answerer"], columns["answer_model"]) == ("teacher", "teacher-70b")
    assert (columns["answer_attempts"], columns["answer_prompt_tokens"]) == (2, 900)
    assert (columns["floor"], columns["mode"]) == (0.2, "hybrid")


def test_a_question_without_an_answer_has_none_of_its_columns():
    _, columns = row(ideal(answer=None))
    assert {v for name, v in columns.items() if name.startswith("answer")} == {None}


def test_what_is_not_used_says_what_it_was_meant_for():
    _, compared = row(preference(outcome="tie", reason="equal"))
    table, below = row(ideal(outcome="below the gate", reason="low alignment"))
    assert table == "dropped"
    assert (compared["role"], compared["margin"], compared["floor"]) == ("preference", 0.01, None)
    assert (below["role"], below["margin"], below["floor"]) == ("ideal", None, 0.2)
    assert (compared["answered"], below["answered"]["answer"]) == (None, "yes")


def test_a_tie_keeps_its_questions_and_scores_and_says_why():
    table, columns = row(preference(outcome="tie", reason="gap under the margin"))
    assert table == "dropped"
    assert (columns["outcome"], columns["reason"]) == ("tie", "gap under the margin")
    assert [candidate["score"] for candidate in columns["candidates"]] == [0.6, 0.4]
    assert all(candidate["question"].endswith("?") for candidate in columns["candidates"])


def test_an_unscorable_record_keeps_what_there_is():
    without = Alignment(
        retrieval=retrieval(candidate=rejected("theta1"), passages=()), unscored="no question"
    )
    record = preference(
        outcome="unscorable", reason="no question", alignments=(without, unscored("theta2"))
    )
    _, columns = row(record)
    first, second = columns["candidates"]
    assert (first["question"], first["rejected"]) == (None, "not a question")
    assert (second["score"], second["unscored"]) == (None, "context without MeSH")


@pytest.mark.parametrize(
    ("reason", "table"),
    [
        ("record without MeSH", "parked"),
        ("unknown descriptors", "parked"),
        ("context without MeSH", "dropped"),
        ("never indexed", "dropped"),
        ("retracted", "dropped"),
    ],
)
def test_what_may_still_be_scored_is_parked(reason, table):
    waiting = unscored("theta1", reason)
    record = preference(outcome="unscorable", reason=reason, alignments=(waiting, waiting))
    assert row(record)[0] == table
    record = ideal(outcome="unscorable", reason=reason, alignments=(waiting,))
    assert row(record)[0] == table


def test_what_has_no_winner_keeps_its_text_and_contexts():
    _, columns = row(preference(outcome="tie", reason="equal"))
    assert columns["abstract"].startswith("METHODS: Forty adults")
    assert columns["mesh"] == ["D001241", "D010974"]
    assert columns["mode"] == "hybrid"
    assert [[p["pmid"] for p in c["context"]] for c in columns["candidates"]] == [[2001, 2002]] * 2


def test_the_month_is_that_of_arrival_in_utc():
    new_year = datetime(2027, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    _, columns = row(preference(source=source(arrived=new_year)))
    assert columns["month"] == "2026-12"
    assert columns["arrived"] == new_year


ONE = alignment("theta1", 0.6)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "not hex"}, "id"),
        ({"id": "AB" * 16}, "id"),
        ({"source": source(arrived=datetime(2026, 3, 7))}, "source.arrived"),
        ({"alignments": (ONE,)}, "alignments"),
        ({"alignments": (ONE, unscored("theta2"))}, "alignments"),
        (
            {
                "alignments": (
                    ONE,
                    replace(ONE, retrieval=retrieval(candidate=rejected("theta2"))),
                )
            },
            "alignments",
        ),
        (
            {
                "outcome": "tie",
                "alignments": (ONE, replace(ONE, retrieval=retrieval("theta2", mode="bm25"))),
            },
            "alignments",
        ),
    ],
)
def test_what_no_table_can_hold_is_refused_by_the_name_of_the_field(changes, field):
    with pytest.raises(Invalid) as refused:
        row(preference(**changes))
    assert refused.value.reason == "field"
    assert refused.value.detail.startswith(f"{field}:")


@pytest.mark.parametrize("alignments", [(), (ONE, ONE), (unscored("theta3"),)])
def test_an_ideal_record_has_one_scored_question(alignments):
    with pytest.raises(Invalid) as refused:
        row(ideal(alignments=alignments))
    assert refused.value.detail.startswith("alignments:")
