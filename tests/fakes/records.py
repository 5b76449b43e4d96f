"""Example records for tests: sensible by default, changed by keyword."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from streams.citation import (
    AbstractSection,
    Article,
    Author,
    Correction,
    Journal,
    Keyword,
    MeshHeading,
    OtherAbstract,
    PublicationType,
    Qualifier,
    SupplementaryConcept,
)
from streams.learning import Compared, Job, Serving, Spending, TrainingData, Verdict
from streams.records import (
    Alignment,
    Alignments,
    Answer,
    Candidate,
    Contexts,
    Ideal,
    Passage,
    Preference,
    Questions,
    Retrieval,
    Source,
    text_hash,
)

ARRIVED = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)


def article(pmid: int = 1001, **changes: Any) -> Article:
    example = Article(
        pmid=pmid,
        version=1,
        title=f"Aspirin and platelet aggregation in trial {pmid}.",
        sections=(
            AbstractSection(
                label="METHODS",
                category="METHODS",
                text=f"Forty adults took aspirin in arm {pmid}.",
            ),
            AbstractSection(
                label="RESULTS", category="RESULTS", text="Aggregation fell by half in a week."
            ),
        ),
        languages=("eng",),
        journal=Journal(title="Journal of Examples", abbreviation="J Ex", issn="1234-5678"),
        published="2026-02",
        completed="2026-03-01",
        revised=None,
        publication_types=(PublicationType(ui="D016428", name="Journal Article"),),
        mesh=(
            MeshHeading(
                ui="D001241",
                name="Aspirin",
                major=True,
                qualifiers=(Qualifier(ui="Q000494", name="pharmacology", major=True),),
            ),
            MeshHeading(ui="D010974", name="Platelet Aggregation"),
        ),
        indexing="Curated",
        keywords=(
            Keyword(text="aspirin", owner="NOTNLM"),
            Keyword(text="platelets", owner="NOTNLM", major=True),
        ),
        doi="10.1000/example",
        pmcid="PMC1234567",
        corpus=False,
        source="example.xml",
        arrived=ARRIVED,
        vernacular_title="Aspirin und Thrombozyten.",
        authors=(
            Author(last="Example", fore="Ada", initials="A", orcid="0000-0001-2345-678X"),
            Author(collective="The Example Group"),
        ),
        other_abstracts=(
            OtherAbstract(
                type="Publisher", language="ger", sections=(AbstractSection(text="Auf Deutsch."),)
            ),
        ),
        supplementary=(
            SupplementaryConcept(
                ui="D001241", name="Aspirin", type="Chemical", registry="R16CO5Y76E"
            ),
        ),
        corrections=(Correction(kind="CommentIn", pmid=1002, source="J Ex. 2026;1:2"),),
    )
    return replace(example, **changes)


def source(pmid: int = 1001, **changes: Any) -> Source:
    of = article(pmid)
    example = Source(
        pmid=pmid,
        version=1,
        text_hash=text_hash(of.title, of.abstract),
        title=of.title,
        abstract=of.abstract,
        mesh=of.descriptors,
        indexing=of.indexing,
        arrived=of.arrived,
    )
    return replace(example, **changes)


def candidate(generator: str = "theta1", **changes: Any) -> Candidate:
    example = Candidate(
        generator=generator,
        model=generator,
        revision="base",
        prompt="question/1",
        temperature=0.7,
        top_p=0.95,
        max_tokens=64,
        seed=7,
        attempts=1,
        prompt_tokens=120,
        completion_tokens=12,
        question=f"Does aspirin lower platelet aggregation, asks {generator}?",
    )
    return replace(example, **changes)


def rejected(generator: str = "theta1", reason: str = "not a question") -> Candidate:
    return candidate(generator, question=None, rejected=reason)


def questions(pmid: int = 1001, **changes: Any) -> Questions:
    example = Questions(
        id=f"{pmid:032x}",
        role="preference",
        source=source(pmid),
        candidates=(candidate("theta1"), candidate("theta2")),
    )
    return replace(example, **changes)


def passage(pmid: int = 2001, **changes: Any) -> Passage:
    example = Passage(
        pmid=pmid,
        title=f"Platelets and salicylates, part {pmid}.",
        abstract="Salicylates act on cyclooxygenase.",
        mesh=("D001241",),
        bm25_rank=1,
        dense_rank=2,
        score=1 / 61 + 1 / 62,
    )
    return replace(example, **changes)


def retrieval(generator: str = "theta1", **changes: Any) -> Retrieval:
    example = Retrieval(
        candidate=candidate(generator), mode="hybrid", passages=(passage(2001), passage(2002))
    )
    return replace(example, **changes)


def contexts(pmid: int = 1001, **changes: Any) -> Contexts:
    example = Contexts(
        id=f"{pmid:032x}",
        role="preference",
        source=source(pmid),
        retrievals=(retrieval("theta1"), retrieval("theta2")),
    )
    return replace(example, **changes)


def alignment(generator: str = "theta1", score: float = 0.5, **changes: Any) -> Alignment:
    return replace(Alignment(retrieval=retrieval(generator), score=score), **changes)


def unscored(generator: str = "theta1", reason: str = "context without MeSH") -> Alignment:
    return Alignment(retrieval=retrieval(generator), unscored=reason)


def alignments(pmid: int = 1001, **changes: Any) -> Alignments:
    example = Alignments(
        id=f"{pmid:032x}",
        role="preference",
        source=source(pmid),
        edition="2024",
        frequency="intrinsic",
        alignments=(alignment("theta1", 0.6), alignment("theta2", 0.4)),
    )
    return replace(example, **changes)


def preference(pmid: int = 1001, **changes: Any) -> Preference:
    example = Preference(
        id=f"{pmid:032x}",
        source=source(pmid),
        edition="2024",
        frequency="intrinsic",
        margin=0.01,
        outcome="preference",
        reason=None,
        alignments=(alignment("theta1", 0.6), alignment("theta2", 0.4)),
    )
    return replace(example, **changes)


def answer(**changes: Any) -> Answer:
    example = Answer(
        answerer="teacher",
        model="teacher-70b",
        revision="base",
        prompt="answer/1",
        temperature=0.0,
        top_p=1.0,
        max_tokens=16,
        seed=7,
        attempts=1,
        prompt_tokens=900,
        completion_tokens=2,
        decision="yes",
    )
    return replace(example, **changes)


def ideal(pmid: int = 1001, **changes: Any) -> Ideal:
    example = Ideal(
        id=f"{pmid:032x}",
        source=source(pmid),
        edition="2024",
        frequency="intrinsic",
        floor=0.2,
        outcome="ideal",
        reason=None,
        alignments=(alignment("theta3", 0.6),),
        answer=answer(),
    )
    return replace(example, **changes)


def training_data(table: str = "preferences", **changes: Any) -> TrainingData:
    return replace(TrainingData(table=table, version=12, rows=900, added=40, at=ARRIVED), **changes)


def job(id: str = "0123456789abcdef", **changes: Any) -> Job:
    example = Job(
        id=id,
        target="theta3",
        kind="dpo",
        table="preferences",
        data_version=12,
        rows=900,
        newest=ARRIVED,
        state="trained",
        attempt=1,
        reason="900 new rows",
        by="trainer",
        run="f00d",
        model=None,
        began=ARRIVED,
        at=ARRIVED,
    )
    return replace(example, **changes)


def verdict(job: str = "0123456789abcdef", **changes: Any) -> Verdict:
    example = Verdict(
        job=job,
        target="theta3",
        champion="theta3-v2",
        candidate="theta3-v3",
        passed=True,
        reason="win rate above 0.5",
        figures={"win_rate": 0.61, "lower": 0.53, "upper": 0.69},
        compared=(
            Compared(pmid=1001, champion=0.4, candidate=0.6),
            Compared(pmid=1002, champion=None, candidate=0.5),
        ),
        at=ARRIVED,
    )
    return replace(example, **changes)


def serving(generator: str = "theta3", **changes: Any) -> Serving:
    example = Serving(
        generator=generator,
        model=f"{generator}-v3",
        revision="3",
        server="local",
        url="http://127.0.0.1:28011/v1",
        first=ARRIVED,
        by="deployer",
        reason="passed the gate",
        at=ARRIVED,
    )
    return replace(example, **changes)


def spending(worker: str = "host-1", **changes: Any) -> Spending:
    example = Spending(
        worker=worker,
        model="teacher-70b",
        month="2026-03",
        requests=10,
        prompt_tokens=9000,
        completion_tokens=20,
        money=0.0092,
        at=ARRIVED,
    )
    return replace(example, **changes)
