"""The lines of a log: what they carry, what they must not, and how a person reads them."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.log_tail import tail
from infra.logs import secrets_of
from infra.settings import Settings
from streams.at_hand import at_hand, place
from streams.log_lines import MESSAGE, QUOTED, JsonLine, TextLine, readable, said

SECRET = "a-key-that-nobody-may-see"
MESSAGE_3 = SimpleNamespace(topic="questions", partition=3, offset=42, key=b"31775930")


def record(text: str, *values: object, error: BaseException | None = None) -> logging.LogRecord:
    about = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("infra.x", logging.WARNING, "x.py", 1, text, values, about)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


def as_json(line: logging.LogRecord, *secrets: str) -> dict[str, object]:
    return json.loads(JsonLine("generate", secrets).format(line))


def test_a_line_says_when_who_and_what():
    line = as_json(record("%s is away for %.1f s", "broker", 2))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "stage": "generate",
        "logger": "infra.x",
        "message": "broker is away for 2.0 s",
    }


def test_a_line_carries_the_message_at_hand_and_its_record():
    with at_hand(**place(MESSAGE_3)):
        line = as_json(record("slow"))
    known = {"pmid": 31775930, "topic": "questions", "partition": 3, "offset": 42}
    assert known.items() <= line.items()
    assert not known.keys() & as_json(record("slow")).keys()


@pytest.mark.parametrize("key", [None, b"", b"theta3", b"-4", b"12345678901", b"\xff"])
def test_a_key_that_is_no_pmid_is_not_taken_for_one(key: bytes | None):
    message = SimpleNamespace(topic="jobs", partition=0, offset=1, key=key)
    with at_hand(**place(message)):
        assert "pmid" not in as_json(record("slow"))


async def test_tasks_have_their_own_message_at_hand():
    async def line(pmid: int) -> object:
        with at_hand(pmid=pmid):
            await asyncio.sleep(0)
            return as_json(record("slow"))["pmid"]

    assert await asyncio.gather(*map(line, range(1, 20))) == list(range(1, 20))


def test_an_exception_is_one_field_with_its_causes():
    try:
        try:
            raise ValueError("the cause")
        except ValueError as cause:
            raise RuntimeError("the fault") from cause
    except RuntimeError as error:
        error.add_note("questions partition 3 offset 42 is not committed")
        line = as_json(record("stopped", error=error))
    stack = str(line["exception"])
    assert stack.index("ValueError: the cause") < stack.index("RuntimeError: the fault")
    assert "Traceback" in stack
    assert "test_log_lines.py" in stack
    assert stack.rstrip().endswith("offset 42 is not committed")


def test_all_parts_of_a_group_of_exceptions_are_told():
    group = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
    stack = str(as_json(record("stopped", error=raised(group)))["exception"])
    assert "ValueError: one" in stack
    assert "KeyError: 'two'" in stack


@given(
    abstract=st.text("abcdefghij ", min_size=QUOTED + 1, max_size=20_000),
    form=st.sampled_from(["%s", "refused: %r", "%(text)s"]),
)
def test_of_a_long_text_only_the_beginning_is_told(abstract: str, form: str):
    values = ({"text": abstract},) if "(" in form else (abstract,)
    line = JsonLine("generate").format(record(form, *values, error=raised(ValueError(abstract))))
    assert abstract[: QUOTED + 1] not in line
    assert len(line) < 10_000


def test_a_message_without_values_is_bounded_too():
    assert len(str(as_json(record("x" * 100_000))["message"])) < MESSAGE + 100


def test_no_secret_of_the_settings_is_told():
    settings = Settings(
        servers={"local": {"api_key": SECRET}},
        kafka={"username": "kailin", "password": f"{SECRET}-too"},
        tracing={"headers": f"authorization={SECRET}"},
    )
    secrets = set(secrets_of(settings))
    assert secrets == {SECRET, f"{SECRET}-too", f"authorization={SECRET}"}
    error = raised(ValueError(f"refused {SECRET}"))
    line = record(f"at https://me:{SECRET}@host/: %s", f"{SECRET}-too", error=error)
    for form in (JsonLine, TextLine):
        told = form("generate", secrets).format(line)
        assert SECRET not in told
        assert "me:" not in told
        assert "host" in told


def test_a_short_secret_does_not_blot_out_words():
    assert as_json(record("a cat"), "a", "cat")["message"] == "a cat"


def test_a_line_is_read_as_text_whichever_form_it_has():
    with at_hand(**place(MESSAGE_3)):
        line = record("%s away", "broker", error=raised(ValueError("why")))
        text, json_line = TextLine("generate").format(line), JsonLine("generate").format(line)
    assert readable(json_line) == text == readable(text)
    assert text.splitlines()[0].endswith(
        "WARNING infra.x: broker away [pmid=31775930 topic=questions partition=3 offset=42]"
    )
    assert text.endswith("ValueError: why")


@pytest.mark.parametrize("line", ["{", '{"a": 1}', "[1]", "port 9092 is taken", ""])
def test_a_line_of_others_is_read_as_it_is(line: str):
    assert readable(line) == line


def test_what_a_line_says_is_told_without_its_lead():
    assert said(JsonLine("judge").format(record("no %s", "champion"))) == "no champion"
    assert said(TextLine("judge").format(record("no champion"))) == "no champion"
    assert said("2026-03-07 10:00:00,123 ERROR trainers.sft: out of memory") == "out of memory"
    assert said("ValueError: 12") == "ValueError: 12"


def test_the_end_of_a_log_is_what_was_written_since(tmp_path: Path):
    log = tmp_path / "index.log"
    log.write_text("of a run before\n")
    began = log.stat().st_size
    lines = [JsonLine("index").format(record("line %d", n)) for n in range(2000)]
    log.write_text("of a run before\n" + "\n".join([*lines, "", "a line of Java's", ""]))
    shown = tail(log, 3, began)
    assert [line.partition("infra.x: ")[2] or line for line in shown] == [
        "line 1998",
        "line 1999",
        "a line of Java's",
    ]
    assert tail(log, 5000, began)[0].startswith("20")


PROGRAM = """
import logging, sys, threading
from infra import logs
from infra.settings import Settings
logs.configure(Settings(log={"format": sys.argv[1], "level": "DEBUG"}), "index")
logging.getLogger("infra.x").debug("ours")
logging.getLogger("aiokafka.conn").info("theirs")
thread = threading.Thread(target=lambda: 1 / 0, name="reader")
thread.start(); thread.join()
raise ValueError("the end")
"""


@pytest.mark.parametrize("form", ["auto", "json"])
def test_off_a_terminal_every_line_is_json(form: str):
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("DEBUG", "ours"),
        ("CRITICAL", "reader ended by a fault of its own"),
        ("CRITICAL", "MainThread ended by a fault of its own"),
    ]
    assert "ZeroDivisionError: division by zero" in lines[1]["exception"]
    assert "ValueError: the end" in lines[2]["exception"]
    assert done.returncode == 1


def test_as_text_a_line_is_for_a_person():
    command = [sys.executable, "-c", PROGRAM, "text"]
    lines = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    assert lines[0].endswith("Z DEBUG infra.x: ours")
    assert lines[-1] == "ValueError: the end"
