"""The settings of what brings records in: NCBI, and the sources that are followed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from infra.settings_section import Positive, Seconds, Secret, Section


class Ncbi(Secret):
    """How NCBI is asked: its E-utilities, and NLM's files. The addresses may be of a mirror.

    NCBI wants an e-mail address and the name of the tool in every request.
    """

    email: str = ""
    tool: str = Field("kailin-stream", pattern=r"^[!-~]+$")
    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None
    eutils: str = Field(
        "https://eutils.ncbi.nlm.nih.gov/entrez/eutils", pattern=r"^https?://[^\s?#]+$"
    )
    files: str = Field("https://ftp.ncbi.nlm.nih.gov/pubmed", pattern=r"^https?://[^\s?#]+$")
    ca_file: Path | None = None
    requests_per_second: Seconds | None = None
    timeout: Seconds = 120.0
    attempts: Positive = 8
    retry_first: Seconds = 1.0
    retry_longest: Seconds = 60.0
    # An efetch gives at most 10,000 records.
    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    poll: Seconds = 3600.0
    overlap: Annotated[int, Field(ge=0)] = 2

    @field_validator("email")
    @classmethod
    def _address(cls, email: str) -> str:
        name, at, domain = email.partition("@")
        if email and not (name and at and domain and email.isprintable() and " " not in email):
            raise ValueError("expected an e-mail address, name@domain")
        return email

    @property
    def rate(self) -> float:
        """Requests a second: NCBI allows 3, and 10 with a key."""
        return self.requests_per_second or (10.0 if self.api_key.get_secret_value() else 3.0)


class Follow(Section):
    """Sources that `kailin up` follows: NLM's files, and queries to PubMed through Entrez."""

    nlm: tuple[Literal["baseline", "updates"], ...] = ()
    entrez: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.nlm or self.entrez)
