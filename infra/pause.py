"""Stages that an operator has stand still: `kailin pause STAGE`, over the whole deployment.

Who is paused is kept in the topic `stage.control`, which every worker follows. While paused it
takes nothing more; it finishes and commits what it has in hand and keeps its place in its group, so
that nothing is handed over and nothing lost. A restart changes nothing about it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from infra import topic_view
from infra.kafka import BrokerUnreachable, Publisher
from infra.settings import Ports, Settings
from infra.topic_view import TopicView, followed
from streams.errors import Transient
from streams.metrics import Metrics
from streams.operations import Control
from streams.topics import CONTROL

log = logging.getLogger(__name__)

# The stages, what follows the sources, and what starts jobs.
PAUSABLE = (*Ports().stages, "ingest", "trainer")

# Seconds that the broker is waited for where a status is shown.
WITHIN = 10.0
# A view says when there is something new; this only bounds one wait for it, in seconds.
LOOK_EVERY = 3600.0


@asynccontextmanager
async def going(settings: Settings, stage: str, metrics: Metrics) -> AsyncIterator[asyncio.Event]:
    """An event that is set while a stage may take more, and kept as operators have it.

    Waits for a topic that is not there yet. Raises `BrokerUnreachable`.
    """
    event = asyncio.Event()
    told: Control | None = None
    async with followed(settings, CONTROL, Control) as view:

        def look() -> None:
            nonlocal told
            control = view.records.get(stage)
            paused = control is not None and control.paused
            metrics.paused.labels(stage).set(paused)
            (event.clear if paused else event.set)()
            if control and control != told and (paused or told):
                log.info("%s", line(control))
            told = control

        look()
        following = asyncio.create_task(_follow(view, look))
        try:
            yield event
        finally:
            following.cancel()
            await asyncio.wait({following})


async def _follow(view: TopicView[Control], look: Callable[[], None]) -> None:
    while True:
        seen = view.position
        look()
        await view.wait(LOOK_EVERY, beyond=seen)


async def tell(
    settings: Settings, stages: Sequence[str], *, paused: bool, who: str, why: str
) -> tuple[Control, ...]:
    """Have stages stand still, or go on; done when the broker has it.

    Returns what is said now of those for which it was otherwise before. Raises
    `BrokerUnreachable`, and `Transient` where the broker goes away or has no such topic.
    """
    before = await topic_view.read(settings, CONTROL, Control)
    changed = tuple(
        Control(stage=stage, paused=paused, who=who, why=why, at=datetime.now(UTC))
        for stage in dict.fromkeys(stages)
        if paused != (stage in before and before[stage].paused)
    )
    async with Publisher(settings) as publisher:
        for control in changed:
            await publisher.send(CONTROL, control)
    return changed


def read_status(settings: Settings) -> tuple[Control, ...] | None:
    """The stages that are paused; None where no broker answers."""
    try:
        found = asyncio.run(asyncio.wait_for(topic_view.read(settings, CONTROL, Control), WITHIN))
    except (BrokerUnreachable, KafkaError, TimeoutError, Transient):
        return None
    return paused_in(found)


def paused_in(found: Mapping[str, Control]) -> tuple[Control, ...]:
    """Those of the topic's records that say so, in the order of the stream."""
    told = (found.get(stage) for stage in PAUSABLE)
    return tuple(control for control in told if control and control.paused)


def line(control: Control) -> str:
    """What is said of a stage, for a person."""
    said, since = ("is paused by", "since") if control.paused else ("goes on, as told by", "at")
    why = f": {control.why}" if control.why else ""
    return f"{control.stage} {said} {control.who} {since} {control.at:%Y-%m-%d %H:%M} UTC{why}"
