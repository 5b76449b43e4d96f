"""The tables open in the tools that people have, and print for reading."""

import io
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from fakes.entries import entry
from fakes.records import alignment, answer, ideal, preference, rejected, retrieval, unscored
from infra.delta_sink import DeltaSink
from infra.records_view import show
from infra.settings import Settings
from infra.tables import SCHEMAS, TableError, open_table, row_counts
from streams.metrics import Metrics
from streams.records import Alignment, Ideal, Preference


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tables=str(tmp_path / "tables"))


@pytest.fixture
def filled(settings: Settings) -> Settings:
    without = Alignment(
        retrieval=retrieval(candidate=rejected("theta2"), passages=()), unscored="no question"
    )
    append(
        settings,
        preference(1001),
        preference(1002),
        preference(1003, outcome="tie", reason="gap under the margin"),
        preference(
            1004,
            outcome="unscorable",
            reason="no question",
            alignments=(alignment("theta1", 0.25), without),
        ),
    )
    return settings


def snippets() -> list[str]:
    """The ways to open a table that the README shows."""
    readme = Path(__file__).parent.parent.parent / "README.md"
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)


def append(settings: Settings, *records: Preference | Ideal, first: int = 0) -> None:
    sink = DeltaSink(settings, Metrics(CollectorRegistry()))
    sink.open()
    sink.append([entry(offset, record) for offset, record in enumerate(records, first)])


def printed(table: str, settings: Settings, limit: int = 5, **how: bool) -> str:
    console = Console(file=io.StringIO(), width=120)
    status = show(table, settings, limit, console=console, **how)
    text = console.file.getvalue()
    return f"[{status}] {text}"


def opened(settings: Settings, tool: str) -> dict[str, Any]:
    """What is there after the README's lines for this tool."""
    (lines,) = [snippet for snippet in snippets() if tool in snippet]
    names: dict[str, Any] = {}
    exec(lines.replace(".data/tables", settings.tables_uri), names)  # noqa: S102
    return names


def test_opens_in_pandas(filled):
    frame = opened(filled, "to_pandas")["frame"]
    assert sorted(frame["pmid"]) == [1001, 1002]
    assert list(frame["score_chosen"] - frame["score_rejected"]) == pytest.approx([0.2, 0.2])
    assert frame["context_chosen"][0][0]["title"] == "Platelets and salicylates, part 2001."
    assert set(frame["month"]) == {"2026-03"}


def test_opens_in_duckdb(filled):
    names = opened(filled, "duckdb")
    assert names["wins"] == [("theta1", 2)]
    assert names["preferences"].count_rows() == 2


def test_opens_in_hf_datasets(filled):
    pytest.importorskip("datasets")
    data = opened(filled, "datasets import")["data"]
    first = data.sort("pmid")[0]
    assert first["pmid"] == 1001
    assert first["question_chosen"] == "Does aspirin lower platelet aggregation, asks theta1?"
    assert first["context_rejected"][1]["pmid"] == 2002


def test_rows_are_counted_from_the_log(filled):
    assert row_counts(filled) == {"preferences": 2, "dropped": 2, "parked": 0, "ideal": 0}


def test_rows_of_tables_that_are_not_there(settings):
    assert row_counts(settings) == dict.fromkeys(SCHEMAS, 0)
    with pytest.raises(TableError, match="there is no table `preferences`"):
        open_table(settings, "preferences")


def test_a_preference_is_printed_for_reading(filled):
    text = printed("preferences", filled, limit=1)
    assert text.startswith("[0] ")
    assert "Aspirin and platelet aggregation in trial 1001." in text
    assert "trial 1002" not in text
    assert "q+  Does aspirin lower platelet aggregation, asks theta1?  0.600  theta1@base" in text
    assert "q−  Does aspirin lower platelet aggregation, asks theta2?  0.400  theta2@base" in text
    assert "Platelets and salicylates, part 2002." in text
    assert "BM25 1, dense 2" in text
    assert "PMID 1001" in text


def test_a_dropped_record_is_printed_with_its_reason(filled):
    text = printed("dropped", filled)
    assert "tie: gap under the margin" in text
    assert "unscorable: no question" in text
    assert "(no question: not a question)" in text
    assert "0.250" in text


def test_an_ideal_record_is_printed_with_its_context_and_answer(settings):
    long = answer(decision="no", long="Aggregation did not change.")
    append(settings, ideal(1001, answer=long), ideal(1002, answer=None))
    text = printed("ideal", settings)
    assert "q  Does aspirin lower platelet aggregation, asks theta3?  0.600  theta3@base" in text
    assert "Platelets and salicylates, part 2002." in text
    assert "a  no  teacher (teacher-70b@base)" in text
    assert "Aggregation did not change." in text
    assert text.count("a  ") == 1


def test_an_answer_that_could_not_be_read_says_why(settings):
    append(settings, ideal(1001, answer=answer(decision=None, rejected="no decision")))
    assert "a  (no answer: no decision)" in printed("ideal", settings)


def test_a_question_below_the_gate_is_printed_with_the_floor(settings):
    append(settings, ideal(1001, outcome="below the gate", reason="low alignment"))
    text = printed("dropped", settings)
    assert "below the gate: low alignment" in text
    assert "floor 0.2" in text


def test_a_parked_record_is_printed_with_what_it_waits_for(settings):
    waiting = unscored("theta1", "record without MeSH")
    reason = "record without MeSH"
    append(
        settings,
        preference(1001, outcome="unscorable", reason=reason, alignments=(waiting, waiting)),
    )
    text = printed("parked", settings)
    assert "unscorable: record without MeSH" in text
    assert "Does aspirin lower platelet aggregation, asks theta1?" in text


def test_the_newest_are_printed(filled):
    append(filled, preference(500), first=10)
    assert "trial 500" in printed("preferences", filled, limit=1)


def test_a_row_that_stands_no_more_says_so(filled):
    assert "stands no more" not in printed("preferences", filled)
    open_table(filled, "preferences").update(
        predicate="pmid = 1002", new_values={"retracted": "deleted"}
    )
    assert "stands no more: deleted" in printed("preferences", filled)


def test_json_is_one_object_a_line(filled):
    text = printed("preferences", filled, as_json=True).removeprefix("[0] ")
    objects = [orjson.loads(line) for line in text.splitlines()]
    assert [each["pmid"] for each in objects] == [1001, 1002]
    assert set(objects[0]) == set(SCHEMAS["preferences"].names)


def test_a_table_that_is_not_there_is_one_clear_line(settings):
    text = printed("preferences", settings)
    assert text.startswith("[1] there is no table `preferences` at ")
    assert text.count("\n") == 1


def test_a_name_that_no_table_has(settings):
    assert printed("prefs", settings) == (
        "[2] there is no table 'prefs': expected one of preferences, dropped, parked, ideal\n"
    )


def test_a_table_without_rows(filled):
    assert printed("ideal", filled) == "[0] table ideal has no rows yet\n"
