"""Runs the worker of one stage: `kailin run STAGE`."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from consumers import agent
from consumers.delivery import NOT_ALLOWED, not_allowed
from consumers.stage import (
    DONE,
    FAILED,
    MISCONFIGURED,
    TOO_MANY_DEAD_LETTERS,
    Kafka,
    Policy,
    Stage,
)
from infra import logs, pause
from infra.acls import AclError, NotAllowed, check_allowed
from infra.artifacts import ArtifactError
from infra.component import ComponentError
from infra.kafka import BrokerUnreachable, client_arguments, group_name, topic_name
from infra.metrics_server import serving
from infra.settings import Settings, SettingsError
from infra.stages import STAGES
from infra.told_to_stop import told_to_stop
from infra.tracing import tracing
from streams.errors import Transient
from streams.mesh import MeshError
from streams.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


def run(stage: str, settings: Settings, *, stay: bool = False) -> int:
    """Run one stage's worker until SIGTERM or SIGINT. Returns the exit status of the process.

    0 told to stop, 1 failed, 2 no such stage or a wrong setting, 3 too many dead letters; the
    reason is logged as one line. With `stay` a worker that met too many dead letters does nothing
    more, without /metrics, until it is told to stop: for those who start again whatever ends.
    """
    if stage not in (*STAGES, "append"):
        print(  # noqa: T201
            f"{stage}: expected a stage, one of {', '.join((*STAGES, 'append'))}", file=sys.stderr
        )
        return MISCONFIGURED
    logs.configure(settings, stage)
    metrics = Metrics(CollectorRegistry())
    try:
        with tracing(settings.tracing, stage):
            status = asyncio.run(_until_told_to_stop(stage, settings, metrics))
    except SettingsError as error:
        log.error("%s: %s", stage, error)
        return MISCONFIGURED
    except (
        *(AclError, ArtifactError, BrokerUnreachable, ComponentError),
        *(MeshError, NotAllowed, Transient),
    ) as error:
        log.error("%s: %s", stage, error)
        return FAILED
    except NOT_ALLOWED as error:
        log.error("%s: %s", stage, not_allowed(error))
        return FAILED
    if stay and status == TOO_MANY_DEAD_LETTERS:
        log.error("%s: stays stopped until it is told to end", stage)
        asyncio.run(_stand_still())
    return status


async def _stand_still() -> None:
    await told_to_stop().wait()


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
            if built is None:
                return DONE
            await _unless(stop, check_allowed(settings, stage))
            # It says why a broker cannot be reached, which faust would not.
            followed = stack.enter_async_context(pause.going(settings, stage, metrics))
            going = await _unless(stop, followed)
            return DONE if going is None else await _work(built, settings, metrics, stop, going)


async def _work(
    stage: Stage[Any],
    settings: Settings,
    metrics: Metrics,
    stop: asyncio.Event,
    going: asyncio.Event,
) -> int:
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
        going=going,
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
