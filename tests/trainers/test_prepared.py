"""What a job trains on, from real tables and files to data sets on disk."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from deltalake import DeltaTable

from fakes.records import alignment, answer, ideal, passage, preference, retrieval, source
from fakes.tables import append
from streams.prompts import answer_prompt, context_text, question_prompt
from streams.records import Ideal
from trainers.config import Cpt, Dpo, SftAnswers, SftGenerators
from trainers.errors import DataError
from trainers.prepared import Prepared, cpt, dpo, sft_answers, sft_generators
from trainers.rows import Digest
from trainers.split import held_out

HELD_OUT = [pmid for pmid in range(1, 200) if held_out(pmid, 0.1)]
TRAINED = [pmid for pmid in range(1, 200) if not held_out(pmid, 0.1)]


def config(directory: Path, **settings: Any) -> dict[str, Any]:
    return {
        "id": "job",
        "output": directory / "output",
        "model": "base",
        "tracking": {"uri": "sqlite://"},
        "optimisation": {"learning_rate": 1e-5},
        **settings,
    }


def comparing(directory: Path, uri: str, **settings: Any) -> Dpo:
    data = {"table": uri, **settings.pop("data", {})}
    return Dpo.model_validate(config(directory, data=data, **settings))


def answering(directory: Path, uri: str, **settings: Any) -> SftAnswers:
    data = {"table": uri, **settings.pop("data", {})}
    return SftAnswers.model_validate(config(directory, data=data, **settings))


def pretraining(directory: Path, uri: str, **settings: Any) -> Cpt:
    data = {"table": uri, **settings.pop("data", {})}
    return Cpt.model_validate(config(directory, data=data, **settings))


def retrieved(pmid: int, passages: Sequence[int], **changes: Any) -> Ideal:
    """An ideal record whose context is these records."""
    context = retrieval("theta3", passages=tuple(map(passage, passages)))
    return ideal(pmid, alignments=(alignment("theta3", retrieval=context),), **changes)


def ids(pmids: Sequence[int]) -> list[str]:
    return [f"{pmid:032x}" for pmid in pmids]


def accounted(prepared: Prepared) -> int:
    report = prepared.report
    assert (report.train, report.held_out) == (len(prepared.train), len(prepared.held_out))
    return report.train + report.held_out + sum(report.left_out.values())


@pytest.fixture
def table(tmp_path: Path) -> str:
    return append(tmp_path, [preference(pmid) for pmid in range(1, 200)])


def test_a_preference_is_a_conversation(tmp_path: Path) -> None:
    text = source(5, title="On {braces} in 5.", abstract="Half of it fell.")
    uri = append(tmp_path, [preference(5, source=text)])
    (example,) = dpo(comparing(tmp_path, uri)).train
    asked = question_prompt("question/1", title="On {braces} in 5.", abstract="Half of it fell.")
    assert example == {
        "id": f"{5:032x}",
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [
            {
                "role": "assistant",
                "content": "Does aspirin lower platelet aggregation, asks theta1?",
            }
        ],
        "rejected": [
            {
                "role": "assistant",
                "content": "Does aspirin lower platelet aggregation, asks theta2?",
            }
        ],
    }


def test_records_are_split_by_pmid(tmp_path: Path, table: str) -> None:
    prepared = dpo(comparing(tmp_path, table))
    assert prepared.train["id"][:] == ids(TRAINED)
    assert prepared.held_out["id"][:] == ids(HELD_OUT)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    append(tmp_path, [preference(pmid) for pmid in range(1, 100)], retracted={7: "deleted"})
    uri = append(tmp_path, [preference(pmid) for pmid in range(100, 200)])
    (excluded := tmp_path / "pmids.txt").write_text("101\n102\n999\n")
    prepared = dpo(comparing(tmp_path, uri, data={"excluded": [excluded]}, selection={"most": 100}))
    report = prepared.report
    assert report.left_out["retracted"] == 1
    assert report.left_out["excluded PMID"] == 2
    assert report.rows == accounted(prepared) == DeltaTable(uri).count() == 199
    assert report.source == (uri,)
    assert report.version == DeltaTable(uri).version()


def test_the_digest_is_of_the_training_rows(tmp_path: Path, table: str) -> None:
    prepared, digest = dpo(comparing(tmp_path, table)), Digest()
    for id in reversed(ids(TRAINED)):
        digest.add(id)
    assert prepared.report.digest == digest.hex


def test_branches_are_counted_where_they_are_known(tmp_path: Path, table: str) -> None:
    (branches := tmp_path / "branches.tsv").write_text("D001241\tD\nD010974\tG\n")
    prepared = dpo(comparing(tmp_path, table, data={"branches": branches}))
    assert prepared.report.branches == {"D": len(TRAINED)}
    other = tmp_path / "other"
    assert dpo(comparing(other, table)).report.branches == {}
    with pytest.raises(DataError, match=r"branch_share: expected data.branches"):
        dpo(comparing(tmp_path / "third", table, selection={"branch_share": 0.5}))


def test_a_job_started_again_reads_the_same_bytes(tmp_path: Path, table: str) -> None:
    before = dpo(comparing(tmp_path, table))
    append(tmp_path, [preference(pmid) for pmid in range(200, 250)])
    after = dpo(comparing(tmp_path, table, beta=0.2))
    assert after.report == before.report
    assert after.train.to_list() == before.train.to_list()
    shutil.rmtree(table)
    assert dpo(comparing(tmp_path, table)).held_out.to_list() == before.held_out.to_list()


def test_a_pinned_version_gives_the_same_examples_elsewhere(tmp_path: Path, table: str) -> None:
    version = DeltaTable(table).version()
    before = dpo(comparing(tmp_path, table, selection={"most": 50}))
    append(tmp_path, [preference(pmid) for pmid in range(200, 250)])
    DeltaTable(table).optimize.compact()
    pinned = comparing(
        tmp_path / "elsewhere", table, data={"version": version}, selection={"most": 50}
    )
    assert dpo(pinned).report == replace(before.report, made_of=dpo(pinned).report.made_of)
    assert dpo(pinned).train.to_list() == before.train.to_list()


@pytest.mark.parametrize(
    "other",
    [
        {"selection": {"margin": 0.1}},
        {"data": {"held_out": 0.2}},
        {"data": {"version": 0}},
        {"seed": 1},
    ],
)
def test_what_was_prepared_otherwise_is_not_used(
    tmp_path: Path, table: str, other: dict[str, Any]
) -> None:
    dpo(comparing(tmp_path, table))
    with pytest.raises(DataError, match=r"prepared was made with another .* another `output`"):
        dpo(comparing(tmp_path, table, **other))


def test_a_half_written_one_is_made_anew(tmp_path: Path, table: str) -> None:
    (part := tmp_path / "output" / "prepared.0.tmp").mkdir(parents=True)
    (part / "train.arrow").write_bytes(b"half")
    assert len(dpo(comparing(tmp_path, table)).train) == len(TRAINED)
    assert not part.exists()


def test_of_two_processes_one_prepares(
    tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, rename = comparing(tmp_path, table), Path.rename

    def after_the_other(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setenv("RANK", "1")
        dpo(settings)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", after_the_other)
    assert len(dpo(settings).train) == len(TRAINED)
    assert [one.name for one in (tmp_path / "output").iterdir()] == ["prepared"]


def test_an_id_is_trained_on_once(tmp_path: Path) -> None:
    append(tmp_path, [preference(5), preference(7)])
    uri = append(tmp_path, [preference(5)])
    prepared = dpo(comparing(tmp_path, uri))
    assert prepared.train["id"][:] == ids([5, 7])
    assert prepared.report.left_out == {"id repeated": 1}
    assert prepared.report.rows == 3


def test_nothing_to_train_on(tmp_path: Path) -> None:
    uri = append(tmp_path, [preference(5)], retracted={5: "deleted"})
    with pytest.raises(DataError, match=r"version 1: no row is left to train on.* retracted 1"):
        dpo(comparing(tmp_path, uri))
    append(tmp_path, [preference(7)])
    assert len(dpo(comparing(tmp_path, uri)).train) == 1


def test_pretraining_tells_of_record_context_and_question(tmp_path: Path) -> None:
    uri = append(tmp_path, [retrieved(5, [2001, 2002])])
    (example,) = cpt(pretraining(tmp_path, uri)).train
    passages = [passage(2001), passage(2002)]
    assert source(5).title in example["text"]
    assert source(5).abstract in example["text"]
    assert context_text(passages) in example["text"]
    assert example["text"].endswith("Does aspirin lower platelet aggregation, asks theta3?")


def test_pretraining_gives_no_held_out_record_away(tmp_path: Path) -> None:
    secret = HELD_OUT[0]
    uri = append(tmp_path, [retrieved(5, [secret, 2001]), retrieved(6, [secret])])
    prepared = cpt(pretraining(tmp_path, uri))
    assert prepared.train["id"][:] == ids([5])
    assert passage(2001).title in prepared.train[0]["text"]
    assert passage(secret).title not in prepared.train[0]["text"]
    assert prepared.report.left_out == {"no passage that is not held out": 1}
    assert prepared.report.notes == {"held-out passages taken out of contexts": 2}


def test_a_benchmark_is_kept_out_of_contexts_too(tmp_path: Path) -> None:
    uri = append(tmp_path, [retrieved(5, [2001]), retrieved(6, [2001, 77]), retrieved(77, [2001])])
    (excluded := tmp_path / "ori_pqal.json").write_text(json.dumps({"77": {}}))
    data = {"excluded": [excluded]}
    for prepared in (
        cpt(pretraining(tmp_path / "cpt", uri, data=data)),
        sft_answers(answering(tmp_path / "answers", uri, data=data)),
    ):
        assert prepared.train["id"][:] == ids([5])
        assert prepared.report.left_out == {"excluded PMID": 1, "excluded PMID in its context": 1}


def test_an_answer_is_one_word(tmp_path: Path) -> None:
    uri = append(tmp_path, [retrieved(5, [2001], answer=answer(decision="maybe"))])
    (example,) = sft_answers(answering(tmp_path, uri)).train
    asked = answer_prompt(
        "answer/1",
        question="Does aspirin lower platelet aggregation, asks theta3?",
        context=context_text([passage(2001)]),
    )
    assert example == {
        "id": f"{5:032x}",
        "prompt": [{"role": "user", "content": asked}],
        "completion": [{"role": "assistant", "content": "Maybe"}],
    }


def test_a_long_answer_follows_where_the_prompt_asks_for_it(tmp_path: Path) -> None:
    uri = append(
        tmp_path,
        [
            ideal(5, answer=answer(long="It halved it.", decision="yes")),
            ideal(9, answer=answer(decision="no")),
            ideal(7, answer=None),
            ideal(8, answer=answer(decision=None, rejected="no option")),
        ],
    )
    prepared = sft_answers(answering(tmp_path, uri, prompt="answer-long/1"))
    assert [one["completion"][0]["content"] for one in prepared.train] == ["Yes\nIt halved it."]
    assert prepared.report.left_out == {"no long answer": 1, "no answer": 2}
    short = sft_answers(answering(tmp_path / "short", uri))
    assert [one["completion"][0]["content"] for one in short.train] == ["Yes", "No"]


def test_answers_of_pubmedqa(tmp_path: Path) -> None:
    entry = {
        "QUESTION": "Does aspirin help?",
        "CONTEXTS": ["Forty adults.", "It halved."],
        "LABELS": ["METHODS", "RESULTS"],
        "MESHES": ["Aspirin"],
        "final_decision": "yes",
        "LONG_ANSWER": "It helps.",
    }
    pqa, excluded = tmp_path / "ori_pqaa.json", tmp_path / "ori_pqal.json"
    pqa.write_bytes(orjson.dumps({str(pmid): entry for pmid in range(1, 200)}))
    excluded.write_bytes(orjson.dumps({"1": entry, "2": entry, "777": entry}))
    settings = SftAnswers.model_validate(config(tmp_path, pqa=pqa, excluded=[excluded]))
    prepared = sft_answers(settings)
    trained = [pmid for pmid in TRAINED if pmid not in (1, 2)]
    assert sorted(map(int, prepared.train["id"][:])) == trained
    assert sorted(map(int, prepared.held_out["id"][:])) == HELD_OUT
    assert prepared.report.left_out == {"excluded PMID": 2}
    assert prepared.report.version is None
    assert prepared.train[0]["completion"] == [{"role": "assistant", "content": "Yes"}]
    asked = prepared.train[0]["prompt"][0]["content"]
    assert "Does aspirin help?, Forty adults.\nIt halved..\n" in asked


def bioasq(file: Path, questions: dict[str, list[int]]) -> Path:
    """Task B with a snippet of each document."""
    url = "http://www.ncbi.nlm.nih.gov/pubmed/{}".format
    entries = [
        {
            "id": f"q{number}",
            "body": body,
            "documents": [url(pmid) for pmid in pmids],
            "snippets": [
                {"document": url(pmid), "text": f"Of {pmid}.", "beginSection": "abstract"}
                for pmid in pmids
            ],
        }
        for number, (body, pmids) in enumerate(questions.items())
    ]
    file.write_text(json.dumps({"questions": entries}))
    return file


def test_questions_of_bioasq(tmp_path: Path) -> None:
    file = bioasq(tmp_path / "b.json", {"Does aspirin help at all?": [5]})
    prepared = sft_generators(SftGenerators.model_validate(config(tmp_path, bioasq=[file])))
    assert prepared.train[0] == {
        "id": "q0/5",
        "prompt": [
            {"role": "user", "content": question_prompt("question/1", title="", abstract="Of 5.")}
        ],
        "completion": [{"role": "assistant", "content": "Does aspirin help at all?"}],
    }
    assert prepared.report.notes == {"examples without a title": 1}
    assert not len(prepared.held_out)


def test_neither_a_record_nor_a_question_crosses(tmp_path: Path) -> None:
    bodies = {
        f"Does drug {number} help at all?": [number + 1, 198 - number] for number in range(99)
    }
    file = bioasq(tmp_path / "b.json", bodies)
    (excluded := bioasq(tmp_path / "test.json", {"Was it asked in the test?": [3, 4]}))
    settings = SftGenerators.model_validate(
        config(tmp_path, bioasq=[file], excluded=[excluded], held_out=0.3)
    )
    prepared = sft_generators(settings)
    asked = [
        {one["completion"][0]["content"] for one in side}
        for side in (prepared.train, prepared.held_out)
    ]
    pmids = [
        {int(id.partition("/")[2]) for id in side["id"]}
        for side in (prepared.train, prepared.held_out)
    ]
    assert all(asked)
    assert not asked[0] & asked[1]
    assert not pmids[0] & pmids[1]
    assert not (pmids[0] | pmids[1]) & {3, 4}
    assert all(held_out(pmid, 0.3) for pmid in pmids[1])
    assert not any(held_out(pmid, 0.3) for pmid in pmids[0])
    assert prepared.report.rows == accounted(prepared) == 198
    assert prepared.report.left_out["excluded PMID"] == 2
