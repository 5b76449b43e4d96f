"""What docs/metrics.md says of how many series there may be."""

import re
from pathlib import Path

DOCUMENT = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()


def bounds() -> dict[str, int]:
    """The most values that each label may have."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", DOCUMENT, re.MULTILINE)
    return {label: int(most) for label, most in rows}


def most_series() -> int:
    """How many series a process may show."""
    (found,) = re.findall(r"fewer than ([\d,]+) series", DOCUMENT)
    return int(found.replace(",", ""))
