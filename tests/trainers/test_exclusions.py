"""Benchmarks' PMIDs, from the files that publish them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import DataError
from trainers.exclusions import read

PUBMED = "http://www.ncbi.nlm.nih.gov/pubmed/"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "excluded"


def dump(file: Path, value: Any) -> Path:
    file.write_text(json.dumps(value))
    return file


def test_the_keys_of_pubmedqa(file: Path) -> None:
    assert read([dump(file, {"21645374": {"QUESTION": "?"}, "16418930": {}})]) == {
        21645374,
        16418930,
    }


def test_the_keys_of_a_ground_truth(file: Path) -> None:
    assert read([dump(file, {"12377809": "yes", "26163474": "no"})]) == {12377809, 26163474}


def test_the_documents_and_snippets_of_bioasq(file: Path) -> None:
    questions = [
        {"body": "q", "documents": [PUBMED + "11", "https://pubmed.ncbi.nlm.nih.gov/12/"]},
        {"body": "q", "snippets": [{"document": PUBMED + "13", "text": "t"}]},
        {"body": "q", "documents": ["http://www.ncbi.nlm.nih.gov/pmc/articles/PMC14"]},
    ]
    assert read([dump(file, {"questions": questions})]) == {11, 12, 13}


@given(pmids=st.lists(st.integers(1, 10**10 - 1), min_size=1))
def test_a_pmid_on_each_line(tmp_path_factory: pytest.TempPathFactory, pmids: list[int]) -> None:
    file = tmp_path_factory.mktemp("lines") / "pmids.txt"
    file.write_text("# of a benchmark\n\n" + "".join(f"  {pmid} # one\r\n" for pmid in pmids))
    assert read([file]) == set(pmids)


def test_gzip_and_several_files(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(b'{"7": "yes"}'))
    file.write_text("8\n")
    assert read([packed, file]) == {7, 8}


def test_no_files_exclude_nothing() -> None:
    assert read([]) == frozenset()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("123\n12a\n", "line 2: expected a PMID, got '12a'"),
        ("0\n", "line 1: expected a PMID"),
        ("12345678901\n", "line 1: expected a PMID"),
        ("pmid\n1\n", "line 1: expected a PMID, got 'pmid'"),
        ("", "names no PMID"),
        ("# nothing\n", "names no PMID"),
        ("{}", "names no PMID"),
        ('{"questions": []}', "names no PMID"),
        ('{"questions": [1]}', "question 1: expected an object"),
        ('{\n"1": \n', "line 3: not valid JSON"),
        ('{"PMC12": {}}', "key 'PMC12': expected a PMID"),
        ("[1, 2]", "expected PubMedQA's JSON, BioASQ's, or a PMID on each line"),
        ("\xff\xfe", "line 1: expected a PMID"),
    ],
)
def test_a_file_that_is_wrong(file: Path, content: str, complaint: str) -> None:
    file.write_text(content, encoding="latin-1")
    with pytest.raises(DataError) as raised:
        read([file])
    assert str(file) in str(raised.value)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(DataError, match=r"excluded: cannot be read: No such file"):
        read([file])
    file.write_bytes(gzip.compress(b"1\n" * 1000)[:-9])
    with pytest.raises(DataError, match=r"excluded: cannot be read: "):
        read([file])
