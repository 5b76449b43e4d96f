"""Which certificates are trusted where a connection is encrypted."""

import ssl
from pathlib import Path

from infra.settings import SettingsError


def trust(ca_file: Path | None, setting: str) -> ssl.SSLContext:
    """TLS that trusts the authorities in a PEM file, or without one those of the system.

    Raises `SettingsError` with the name of the setting where the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"{setting} = '{ca_file}': expected a PEM file of CA certificates: "
            f"{error.strerror or error}"
        ) from None
