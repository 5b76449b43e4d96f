"""Questions and what they were asked of, from BioASQ task B."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.bioasq import Example, pmid, read
from trainers.errors import DataError

ABSTRACT = "Aspirin was given to forty adults. Aggregation fell by half. It rose in none."


def url(document: int) -> str:
    return f"http://www.ncbi.nlm.nih.gov/pubmed/{document}"


def snippet(document: int, text: str, start: int = 0, section: str = "abstract") -> dict[str, Any]:
    return {
        "document": url(document),
        "text": text,
        "beginSection": section,
        "endSection": section,
        "offsetInBeginSection": start,
        "offsetInEndSection": start + len(text),
    }


def question(*snippets: dict[str, Any], **changes: Any) -> dict[str, Any]:
    example = {
        "id": "5c56",
        "type": "yesno",
        "body": "Does aspirin lower platelet aggregation?",
        "documents": list(dict.fromkeys(one["document"] for one in snippets)),
        "snippets": list(snippets),
        "concepts": ["http://www.nlm.nih.gov/cgi/mesh/2019/MB_cgi?field=uid&term=D001241"],
        "triples": [{"p": "p", "s": "s", "o": "o"}],
        "exact_answer": "yes",
        "ideal_answer": ["Yes."],
    }
    return example | changes


def examples(
    directory: Path, *questions: dict[str, Any], records: list[Any] | None = None
) -> tuple[list[Example], Counter[str]]:
    file, lines, left_out = directory / "bioasq.json", None, Counter[str]()
    file.write_text(json.dumps({"questions": questions}))
    if records is not None:
        lines = directory / "records.jsonl"
        lines.write_text("\n".join(map(json.dumps, records)))
    return list(read([file], lines, left_out)), left_out


def test_a_question_and_its_document(tmp_path: Path) -> None:
    title = snippet(11, "Aspirin in adults.", section="title")
    found, left_out = examples(tmp_path, question(title, snippet(11, ABSTRACT)))
    assert found == [
        Example(
            id="5c56/11",
            pmid=11,
            lead=11,
            title="Aspirin in adults.",
            abstract=ABSTRACT,
            question="Does aspirin lower platelet aggregation?",
        )
    ]
    assert not left_out


def test_an_example_for_each_document(tmp_path: Path) -> None:
    found, _ = examples(tmp_path, question(snippet(11, "One."), snippet(12, "Two.")))
    assert [(one.pmid, one.lead, one.abstract) for one in found] == [
        (11, 11, "One."),
        (12, 11, "Two."),
    ]


def test_title_and_context_are_of_the_document_whoever_asked(tmp_path: Path) -> None:
    other = question(
        snippet(11, "Aspirin in adults.", section="title"),
        id="other",
        body="What is aspirin given to adults for?",
    )
    found, _ = examples(tmp_path, question(snippet(11, ABSTRACT)), other)
    assert {(one.id, one.title, one.abstract) for one in found} == {
        ("5c56/11", "Aspirin in adults.", ABSTRACT),
        ("other/11", "Aspirin in adults.", ABSTRACT),
    }


@given(spans=st.lists(st.tuples(st.integers(0, len(ABSTRACT)), st.integers(1, 40)), min_size=1))
def test_snippets_are_joined_in_order_and_overlaps_stand_once(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]]
) -> None:
    # Each character has a place of its own.
    text = "".join(chr(0x4E00 + at) for at in range(len(ABSTRACT)))
    parts = [(start, text[start : start + length]) for start, length in spans]
    snippets = [snippet(11, part, start) for start, part in parts if part]
    if not snippets:
        return
    found, _ = examples(tmp_path_factory.mktemp("spans"), question(*snippets))
    covered = {character for _, part in parts for character in part}
    gaps = "".join(character if character in covered else " " for character in text)
    assert found[0].abstract == " ".join(gaps.split())


def test_a_title_that_begins_later_is_a_part_of_one(tmp_path: Path) -> None:
    part = snippet(11, "in adults.", start=8, section="title")
    found, _ = examples(tmp_path, question(part, snippet(11, ABSTRACT)))
    assert [one.title for one in found] == [""]


def test_a_record_stands_for_its_snippets(tmp_path: Path) -> None:
    documents = [url(11), url(12), url(13)]
    found, left_out = examples(
        tmp_path,
        question(snippet(11, "A part."), documents=documents),
        records=[
            {"pmid": 11, "title": "Whole title.", "abstract": "Whole  abstract."},
            {"pmid": 12, "title": "No snippet.", "abstract": "But a record."},
            {"pmid": 13, "title": "No abstract.", "abstract": ""},
            {"pmid": 99, "title": "Another.", "abstract": "Record."},
        ],
    )
    assert [(one.pmid, one.title, one.abstract) for one in found] == [
        (11, "Whole title.", "Whole abstract."),
        (12, "No snippet.", "But a record."),
    ]
    assert left_out == {"document without a context": 1}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    _, left_out = examples(
        tmp_path,
        question(snippet(11, ABSTRACT)),
        question(snippet(11, ABSTRACT), id="again"),
        question(snippet(11, ABSTRACT), body="List the effects of aspirin."),
        question(snippet(11, ABSTRACT), body="What is aspirin?"),
        question(snippet(11, ABSTRACT), body=" "),
        question(body="Was nothing found about aspirin?"),
        question(documents=[url(14)], body="Was nothing quoted about aspirin?"),
        question(snippet(15, "Only a title.", section="title"), id="title"),
    )
    assert left_out == {
        "question and document repeated": 1,
        "not a question": 1,
        "too short": 1,
        "empty": 1,
        "question without documents": 1,
        "document without a context": 2,
    }


def test_odd_entries_are_passed_over(tmp_path: Path) -> None:
    odd = [
        "text",
        {"text": "no document"},
        {"document": url(11)},
        {"document": url(11), "text": 5},
        {"document": url(11), "text": " "},
        {"document": "http://elsewhere/11", "text": "not PubMed's"},
        {"document": url(11), "text": "No offsets."},
    ]
    found, _ = examples(tmp_path, question(snippets=odd, documents=[url(11), 5, None, "x"]))
    assert [one.abstract for one in found] == ["No offsets."]
    assert examples(tmp_path, question(snippets=None, documents=None))[0] == []


def test_gzip(tmp_path: Path) -> None:
    file = tmp_path / "bioasq.json.gz"
    asked = question(snippet(11, ABSTRACT))
    file.write_bytes(gzip.compress(json.dumps({"questions": [asked]}).encode()))
    assert len(list(read([file], None, Counter()))) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "expected BioASQ task B"),
        ('{"21645374": {}}', "expected BioASQ task B"),
        ('{"questions": [{"body": "q?"}, {"id": 1}]}', "question 2: expected an object with a `b"),
    ],
)
def test_another_file(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "bioasq.json"
    file.write_text(content)
    with pytest.raises(DataError) as raised:
        list(read([file], None, Counter()))
    assert str(raised.value).startswith(f"{file}: {complaint}")


@pytest.mark.parametrize(
    "line",
    [
        '{"pmid": 1}',
        "[]",
        "5",
        "title",
        '{"pmid": "x", "title": "t", "abstract": "a"}',
        '{"pmid": 1, "title": 5, "abstract": ""}',
    ],
)
def test_a_line_that_is_no_record(tmp_path: Path, line: str) -> None:
    file, records = tmp_path / "bioasq.json", tmp_path / "records.jsonl"
    file.write_text(json.dumps({"questions": [question(snippet(11, ABSTRACT))]}))
    records.write_text("\n" + line + "\n")
    with pytest.raises(DataError, match=r"records.jsonl: line 2: expected a JSON object with pmid"):
        list(read([file], records, Counter()))


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://www.ncbi.nlm.nih.gov/pubmed/34022131", 34022131),
        ("https://www.ncbi.nlm.nih.gov/pubmed/0012/", 12),
        ("https://pubmed.ncbi.nlm.nih.gov/12", 12),
        ("http://www.ncbi.nlm.nih.gov/pubmed/", None),
        ("http://www.ncbi.nlm.nih.gov/pmc/articles/PMC12", None),
        ("http://example.org/pubmed/12", None),
        (12, None),
    ],
)
def test_the_pmid_of_an_address(address: object, found: int | None) -> None:
    assert pmid(address) == found
