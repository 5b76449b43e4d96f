"""The settings of what a process says about its work: its log, and its traces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from infra.settings_section import Secret, Section, Share
from streams.log_lines import Form


class Log(Section):
    """`auto`: lines for a person on a terminal, JSON elsewhere. `level` is for our own lines."""

    format: Form = "auto"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Tracing(Secret):
    """`endpoint` empty: no traces. `headers` as OpenTelemetry writes them: name=value,name=value.

    `sample` is the share of records that are traced, each through all stages or not at all.
    """

    endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    sample: Share = 1.0
    headers: SecretStr = SecretStr("")
    headers_file: Path | None = None
    ca_file: Path | None = None

    @property
    def header_fields(self) -> dict[str, str]:
        """The headers, by name."""
        return dict(_pairs(self.headers))

    @field_validator("headers")
    @classmethod
    def _named(cls, headers: SecretStr) -> SecretStr:
        if not all(name and value for name, value in _pairs(headers)):
            raise ValueError("expected name=value, several with commas between them")
        return headers


def _pairs(headers: SecretStr) -> Iterator[tuple[str, str]]:
    for pair in filter(None, headers.get_secret_value().split(",")):
        name, _, value = pair.partition("=")
        yield name.strip(), value.strip()
