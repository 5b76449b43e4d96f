"""Reads the settings: one TOML file and the environment, checked before anything starts.

The environment overrides the file: `KAILIN_KAFKA__BOOTSTRAP=broker:9092` sets `bootstrap` of
`[kafka]`. Secrets are given by environment or as the path of a file (`*_file`), never in the TOML
file's own text.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError as EnvSettingsError

from infra.settings import Settings, SettingsError

SECRETS = ("password", "api_key", "token", "webhook", "heartbeat", "headers")
NO_SUCH = "there is no such setting; `infra/kailin.example.toml` lists them all"


def load(path: Path | None) -> Settings:
    """The settings of `path` (None: `kailin.toml` where there is one) and the environment.

    Raises `SettingsError` with a line for each wrong setting.
    """
    chosen = path or Path("kailin.toml")
    if unknown := [name for name in os.environ if _unknown(name)]:
        raise SettingsError("\n".join(f"{name}: {NO_SUCH}" for name in unknown))
    try:
        values = tomllib.loads(chosen.read_text()) if path or chosen.exists() else {}
    except OSError as error:
        raise SettingsError(f"{chosen}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{chosen}: not valid TOML: {error}") from None
    if open_secrets := list(_secrets(values)):
        raise SettingsError("\n".join(open_secrets))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(wrong) for wrong in error.errors())) from None
    except EnvSettingsError as error:
        raise SettingsError(f"environment: {error}") from None


def _unknown(variable: str) -> bool:
    """Whether an environment variable is meant for this program and names no setting."""
    name = variable.upper()
    if not name.startswith("KAILIN_") or name == "KAILIN_CONFIG":
        return False
    return name.removeprefix("KAILIN_").split("__")[0].lower() not in Settings.model_fields


def _secrets(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each secret that stands in the file itself, where others may read it."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _secrets(value, (*path, key))
        elif key in SECRETS and value:
            variable = "KAILIN_" + "__".join((*path, key)).upper()
            yield f"{'.'.join((*path, key))}: give a secret as {variable} or by {key}_file"


def _line(wrong: ErrorDetails) -> str:
    key = ".".join(str(part) for part in wrong["loc"])
    message = wrong["msg"].removeprefix("Value error, ")
    if wrong["type"] == "extra_forbidden":
        message = NO_SUCH
    # A section as a whole may hold a secret, so only single values are shown.
    value = wrong["input"]
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
    if re.search(rf"\b({'|'.join(SECRETS)})(_file)?$", key):
        shown = ""
    return f"{key}{shown}: {message}" if key else message
