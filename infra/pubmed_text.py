"""Text of PubMed's titles and abstracts: inline markup and MathML become plain characters."""

import re

from lxml import etree

from streams.errors import Invalid

# Elements of the PubMed DTD (and of older files) that mark characters within a word.
INLINE = frozenset({"b", "i", "u", "em", "strong", "sc", "tt"})
RAISED_NUMBER = re.compile(r"[-+−–]?\d")


def text(element: etree._Element | None) -> str:
    """The text of an element with single spaces; "" for None.

    Words stay apart where an element other than inline markup lies between them. A number raised
    or lowered on a number is marked (10^6, 12_2), for it would read as another number. Raises
    `Invalid` at an entity that is not one of XML's own, instead of losing what it stands for.
    """
    if element is None:
        return ""
    raw = _flow(element) if len(element) else element.text
    return " ".join(raw.split()) if raw else ""


def _flow(element: etree._Element) -> str:
    written = element.text or ""
    for child in element:
        if isinstance(child, etree._Entity):
            raise Invalid("entity", f"{child.text} is not one of XML's own entities")
        tail = child.tail or ""
        match _name(child):
            case name if name in INLINE:
                written += _flow(child) + tail
            case "sup" | "sub" as name:
                written = _shifted(written, _flow(child), name) + tail
            case "math":
                written = _apart(_apart(written, _math(child)), tail)
            case _:
                written += f" {_flow(child)} {tail}"
    return written


def _math(element: etree._Element) -> str:
    """MathML (presentation) as one line: fractions with a slash, scripts as in running text."""
    name = _name(element)
    if name.startswith("annotation"):  # the same formula over again, in another notation
        return ""
    parts = [_math(child) for child in element if isinstance(child.tag, str)]
    if not parts:
        return " ".join((element.text or "").split())
    match name, parts:
        case "mfrac", [above, below]:
            return f"{_grouped(above)}/{_grouped(below)}"
        case "msqrt", _:
            return f"√({''.join(parts)})"
        case "msup" | "mover", [base, above]:
            return _shifted(base, above, "sup")
        case "msub" | "munder", [base, below]:
            return _shifted(base, below, "sub")
        case "msubsup" | "munderover", [base, below, above]:
            return _apart(_shifted(base, below, "sub"), above)
        case "mfenced", _:
            return f"({', '.join(parts)})"
    written = ""
    for part in parts:
        written = _apart(written, part)
    return written


def _shifted(base: str, script: str, name: str) -> str:
    script = script.strip()
    if base[-1:].isdigit() and RAISED_NUMBER.match(script):
        return f"{base}{'^' if name == 'sup' else '_'}{script}"
    return base + script


def _apart(left: str, right: str) -> str:
    """Both, with a space where a word or number would run into the next."""
    return f"{left} {right}" if left[-1:].isalnum() and right[:1].isalnum() else left + right


def _grouped(part: str) -> str:
    return part if part.isalnum() else f"({part})"


def _name(element: etree._Element) -> str:
    return re.split("[}:]", str(element.tag))[-1]
