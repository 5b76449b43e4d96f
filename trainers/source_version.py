"""Which version of this program runs."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def source_version() -> str:
    """What git says of the checkout this is run from, else the installed package's version."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return version("kailin-stream")
    except PackageNotFoundError:
        return "unknown"
