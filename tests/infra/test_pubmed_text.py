"""Titles and abstracts: inline markup and MathML to text."""

import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.pubmed import one

MATHML = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'


def title_of(inner: str) -> str:
    return one(title=f"<ArticleTitle>{inner}</ArticleTitle>").title


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<i>E. coli</i> in H<sub>2</sub>O.", "E. coli in H2O."),
        ("Ca<sup>2+</sup> and CD4<sup>+</sup> cells", "Ca2+ and CD4+ cells"),
        ("10<sup>6</sup> or 10<sup>-3</sup> of SO4<sup>2-</sup>", "10^6 or 10^-3 of SO4^2-"),
        ("<sup>13</sup>C, log<sub>10</sub>, 5<sup>th</sup>", "13C, log10, 5th"),
        ("<b><i>Nested</i> bold</b><u>s</u>", "Nested bolds"),
        ("one\n      two\u00a0three\u2009four", "one two three four"),
        ("a &lt; b &amp; c &#945; <![CDATA[<x> & y]]>", "a < b & c α <x> & y"),
        ("with<!-- a comment -->in and <?a pi?>after", "within and after"),
        ("<p>One.</p><p>Two.</p>", "One. Two."),
        ("[A translated title].", "[A translated title]."),
        ("", ""),
        (
            f"slope (<mml:math {MATHML}><mml:msup><mml:mrow><mml:mi>R</mml:mi></mml:mrow> "
            "<mml:mn>2</mml:mn></mml:msup></mml:math> = 0.7)",
            "slope (R2 = 0.7)",
        ),
        (
            f"of<mml:math {MATHML}><mml:mfrac><mml:mi>a</mml:mi><mml:mrow><mml:mi>b</mml:mi>"
            "<mml:mo>+</mml:mo><mml:mn>1</mml:mn></mml:mrow></mml:mfrac></mml:math>and",
            "of a/(b+1)and",
        ),
        (
            f"<mml:math {MATHML}><mml:mtext>dose</mml:mtext><mml:mtext>rate</mml:mtext></mml:math>",
            "dose rate",
        ),
        (
            f"<mml:math {MATHML}><mml:msup><mml:mn>10</mml:mn><mml:mn>6</mml:mn></mml:msup>"
            "</mml:math>",
            "10^6",
        ),
        (
            f"<mml:math {MATHML}><mml:semantics><mml:mi>x</mml:mi><mml:annotation>\\alpha x"
            "</mml:annotation></mml:semantics></mml:math>",
            "x",
        ),
        (
            f"as<DispFormula><mml:math {MATHML}><mml:mi>y</mml:mi></mml:math></DispFormula>is",
            "as y is",
        ),
    ],
)
def test_markup_becomes_text(markup: str, expected: str) -> None:
    assert title_of(markup) == expected


word = st.text(string.ascii_letters + "äßéαβ&<>'-", min_size=1, max_size=8)
tag = st.sampled_from(["", "i", "b", "u", "sub", "sup", "i b", "sup i"])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _marked(text: str, tags: str) -> str:
    names = tags.split()
    return (
        "".join(f"<{name}>" for name in names)
        + _escape(text)
        + "".join(f"</{name}>" for name in reversed(names))
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(word, tag), min_size=1, max_size=3), min_size=1, max_size=12))
def test_words_survive_markup(words: list[list[tuple[str, str]]]) -> None:
    """A word is parts, each marked in its own way; its letters and its neighbours stay."""
    markup = "\n ".join("".join(_marked(part, tags) for part, tags in parts) for parts in words)
    expected = ["".join(part for part, _ in parts) for parts in words]
    assert title_of(markup).split() == expected
    section = f"<Abstract><AbstractText>{markup}</AbstractText></Abstract>"
    assert one(abstract=section).abstract.split() == expected


@settings(deadline=None)
@given(st.lists(word, min_size=1, max_size=8))
def test_words_of_a_formula_stay_apart(words: list[str]) -> None:
    tokens = "".join(f"<mml:mtext>{_escape(token)}</mml:mtext>" for token in words)
    found = title_of(f"<mml:math {MATHML}><mml:mrow>{tokens}</mml:mrow></mml:math>")
    assert found.replace(" ", "") == "".join(words)
    for left, right in pairwise(words):
        if left[-1].isalnum() and right[0].isalnum():
            assert f"{left} {right}" in found
