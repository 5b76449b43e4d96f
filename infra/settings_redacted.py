"""The settings as they may be shown: which secrets are set, and none of them."""

from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, SecretStr

from streams.log_lines import SET, without_secrets

Shown: TypeAlias = dict[str, Any]


def redacted(section: BaseModel) -> Shown:
    """The settings, or a section of them, as plain values: a secret is "***" where it is set.

    User and password are taken out of addresses too, and keys out of their queries.
    """
    return {name: _shown(value) for name, value in section}


def _shown(value: object) -> object:
    if isinstance(value, BaseModel):
        return redacted(value)
    if isinstance(value, dict):
        return {str(key): _shown(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_shown(part) for part in value]
    if isinstance(value, SecretStr):
        return SET if value.get_secret_value() else ""
    return without_secrets(str(value)) if isinstance(value, str | Path) else value
