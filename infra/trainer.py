"""The process that starts jobs when they are due, and carries each to its end: `kailin trainer`.

It works while it has the turn, over the whole deployment. What it does next follows from the topic
`training.jobs` alone, where each state of a job is written before the next step is taken: killed at
any point, it or another trainer goes on from there. A job that was being trained is started again
in its directory and goes on from its checkpoints; to judge a model twice comes to the same.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from consumers.stage import DONE, FAILED, MISCONFIGURED
from infra import job_process, logs, topic_view, train_config, training_report
from infra.artifacts import ArtifactError
from infra.component import ComponentError
from infra.job_ledger import Ledger
from infra.job_process import Bounds, Ended
from infra.kafka import BrokerUnreachable
from infra.metrics_server import serving
from infra.pause import going
from infra.settings import Settings, SettingsError
from infra.tables import STORE_ERRORS, one_line
from infra.told_to_stop import told_to_stop
from infra.topic_view import TopicView
from infra.training_data import policy, read_data, targets
from infra.turn import Turn
from streams.errors import Transient
from streams.learning import Job, Serving, Target, TrainingData, Verdict
from streams.mesh import MeshError
from streams.metrics import Metrics
from streams.topics import SERVING, TRAINING_DATA, VERDICTS
from trainers import result
from trainers.triggers import Decision, decide, last

log = logging.getLogger(__name__)

# The command line that judges the model of a job.
Judge = Callable[[Job], tuple[str, ...]]

# Seconds between two looks at the turn, and least seconds between two at the tables.
CHECK_EVERY = 1.0
LOOK_AT_MOST = 1.0
# How long a trainer that is to end when nothing is due waits for its turn, in seconds.
IN_LINE = 15.0
# Seconds until what is away is tried again, and at most until the gate is.
AGAIN = 5.0
GATE_AGAIN = 60.0

# What is raised while something that is needed is away.
AWAY = (BrokerUnreachable, Transient)


def work(settings: Settings, judge: Judge, *, once: bool = False) -> int:
    """Run the trainer until SIGTERM or SIGINT. Returns the exit status of the process.

    With `once` it ends when nothing is due. 0 done or told to stop, 1 failed, 2 a wrong setting;
    the reason is logged as one line.
    """
    logs.configure(settings, "trainer")
    metrics = Metrics(CollectorRegistry())
    try:
        with serving("trainer", settings.ports.host, settings.ports.trainer, metrics.registry):
            return asyncio.run(_until_told_to_stop(settings, judge, metrics, once))
    except SettingsError as error:
        log.error("trainer: %s", error)
        return MISCONFIGURED
    except (BrokerUnreachable, KafkaError, Transient) as error:
        log.error("trainer: %s", error)
        return FAILED


async def _until_told_to_stop(
    settings: Settings, judge: Judge, metrics: Metrics, once: bool
) -> int:
    return await run(settings, judge, metrics, told_to_stop(), once=once)


async def run(
    settings: Settings, judge: Judge, metrics: Metrics, stop: asyncio.Event, *, once: bool = False
) -> int:
    """Wait for the turn, and work while it lasts, until `stop` is set. Returns the exit status.

    With `once` it also ends when no target has anything to be done now, while another trainer is at
    work, and while trainers are paused. Jobs are stopped with it; whoever has the turn next carries
    them on. Raises `BrokerUnreachable` where there is no broker from the start, and `Transient`
    where there are no topics.
    """
    # By a name of its own: two on one machine are two, and one waits for the other.
    name = f"trainer {os.getpid()}"
    turn = Turn(settings, name, group="trainer", topic=TRAINING_DATA)
    async with TopicView(settings, TRAINING_DATA, TrainingData) as news:
        await turn.join()
        working = asyncio.create_task(
            _unless_paused(settings, judge, metrics, turn, news, stop if once else None)
        )
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            await _end(working, stopped)
            await turn.leave()
    return DONE


async def _unless_paused(
    settings: Settings,
    judge: Judge,
    metrics: Metrics,
    turn: Turn,
    news: "TopicView[TrainingData]",
    rest: asyncio.Event | None,
) -> None:
    async with going(settings, "trainer", metrics) as unpaused:
        if rest is None or unpaused.is_set():
            await _in_turn(settings, judge, metrics, turn, news, unpaused, rest)


async def _in_turn(
    settings: Settings,
    judge: Judge,
    metrics: Metrics,
    turn: Turn,
    news: "TopicView[TrainingData]",
    unpaused: asyncio.Event,
    rest: asyncio.Event | None,
) -> None:
    """Work whenever it is this process's turn; with `rest`, until that is set."""
    if rest and not targets(settings):
        return
    told = False
    while True:
        try:
            await turn.join()
            if not await turn.wait(IN_LINE if rest else CHECK_EVERY):
                if rest:
                    log.info("nothing to be done: another trainer is at work")
                    return
                if not told:
                    log.info("stands in line: another trainer is at work")
                told = True
                continue
            told = False
            async with Ledger(settings, turn) as ledger:
                log.info("at work for %s", ", ".join(targets(settings)) or "no target")
                trainer = _Trainer(settings, judge, metrics, ledger, news, unpaused, rest)
                await _together(
                    _keep(turn), *(trainer.tend(target) for target in targets(settings))
                )
        except AWAY as error:
            log.warning("gives way, again in %.0f s: %s", AGAIN, error)
            await turn.leave()
            await asyncio.sleep(AGAIN)


async def _keep(turn: Turn) -> None:
    """Raise `TurnLost` once another process has the turn."""
    while True:
        await turn.check()
        await asyncio.sleep(CHECK_EVERY)


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all until one fails; raises that once the others have ended."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(*tasks)


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class _Trainer:
    """Looks after each target: one job after the other, those of different targets side by side."""

    def __init__(
        self,
        settings: Settings,
        judge: Judge,
        metrics: Metrics,
        ledger: Ledger,
        news: "TopicView[TrainingData]",
        unpaused: asyncio.Event,
        rest: asyncio.Event | None,
    ) -> None:
        self._settings = settings
        self._judge_command = judge
        self._metrics = metrics
        self._ledger = ledger
        self._news = news
        self._unpaused = unpaused
        self._rest = rest
        self._resting: set[Target] = set()
        self._policy = policy(settings)
        training = settings.training
        self._bounds = Bounds(memory_gb=training.memory_gb, hours=training.longest_hours)

    async def tend(self, target: Target) -> None:
        """Carry out the target's jobs, for ever; while paused, none is begun or gone on with."""
        said = ""
        while True:
            await self._unpaused.wait()
            # What is told while it decides is looked at once more.
            seen = self._news.position
            decision = await self._decide(target)
            if decision is None:
                await asyncio.sleep(AGAIN)
                continue
            if decision.why != said:
                said = decision.why
                log.info("%s: %s: %s", target, decision.state, said)
            if decision.job and decision.state in ("due", "running"):
                if decision.state == "due":
                    await self._ledger.keep(decision.job)
                self._resting.discard(target)
                training_report.running(self._metrics, target)
                await self._carry_out(decision.job)
                await self._tidy()
                continue
            self._resting.add(target)
            if self._rest and self._resting >= set(targets(self._settings)):
                self._rest.set()
            await asyncio.sleep(LOOK_AT_MOST)
            await self._news.wait(self._pause(decision), beyond=seen)

    def _pause(self, decision: Decision) -> float:
        """Seconds until the clock alone makes another look worth while."""
        every = self._settings.training.look_every
        if decision.at is None:
            return every
        return min(max((decision.at - datetime.now(UTC)).total_seconds(), 0.0), every)

    async def _decide(self, target: Target) -> Decision | None:
        """What is to be done about a target; None while its table cannot be read."""
        jobs = list(self._ledger.jobs.values())
        before = last(jobs, target)
        since = before.newest if before else None
        try:
            data = await asyncio.to_thread(read_data, self._settings, target, since)
        except STORE_ERRORS as error:
            log.warning("%s: its table cannot be read: %s", target, one_line(error))
            return None
        decision = decide(target, data, jobs, self._policy, datetime.now(UTC))
        training_report.looked(self._metrics, decision, data, jobs, self._policy)
        return decision

    async def _carry_out(self, job: Job) -> None:
        """Take an open job from the state it is in to its end, or to its next failure."""
        if job.state == "training":
            job = await self._train(job)
        if job.state == "trained":
            job = await self._judge(job)
        training_report.ended(self._metrics, job)
        log.info("%s: job %s %s: %s", job.target, job.id, job.state, job.reason)

    async def _train(self, job: Job) -> Job:
        began = time.monotonic()
        try:
            steps = await asyncio.to_thread(train_config.prepare, self._settings, job)
            for step in steps:
                if not step.done:
                    command = train_config.command(self._settings, step.module, step.config)
                    ended = await self._process(job, command)
                    if not step.done:
                        return await self._failed(job, f"{step.kind}: {_reason(ended)}")
        except (ArtifactError, ComponentError, MeshError, SettingsError, OSError) as error:
            return await self._failed(job, " ".join(str(error).split()))
        training_report.took(self._metrics, job, "train", time.monotonic() - began)
        made = result.read(steps[-1].output)
        return await self._kept(job, state="trained", run=made.run if made else None)

    async def _judge(self, job: Job) -> Job:
        """Judge a job's model; while what that takes is away it waits, which is no attempt.

        It does not wait for longer than a job may take: a candidate whose server never answers
        would hold up those after it for ever.
        """
        until = time.monotonic() + self._bounds.hours * 3600
        pause = min(self._settings.training.retry_first, GATE_AGAIN)
        while True:
            began = time.monotonic()
            try:
                verdict = await self._verdict(job)
                break
            except AWAY as error:
                if time.monotonic() > until:
                    return await self._failed(job, str(error))
                log.warning("%s: job %s again in %.1f s: %s", job.target, job.id, pause, error)
            await asyncio.sleep(pause)
        if isinstance(verdict, str):
            return await self._failed(job, verdict)
        training_report.took(self._metrics, job, "gate", time.monotonic() - began)
        training_report.judged(self._metrics, verdict)
        state = "passed" if verdict.passed else "blocked"
        return await self._kept(job, state=state, model=verdict.candidate, reason=verdict.reason)

    async def _verdict(self, job: Job) -> Verdict | str:
        """The gate's verdict, or why there is none. Raises `AWAY`."""
        try:
            ended = await self._process(job, self._judge_command(job))
        except OSError as error:
            return f"judge: {error}"
        if ended.away:
            raise Transient("judge", ended.reason)
        if ended.status or ended.exceeded:
            return f"judge: {ended.reason}"
        verdict = (await topic_view.read(self._settings, VERDICTS, Verdict)).get(job.id)
        return verdict or "judge: it ended without a verdict"

    async def _process(self, job: Job, command: tuple[str, ...]) -> Ended:
        return await job_process.run(
            command,
            directory=train_config.directory(self._settings, job.id),
            output=train_config.log_file(self._settings, job.id),
            bounds=self._bounds,
            environment=train_config.environment(self._settings),
        )

    async def _failed(self, job: Job, reason: str) -> Job:
        return await self._kept(job, state="failed", reason=reason)

    async def _kept(self, job: Job, **changes: Any) -> Job:
        changed = replace(job, at=datetime.now(UTC), **changes)
        await self._ledger.keep(changed)
        return changed

    async def _tidy(self) -> None:
        jobs = list(self._ledger.jobs.values())
        try:
            serving = await topic_view.read(self._settings, SERVING, Serving)
            names = [each.model for each in serving.values()]
            await asyncio.to_thread(train_config.tidy, self._settings, jobs, names)
        except (*AWAY, OSError) as error:
            log.warning("old jobs cannot be removed: %s", error)


def _reason(ended: Ended) -> str:
    return ended.reason if ended.status or ended.exceeded else "it ended without a result"
