"""Log lines that repeat while a component is away are counted, not printed."""

import logging

from infra.logs import OncePer


def line(name: str, text: str, *, lineno: int = 1, level: int = logging.WARNING):
    return logging.LogRecord(name, level, "file.py", lineno, text, (), None)


def test_a_noisy_line_passes_once_and_then_says_how_many_were_left_out():
    now = 0.0
    filter = OncePer(60, clock=lambda: now)
    assert filter.filter(line("aiokafka.conn", "refused"))
    assert not any(filter.filter(line("aiokafka.conn", "refused")) for _ in range(99))
    now = 60.0
    last = line("aiokafka.conn", "refused")
    assert filter.filter(last)
    assert last.getMessage() == "refused (and 99 more like it before)"


def test_lines_from_other_places_pass():
    filter = OncePer(60)
    assert filter.filter(line("aiokafka.conn", "refused"))
    assert filter.filter(line("aiokafka.conn", "closed", lineno=2))


def test_nothing_is_left_out_of_what_a_quiet_logger_writes():
    filter = OncePer(60)
    assert all(filter.filter(line("infra.tables", "slow")) for _ in range(10))


def test_the_reason_why_a_stage_stops_always_passes():
    filter = OncePer(60)
    stops = line("consumers.agent", "stopped", level=logging.ERROR)
    assert all(filter.filter(stops) for _ in range(3))
