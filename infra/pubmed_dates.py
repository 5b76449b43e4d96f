"""Dates of PubMed XML, as precise as they are written, to ISO 8601."""

import re
from datetime import date
from functools import lru_cache

from lxml import etree

MONTHS = {
    "jan": "01",
    "feb": "02",
    "mar": "03",
    "apr": "04",
    "may": "05",
    "jun": "06",
    "jul": "07",
    "aug": "08",
    "sep": "09",
    "oct": "10",
    "nov": "11",
    "dec": "12",
}
# The start of "2000", "2000 Spring", "2000 Nov-Dec", "2000 Apr 15-30", "1998 Dec-1999 Jan".
MEDLINE_DATE = re.compile(r"\b(\d{4})\b(?:\s+([A-Za-z]{3})[a-z]*\b\.?(?:\s+(\d{1,2})\b)?)?", re.A)


def iso(element: etree._Element | None) -> str | None:
    """The date in an element: 2000, 2000-03 or 2000-03-17, the longest of it that is valid.

    A range (MedlineDate) gives its start, and a season, which differs with the hemisphere, its
    year.
    """
    if element is None:
        return None
    year = month = day = ""
    for child in element:
        match child.tag:
            case "Year":
                year = child.text or ""
            case "Month":
                month = child.text or ""
            case "Day":
                day = child.text or ""
            case "MedlineDate":
                if found := MEDLINE_DATE.search((child.text or "")[:100]):
                    year, month, day = found.groups("")
    return _iso(year, month, day)


@lru_cache(maxsize=4096)
def _iso(year: str, month: str, day: str) -> str | None:
    year, month, day = year.strip(), month.strip(), day.strip()
    if not re.fullmatch(r"[0-9]{4}", year):
        return None
    month = MONTHS.get(month[:3].lower(), month.zfill(2))
    for whole, length in ((f"{year}-{month}-{day.zfill(2)}", 10), (f"{year}-{month}-01", 7)):
        try:
            date.fromisoformat(whole)
        except ValueError:
            continue
        return whole[:length]
    return year
