"""PubMedQA's layout, read strictly, and its score, compared with what its own script computes."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from trainers.errors import DataError
from trainers.pubmedqa import (
    DECISIONS,
    Item,
    counted,
    judge,
    outcomes,
    read,
    read_decisions,
    read_test,
    score,
)

ENTRY = {
    "QUESTION": "Does zinc shorten colds?",
    "CONTEXTS": ["Colds are common.", "We gave zinc to 40 adults: θ = 0.5."],
    "LABELS": ["BACKGROUND", "METHODS"],
    "MESHES": ["Zinc", "Common Cold"],
    "YEAR": "2011",
    "reasoning_required_pred": "yes",
    "reasoning_free_pred": "yes",
    "final_decision": "maybe",
    "LONG_ANSWER": "It may.",
}


def published(tmp_path: Path, content: object, name: str = "ori_pqal.json") -> Path:
    path = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content, indent=4)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


# Reading.


@pytest.mark.parametrize("name", ["ori_pqal.json", "ori_pqal.json.gz"])
def test_an_entry_is_read_whole(tmp_path, name):
    path = published(tmp_path, {"21645374": ENTRY, "16418930": ENTRY}, name)
    first, second = read(path)
    assert first == Item(
        pmid=21645374,
        question="Does zinc shorten colds?",
        contexts=("Colds are common.", "We gave zinc to 40 adults: θ = 0.5."),
        labels=("BACKGROUND", "METHODS"),
        meshes=("Zinc", "Common Cold"),
        year="2011",
        decision="maybe",
        long_answer="It may.",
    )
    assert first.context == "Colds are common.\nWe gave zinc to 40 adults: θ = 0.5."
    assert second.pmid == 16418930


def test_what_pqa_a_and_some_of_pqa_l_lack_may_be_missing(tmp_path):
    few = {key: ENTRY[key] for key in ("QUESTION", "CONTEXTS", "final_decision")}
    (item,) = read(published(tmp_path, {"1": few | {"YEAR": None}}))
    assert (item.labels, item.meshes, item.year, item.long_answer) == ((), (), None, "")


def test_items_come_one_at_a_time(tmp_path):
    broken = json.dumps({"1": ENTRY, "2": ENTRY})[:-40]
    items = read(published(tmp_path, broken))
    assert next(items).pmid == 1
    with pytest.raises(DataError, match="after 1 PMIDs"):
        next(items)


def lacking(field: str) -> dict[str, object]:
    return {name: value for name, value in ENTRY.items() if name != field}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"7": lacking("QUESTION")}, "PMID 7: QUESTION: Field required"),
        ({"7": lacking("CONTEXTS")}, "PMID 7: CONTEXTS: Field required"),
        ({"7": lacking("final_decision")}, "PMID 7: final_decision: Field required"),
        ({"7": ENTRY | {"final_decision": "Yes"}}, "PMID 7: final_decision: Input should be 'yes'"),
        ({"7": ENTRY | {"QUESTION": ""}}, "PMID 7: QUESTION: "),
        ({"7": ENTRY | {"CONTEXTS": "one text"}}, "PMID 7: CONTEXTS: "),
        ({"7": ENTRY | {"CONTEXTS": ["a", None]}}, "PMID 7: CONTEXTS.1: "),
        ({"7": "yes"}, "PMID 7: Input should be "),
        ({"seven": ENTRY}, "expected PMIDs as keys, not 'seven'"),
        ({}, "expected a JSON object by PMID with one entry or more"),
        ([ENTRY], "expected a JSON object by PMID with one entry or more"),
        ("", "expected JSON, plain or gzip"),
        ("not JSON", "expected JSON, plain or gzip"),
        ('{"7": {"QUESTION": "\\ud800', "expected JSON, plain or gzip"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_pmid(tmp_path, content, line):
    path = published(tmp_path, content)
    with pytest.raises(DataError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}: {line}")
    assert "\n" not in str(caught.value)


def test_a_pmid_that_comes_twice_is_refused(tmp_path):
    entry = json.dumps(ENTRY)
    with pytest.raises(DataError, match="PMID 7: expected once, found again"):
        list(read(published(tmp_path, f'{{"7": {entry}, "7": {entry}}}')))


def test_a_cut_gzip_file_and_one_that_is_not_there_are_lines_too(tmp_path):
    path = published(tmp_path, {str(pmid): ENTRY for pmid in range(1, 500)}, "pqa.json.gz")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"pqa.json.gz: expected JSON, plain or gzip"):
        list(read(path))
    with pytest.raises(DataError, match=r"absent.json: cannot be read: No such file"):
        list(read(tmp_path / "absent.json"))


def test_decisions_keep_their_order_and_are_checked(tmp_path):
    path = published(tmp_path, {"9": "yes", "3": "maybe", "5": "no"}, "test_ground_truth.json")
    assert list(read_decisions(path).items()) == [(9, "yes"), (3, "maybe"), (5, "no")]
    wrong = published(tmp_path, {"9": "yes", "3": ["no"]}, "wrong.json")
    with pytest.raises(DataError, match=r"wrong.json: PMID 3: expected yes, no or maybe"):
        read_decisions(wrong)


def test_a_sample_of_the_test_is_spread_over_it_and_grows(tmp_path):
    # As published: by decision.
    decisions = {str(pmid): DECISIONS[pmid // 100] for pmid in range(300)}
    test = published(tmp_path, decisions, "truth.json")
    entries = {pmid: ENTRY | {"final_decision": decision} for pmid, decision in decisions.items()}
    data = published(tmp_path, dict(reversed(entries.items())))
    items, truth = read_test(data, test)
    assert [item.pmid for item in items] == list(truth) == list(range(300))
    items, some = read_test(data, test, 30)
    assert [item.pmid for item in items] == list(some)
    assert len(some) == 30
    assert {*some.values()} == {*DECISIONS}
    assert some.items() <= read_test(data, test, 60)[1].items()
    assert read_test(data, test, 1000)[1] == truth


# Scoring.

ANSWERS = st.sampled_from([*DECISIONS, None])
PAIRS = st.lists(st.tuples(st.sampled_from(DECISIONS), ANSWERS), min_size=1, max_size=40)


def evaluation(ground_truth: dict[str, str], predictions: dict[str, str]) -> tuple[float, float]:
    """What evaluation.py of pubmedqa/pubmedqa does with its two JSON files."""
    assert set(ground_truth) == set(predictions)
    pmids = list(ground_truth)
    truth = [ground_truth[pmid] for pmid in pmids]
    preds = [predictions[pmid] for pmid in pmids]
    return accuracy_score(truth, preds), f1_score(truth, preds, average="macro")


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_the_score_is_that_of_pubmedqas_script_to_the_last_bit(pairs):
    truth = {pmid: decision for pmid, (decision, _) in enumerate(pairs)}
    answers = {pmid: answer for pmid, (_, answer) in enumerate(pairs)}
    result = judge(truth, answers, resamples=20)
    # What a file of decisions holds, and evaluation.py is given.
    submitted = {str(pmid): counted(answers[pmid], truth[pmid]) for pmid in answers}
    expected = evaluation({str(pmid): decision for pmid, decision in truth.items()}, submitted)
    assert (result.accuracy, result.macro_f1) == expected
    right = outcomes(truth, answers)
    assert result.accuracy == pytest.approx(sum(right.values()) / len(right))
    low, high = result.accuracy_interval
    assert 0 <= low <= high <= 1


@given(PAIRS)
def test_an_answer_that_cannot_be_read_is_wrong_and_adds_no_class(pairs):
    for truth, answer in pairs:
        assert counted(answer, truth) == (answer or counted(None, truth))
        assert counted(None, truth) != truth
        assert counted(None, truth) in DECISIONS


def test_one_unread_answer_costs_its_own_item_and_not_a_quarter_of_macro_f1():
    truth = {pmid: DECISIONS[pmid % 3] for pmid in range(300)}
    answers = dict(truth) | {0: None}
    result = judge(truth, answers, resamples=20)
    assert result.accuracy == pytest.approx(299 / 300)
    # One yes is missed and one maybe too many.
    assert result.macro_f1 == pytest.approx((1 + 2 * 99 / 199 + 2 * 100 / 201) / 3)
    assert result.unparsable == 1
    assert result.predicted == {"yes": 99, "no": 100, "maybe": 100}
    assert result.truth == {"yes": 100, "no": 100, "maybe": 100}


def test_the_ground_truth_has_all_right_and_the_commonest_decision_its_share():
    truth = dict(enumerate(["yes"] * 6 + ["no"] * 3 + ["maybe"]))
    perfect = judge(truth, truth, resamples=20)
    assert (perfect.accuracy, perfect.macro_f1) == (1.0, 1.0)
    assert perfect.macro_f1_interval == (1.0, 1.0)
    always = judge(truth, dict.fromkeys(truth, "yes"), resamples=20)
    assert always.majority == (always.accuracy, always.macro_f1) == (0.6, pytest.approx(0.25))


def test_all_and_only_the_items_are_to_be_predicted():
    for predicted in ({1: "yes"}, {1: "yes", 2: "no", 3: "no"}):
        with pytest.raises(ValueError, match="all and only"):
            score({1: "yes", 2: "no"}, predicted)
    with pytest.raises(ValueError, match="all and only"):
        judge({1: "yes", 2: "no"}, {1: "yes"})
