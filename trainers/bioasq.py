"""BioASQ task B as published (plain JSON or .gz): what its questions were asked of.

Prompt 1 has the title and the abstract of one record, so an example is a question and one of its
documents. The title is the document's title snippet, its context the abstract snippets in their
order, from the snippets of all questions; where the document is among the records given, their
title and abstract stand instead. Concepts, triples, answers and other fields are passed over.
"""

import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from streams.questions import Limits, rejection
from trainers.errors import DataError

_PMID = re.compile(
    r"^https?://(?:www\.)?(?:ncbi\.nlm\.nih\.gov/pubmed|pubmed\.ncbi\.nlm\.nih\.gov)/0*([1-9]\d{0,9})/?$"
)
_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question about one document. `lead` is the PMID of the first document of the question."""

    id: str
    pmid: int
    lead: int
    title: str
    abstract: str
    question: str


@dataclass(frozen=True, slots=True)
class _Snippet:
    document: int
    section: str
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class _Question:
    id: str
    body: str
    documents: tuple[int, ...]
    snippets: tuple[_Snippet, ...]


def read(paths: Sequence[Path], records: Path | None, left_out: Counter[str]) -> Iterator[Example]:
    """The examples in the order of the files; what is left out is counted by reason.

    `records` is a JSON-lines file of {pmid, title, abstract}. The reasons: a document that nothing
    gives a context for, a question and document that came before, and what the generate stage
    rejects questions for. An example may have no title: most snippets are of abstracts.
    Raises `DataError` for a file that is no BioASQ task B.
    """
    questions = [question for path in paths for question in _questions(path)]
    texts = _texts(snippet for question in questions for snippet in question.snippets)
    if records is not None:
        wanted = frozenset(pmid for question in questions for pmid in question.documents)
        texts |= _recorded(records, wanted)
    leads: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for question in questions:
        if not question.documents:
            left_out["question without documents"] += 1
            continue
        lead = leads.setdefault(question.body, question.documents[0])
        for pmid in question.documents:
            title, abstract = texts.get(pmid, ("", ""))
            reason = (
                "document without a context"
                if not abstract
                else rejection(question.body, title=title, finished=True, limits=_LIMITS)
            )
            if reason is None and (question.body, pmid) in seen:
                reason = "question and document repeated"
            if reason is not None:
                left_out[reason] += 1
                continue
            seen.add((question.body, pmid))
            yield Example(
                id=f"{question.id}/{pmid}",
                pmid=pmid,
                lead=lead,
                title=title,
                abstract=abstract,
                question=question.body,
            )


def pmid(url: object) -> int | None:
    """The PMID in a document's address, None where it is not one of PubMed."""
    found = _PMID.match(url.strip()) if isinstance(url, str) else None
    return int(found[1]) if found else None


def documents(question: Mapping[str, Any]) -> tuple[int, ...]:
    """PMIDs of a question's documents and of its snippets', in order, each once."""
    named = [*_list(question, "documents"), *(s.get("document") for s in _snippets(question))]
    return tuple(dict.fromkeys(found for url in named if (found := pmid(url))))


def _questions(path: Path) -> Iterator[_Question]:
    try:
        published = orjson.loads(opened(path))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    questions = published.get("questions") if isinstance(published, dict) else None
    if not isinstance(questions, list):
        raise DataError(f'{path}: expected BioASQ task B: {{"questions": [...]}}')
    for number, question in enumerate(questions, 1):
        if not isinstance(question, dict) or not isinstance(question.get("body"), str):
            raise DataError(f"{path}: question {number}: expected an object with a `body`")
        yield _Question(
            str(question.get("id", f"{path.name}#{number}")),
            _spaced(question["body"]),
            documents(question),
            tuple(_read_snippets(question)),
        )


def opened(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzip. Raises `DataError`."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from None


def _snippets(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [snippet for snippet in _list(question, "snippets") if isinstance(snippet, dict)]


def _list(question: Mapping[str, Any], name: str) -> list[Any]:
    value = question.get(name)
    return value if isinstance(value, list) else []


def _read_snippets(question: Mapping[str, Any]) -> Iterator[_Snippet]:
    for snippet in _snippets(question):
        document, text = pmid(snippet.get("document")), snippet.get("text")
        start = snippet.get("offsetInBeginSection")
        if document and isinstance(text, str) and text.strip():
            yield _Snippet(
                document,
                str(snippet.get("beginSection", "")),
                start if isinstance(start, int) else 0,
                text,
            )


def _texts(snippets: Iterable[_Snippet]) -> dict[int, tuple[str, str]]:
    """Title and context of each document, "" where no snippet tells."""
    titles: dict[int, str] = {}
    parts: dict[int, set[tuple[str, int, str]]] = defaultdict(set)
    for snippet in snippets:
        if snippet.section != "title":
            parts[snippet.document].add((snippet.section, snippet.start, snippet.text))
        # One that begins later is a part of a title.
        elif snippet.start == 0:
            known = titles.get(snippet.document, "")
            titles[snippet.document] = max(known, _spaced(snippet.text), key=len)
        else:
            titles.setdefault(snippet.document, "")
    return {
        document: (titles.get(document, ""), _joined(parts.get(document, set())))
        for document in titles.keys() | parts.keys()
    }


def _joined(parts: Iterable[tuple[str, int, str]]) -> str:
    """Snippets in order of section and offset; what two of them share stands once."""
    joined, section, end = "", None, 0
    for of, start, text in sorted(parts, key=lambda part: (part[0], part[1], -len(part[2]))):
        if of != section or start > end:
            joined += " "
            section, end = of, start
        if start + len(text) > end:
            joined += text[end - start :]
            end = start + len(text)
    return _spaced(joined)


def _recorded(path: Path, wanted: frozenset[int]) -> dict[int, tuple[str, str]]:
    """Title and abstract of the wanted records in a JSON-lines file."""
    found: dict[int, tuple[str, str]] = {}
    for number, line in enumerate(opened(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            one, title, abstract = int(record["pmid"]), record["title"], record["abstract"]
            text = (_spaced(title), _spaced(abstract))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{path}: line {number}: expected a JSON object with pmid, title and abstract"
            ) from None
        if one in wanted and all(text):
            found[one] = text
    return found


def _spaced(text: str) -> str:
    return " ".join(text.split())
