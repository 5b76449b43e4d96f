"""Text of PubMed's titles and abstracts: inline markup and MathML become plain characters."""

import re

from lxml import etree

# Elements of the PubMed DTD (and of older files) that mark characters within a word.
INLINE = frozenset({"b", "i", "u", "em", "strong", "sc", "tt"})
RAISED_NUMBER = re.compile(r"[-+−–]?\d")


def text(element: etree._Element | None) -> str:
    """The text of an element with single spaces; "" for None.

    Words stay apart where an element other than inline markup lies between them. A number raised
    or lowered on a number is marked (10^6, 12_2), for it would read as another number.
    """
    if element is None:
        return ""
    raw = _flow(element) if len(element) else element.text
    return " ".join(raw.split()) if raw else ""


def _flow(element: etree._Element) -> str:
    written = [element.text or ""]
    for child in element:
        match _name(child):
            case name if name in INLINE:
                _add(written, _flow(child))
            case "sup" | "sub" as name:
                _add_shifted(written, _flow(child), name)
            case "math":
                _add_apart(written, _math(child))
                _add_apart(written, child.tail or "")
                continue
            case _:
                written += (" ", _flow(child), " ")
        _add(written, child.tail or "")
    return "".join(written)


def _math(element: etree._Element) -> str:
    """MathML (presentation) as one line: fractions with a slash, scripts as in running text."""
    name = _name(element)
    if name.startswith("annotation"):  # the same formula over again, in another notation
        return ""
    parts = [_math(child) for child in element]
    if not parts:
        return " ".join((element.text or "").split())
    written: list[str] = []
    match name, parts:
        case "mfrac", [above, below]:
            return f"{_grouped(above)}/{_grouped(below)}"
        case "msqrt", _:
            return f"√({''.join(parts)})"
        case "mfenced", _:
            return f"({', '.join(parts)})"
        case "msup" | "mover", [base, above]:
            _add(written, base)
            _add_shifted(written, above, "sup")
        case "msub" | "munder", [base, below]:
            _add(written, base)
            _add_shifted(written, below, "sub")
        case "msubsup" | "munderover", [base, below, above]:
            _add(written, base)
            _add_shifted(written, below, "sub")
            _add_apart(written, above)
        case _:
            for part in parts:
                _add_apart(written, part)
    return "".join(written)


# Text is gathered in parts, none of them empty but the first: its end is that of the last one.
# To add to one string instead would copy a long text over again at each element in it.
def _add(written: list[str], part: str) -> None:
    if part:
        written.append(part)


def _add_shifted(written: list[str], script: str, name: str) -> None:
    if _end(written).isdigit() and RAISED_NUMBER.match(stripped := script.lstrip()):
        written.append("^" if name == "sup" else "_")
        script = stripped
    _add(written, script)


def _add_apart(written: list[str], part: str) -> None:
    """With a space where a word or number would run into the next."""
    if _end(written).isalnum() and part[:1].isalnum():
        written.append(" ")
    _add(written, part)


def _end(written: list[str]) -> str:
    return written[-1][-1:] if written else ""


def _grouped(part: str) -> str:
    return part if part.isalnum() else f"({part})"


def _name(element: etree._Element) -> str:
    return re.split("[}:]", str(element.tag))[-1]
