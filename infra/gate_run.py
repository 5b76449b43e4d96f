"""`kailin models judge`: a job's model is registered, compared with the champion, and decided on.

What is done is done again where it is not known to have been: the verdict is published first, so
that after a crash the same one is applied and nothing is compared twice; it is written on the
version last, and then there is nothing left to do.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from infra import gate_answers, gate_questions, held_out
from infra.deploy import Address, Deploy
from infra.file_lock import alone
from infra.kafka import Publisher
from infra.model_registry import ModelRegistry, Registered
from infra.models import model_directory
from infra.progress_bar import progress
from infra.settings import Settings
from infra.topic_view import read
from streams.codec import encode
from streams.errors import Transient
from streams.learning import Compared, Serving, Target, Verdict
from streams.topics import SERVING, VERDICTS
from trainers import gate
from trainers.result import Result
from trainers.result import read as read_result

log = logging.getLogger(__name__)

GATE = "gate"

# Seconds between two looks whether the champion serves.
LOOK_EVERY = 2.0


class GateError(Exception):
    """A job's model cannot be judged now; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What both models made of the same items, under the names that they are known by.

    `left_out` counts the items that neither could be asked about.
    """

    champion: str
    compared: Sequence[Compared]
    left_out: int = 0


def output_of(settings: Settings, job: str) -> Path:
    """Where a job leaves its result."""
    return settings.data / "training" / job / "output"


async def judge(
    settings: Settings,
    job: str,
    target: Target,
    *,
    registry: ModelRegistry,
    deploy: Deploy,
    console: Console,
) -> Verdict:
    """The verdict on a job's model, published and applied: the champion is changed, or not.

    Called again for a job, it ends with the same verdict, however the call before ended. Raises
    `GateError`, `DeployError`, `RegistryError`, `Transient`, `BrokerUnreachable`, and what the
    components raise that cannot be used.
    """
    output = output_of(settings, job)
    result = read_result(output)
    if result is None:
        raise GateError(f"job {job}: there is no result in {output}: it has not ended well, or not")
    registered = await asyncio.to_thread(
        registry.register,
        target,
        job=job,
        run=result.run,
        directory=result.model,
        base=await asyncio.to_thread(_base, settings, target, result),
        adapter=result.adapter,
    )
    # Candidates of all targets are served on the same port.
    async with alone(settings.data / "training" / ".gate.lock"):
        verdict = (await read(settings, VERDICTS, Verdict)).get(job)
        if verdict is None:
            verdict = await _compared(settings, job, registered, registry, deploy, console)
            async with Publisher(settings) as publisher:
                await publisher.send(VERDICTS, verdict)
    await asyncio.to_thread(apply, registry, registered, verdict)
    return verdict


def apply(registry: ModelRegistry, registered: Registered, verdict: Verdict) -> None:
    """Log a verdict to MLflow, and make the version champion where it passed.

    A champion that was chosen by hand since the two were compared stays.
    """
    if registered.verdict is not None:
        return
    registry.log(registered, verdict.figures, encode(verdict))
    if verdict.passed:
        champion = registry.champion(registered.target)
        if champion is None or not _chosen_since(champion, registered, verdict):
            registry.promote(registered, by=GATE, reason=verdict.reason)
        else:
            log.warning(
                "%s passed against %s, but %s is champion by now (%s) and stays; "
                "`kailin models promote` changes that",
                verdict.candidate,
                verdict.champion,
                champion.name,
                champion.by,
            )
    registry.decide(registered, "passed" if verdict.passed else "blocked", verdict.reason)


def _chosen_since(champion: Registered, registered: Registered, verdict: Verdict) -> bool:
    """Whether it is another's decision that this one is champion: one made since the comparison.

    That is also so where the verdict had been applied already, and was gone back from.
    """
    if champion.version == registered.version:
        return False
    if champion.name != verdict.champion or registered.left is not None:
        return True
    return champion.at is not None and champion.at > verdict.at


async def _compared(
    settings: Settings,
    job: str,
    registered: Registered,
    registry: ModelRegistry,
    deploy: Deploy,
    console: Console,
) -> Verdict:
    if registered.target == "theta3":
        comparison = await _questions(settings, job, registered, registry, deploy, console)
        decision = gate.judge_generator(comparison.compared, _policy(settings), job=job)
    else:
        comparison = await _answers(settings, registered, registry, deploy, console)
        decision = gate.judge_answers(comparison.compared, _policy(settings))
    return Verdict(
        job=job,
        target=registered.target,
        champion=comparison.champion,
        candidate=registered.name,
        passed=decision.passed,
        reason=decision.reason,
        figures={**decision.figures, "left_out": float(comparison.left_out)},
        compared=tuple(comparison.compared),
        at=datetime.now(UTC),
    )


async def _questions(
    settings: Settings,
    job: str,
    registered: Registered,
    registry: ModelRegistry,
    deploy: Deploy,
    console: Console,
) -> Comparison:
    articles = await asyncio.to_thread(held_out.sample, settings, job=job)
    if not articles:
        return Comparison(champion="none", compared=())
    address, revision = await _champion(settings, registry)
    console.print(
        f"{registered.name} against {address.model} on {len(articles):,} held-out records",
        highlight=False,
    )
    candidate = await deploy.start(registered, port=settings.deploy.gate_port)
    try:
        async with (
            gate_questions.bench_of(settings) as bench,
            gate_questions.theta3(settings, address, revision=revision) as old,
            gate_questions.theta3(settings, candidate, revision=registered.version) as new,
        ):
            with progress(console, registered.name, len(articles)) as told:
                compared = await gate_questions.compare(
                    articles, champion=old, candidate=new, bench=bench, told=told
                )
    finally:
        await deploy.stop(candidate)
    left_out = len(articles) - len(compared)
    return Comparison(champion=address.model, compared=compared, left_out=left_out)


async def _champion(settings: Settings, registry: ModelRegistry) -> tuple[Address, str]:
    """Where the champion serves, and its revision: before there is one, that is θ3's origin."""
    deadline = time.monotonic() + settings.deploy.ready_within
    while True:
        champion = await asyncio.to_thread(registry.champion, "theta3")
        serving = (await read(settings, SERVING, Serving)).get("theta3")
        if champion is None and serving is None:
            (origin,) = (g for g in settings.generators if g.name == settings.theta3.origin)
            return Address(model=origin.model, server=origin.server, url=None), origin.revision
        if serving and (champion is None or champion.version == serving.revision):
            if serving.server not in settings.servers:
                raise GateError(
                    f"{serving.model} serves on {serving.server!r}, which is not one of servers "
                    f"({', '.join(settings.servers)}): add it to the settings"
                )
            address = Address(model=serving.model, server=serving.server, url=serving.url)
            return address, serving.revision
        if champion and time.monotonic() > deadline:
            raise Transient(
                "champion away",
                f"{champion.name} is champion and does not serve (what does: "
                f"{serving.model if serving else 'none'}), so nothing can be compared with it: is "
                "`kailin deployer` running, and what does its log say?",
            )
        await asyncio.sleep(LOOK_EVERY)


async def _answers(
    settings: Settings,
    registered: Registered,
    registry: ModelRegistry,
    deploy: Deploy,
    console: Console,
) -> Comparison:
    """Candidate and champion in turn, on the same port; before there is one, the base model."""
    items, truth = await asyncio.to_thread(gate_answers.questions, settings)
    champion = await asyncio.to_thread(registry.champion, "answers")
    before = champion or gate_answers.untrained(registered)
    right = []
    for model in (before, registered):
        address = await deploy.start(model, port=settings.deploy.gate_port)
        try:
            with progress(console, model.name, len(items)) as told:
                right.append(await gate_answers.ask(settings, address, items, truth, told))
        finally:
            await deploy.stop(address)
    old, new = right
    return Comparison(
        champion=before.name,
        compared=[
            Compared(pmid=pmid, champion=float(old[pmid]), candidate=float(new[pmid]))
            for pmid in truth
        ],
    )


def _base(settings: Settings, target: Target, result: Result) -> str:
    """The source of the model that was trained: the settings' own where it is that."""
    (origin,) = (g for g in settings.generators if g.name == settings.theta3.origin)
    theirs = settings.servers[origin.server].source
    source = theirs if target == "theta3" else settings.training.answers_source
    directory = Path(result.base)
    if not directory.is_dir():
        return f"hf://{result.base}@main"
    if source and model_directory(source) == directory.resolve():
        return source
    return f"file://{directory.resolve()}"


def _policy(settings: Settings) -> gate.Policy:
    return gate.Policy(
        bound=settings.gate.bound,
        confidence=settings.gate.confidence,
        resamples=settings.gate.resamples,
        rejection_tolerance=settings.gate.rejection_tolerance,
        least_records=settings.gate.least_records,
    )
