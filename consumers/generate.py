"""Ask every question generator about a record (KAILIN, Algorithm 1, line 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

from consumers.ports import Completion, Generate
from consumers.sampling import sample
from consumers.together import together
from streams.citation import Article, Change
from streams.prompts import question_prompt
from streams.questions import Limits, extract, rejection
from streams.records import (
    Candidate,
    Questions,
    Role,
    Source,
    generator_version,
    record_id,
    text_hash,
)

# Changes of a record whose text is the one that has been asked about.
SAME_TEXT: dict[Change, str] = {
    "mesh": "MeSH changed",
    "other": "other metadata changed",
    "reinstated": "reinstated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """One question generator (θ1, θ2, …): the model behind `ask`, how it is prompted and sampled.

    `attempts` bounds how often a rejected question is asked for again, each time with another seed.
    """

    name: str
    model: str
    revision: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    attempts: int
    ask: Generate

    @property
    def version(self) -> str:
        """What the record's id knows the generator by."""
        return generator_version(self.name, self.model, self.revision, self.prompt)


def not_asked(article: Article) -> str | None:
    """Why no question is asked about a record, as a fixed phrase, or None where one is."""
    if article.corpus:
        return "corpus"
    if article.change in SAME_TEXT:
        return SAME_TEXT[article.change]
    if not article.title.strip():
        return "no title"
    if not article.abstract.strip():
        return "no abstract"
    return article.retraction


def withheld(article: Article, *, role: Role) -> Questions:
    """What stands in for the questions about a record that came in retracted or with an erratum.

    It has no candidates, goes through the stages as any other, and leaves a row that says why.
    """
    source = _source(article, withheld=article.retraction)
    id = record_id(source.pmid, source.text_hash, role, (), mesh=source.mesh)
    return Questions(id=id, role=role, source=source, candidates=())


async def generate(
    article: Article, *, role: Role, generators: Sequence[Generator], limits: Limits
) -> Questions:
    """One candidate from each generator, all asked at once.

    Raises what the port raises; then the record as a whole is tried again, with the same seeds.
    """
    source = _source(article)
    versions = [generator.version for generator in generators]
    id = record_id(source.pmid, source.text_hash, role, versions, mesh=source.mesh)
    candidates = await together(
        _candidate(generator, id, source, limits) for generator in generators
    )
    return Questions(id=id, role=role, source=source, candidates=tuple(candidates))


def _source(article: Article, *, withheld: str | None = None) -> Source:
    return Source(
        pmid=article.pmid,
        version=article.version,
        text_hash=text_hash(article.title, article.abstract),
        title=article.title,
        abstract=article.abstract,
        mesh=article.descriptors,
        indexing=article.indexing,
        arrived=article.arrived,
        withheld=withheld,
    )


async def _candidate(generator: Generator, id: str, source: Source, limits: Limits) -> Candidate:
    prompt = question_prompt(generator.prompt, title=source.title, abstract=source.abstract)

    def read(completion: Completion) -> tuple[str, str | None]:
        question = extract(completion.text)
        return question, rejection(
            question, title=source.title, finished=completion.finished, limits=limits
        )

    question, reason, sampled = await sample(generator, id, prompt, read)
    return Candidate(
        generator=generator.name,
        **sampled,
        question=None if reason else question,
        rejected=reason,
    )
