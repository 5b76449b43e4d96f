"""Runs the worker of one stage: `kailin run STAGE`."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from consumers import agent
from consumers.stage import DONE, FAILED, MISCONFIGURED, Kafka, Policy, Stage
from infra import logs
from infra.artifacts import ArtifactError
from infra.component import ComponentError
from infra.kafka import BrokerUnreachable, client_arguments, group_name, reach, topic_name
from infra.metrics_server import serving
from infra.settings import Settings, SettingsError
from infra.stages import STAGES
from infra.told_to_stop import told_to_stop
from streams.mesh import MeshError
from streams.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


def run(stage: str, settings: Settings) -> int:
    """Run one stage's worker until SIGTERM or SIGINT. Returns the exit status of the process.

    0 told to stop, 1 failed, 2 no such stage or a wrong setting, 3 too many dead letters; the
    reason is logged as one line.
    """
    if stage not in (*STAGES, "append"):
        print(  # noqa: T201
            f"{stage}: expected a stage, one of {', '.join((*STAGES, 'append'))}", file=sys.stderr
        )
        return MISCONFIGURED
    logs.configure()
    metrics = Metrics(CollectorRegistry())
    ProcessCollector(registry=metrics.registry)
    try:
        return asyncio.run(_until_told_to_stop(stage, settings, metrics))
    except SettingsError as error:
        log.error("%s: %s", stage, error)
        return MISCONFIGURED
    except (ArtifactError, BrokerUnreachable, ComponentError, MeshError) as error:
        log.error("%s: %s", stage, error)
        return FAILED


async def _until_told_to_stop(stage: str, settings: Settings, metrics: Metrics) -> int:
    stop = told_to_stop()
    ports = settings.ports
    with serving(stage, ports.host, ports.stages[stage], metrics.registry):
        if stage == "append":
            from infra import append_worker

            return await append_worker.run(settings, metrics, stop)
        async with AsyncExitStack() as stack:
            build = stack.enter_async_context(STAGES[stage](settings, metrics))
            built = await _unless(stop, build)
            return DONE if built is None else await _work(built, settings, metrics, stop)


async def _work(
    stage: Stage[Any], settings: Settings, metrics: Metrics, stop: asyncio.Event
) -> int:
    # faust would not say why the broker cannot be reached.
    await _unless(stop, reach(settings))
    policy = Policy(**settings.workers.model_dump())
    return await agent.run(
        stage,
        kafka=Kafka(
            client=client_arguments(settings),
            group=group_name(settings, stage.name),
            topic_name=lambda topic: topic_name(settings, topic),
        ),
        policy=replace(policy, window=stage.window or policy.window),
        metrics=metrics,
        scratch=settings.data.resolve() / "faust",
        stop=stop,
    )


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None where `stop` is set first."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        return await working
    working.cancel()
    await asyncio.wait({working})
    return None
