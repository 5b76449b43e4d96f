"""What a check of `kailin doctor` found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one thing that was looked at, and what to do where it is not well."""

    area: str
    verdict: Verdict
    said: str
    remedy: str = ""


def ok(area: str, said: str) -> Finding:
    return Finding(area, "ok", said)


def warning(area: str, said: str, remedy: str) -> Finding:
    return Finding(area, "warning", said, remedy)


def problem(area: str, said: str, remedy: str) -> Finding:
    return Finding(area, "problem", said, remedy)
