"""The process that puts champions in place: `kailin deployer`."""

import asyncio
import logging
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from consumers.stage import DONE, FAILED, MISCONFIGURED
from infra import leash, logs
from infra.component import ComponentError
from infra.deploy import Deploy, Fetch, deployment
from infra.deployer import TARGET, Deployer, Registry
from infra.kafka import BrokerUnreachable, Publisher
from infra.metrics_server import serving
from infra.model_registry import ModelRegistry
from infra.settings import Settings, SettingsError
from infra.told_to_stop import told_to_stop
from infra.topic_view import TopicView
from infra.turn import SESSION, Turn, TurnLost
from streams.errors import Transient
from streams.learning import Serving
from streams.metrics import Metrics
from streams.topics import SERVING

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status of the process.

    0 told to stop, 1 failed, 2 a wrong setting; the reason is logged as one line.
    """
    logs.configure(settings, "deployer")
    metrics = Metrics(CollectorRegistry())
    ports = settings.ports
    try:
        with serving("deployer", ports.host, ports.deployer, metrics.registry):
            registry = ModelRegistry(settings)
            asyncio.run(work(settings, metrics, registry, registry.download, deployment))
    except SettingsError as error:
        log.error("deployer: %s", error)
        return MISCONFIGURED
    except (BrokerUnreachable, ComponentError, Transient) as error:
        log.error("deployer: %s", error)
        return FAILED
    return DONE


async def work(
    settings: Settings,
    metrics: Metrics,
    registry: Registry,
    fetch: Fetch,
    deployment: Callable[[Settings, Fetch], Deploy],
) -> None:
    """Stand in line, and deploy when it is this process's turn.

    Of several deployers of one Kafka only one deploys; the others take over when it ends. Raises
    `BrokerUnreachable` at the start, and `TurnLost` where another has taken over.
    """
    stop = told_to_stop()
    # What a leash that was killed leaves comes here as its parents die, and not to init.
    leash.adopt_orphans()
    strays = asyncio.create_task(_end_strays())
    turn = Turn(settings, "deployer", group="deployer", topic=SERVING)
    try:
        await turn.join()
        while not stop.is_set() and not await turn.wait(1.0):
            pass
        if stop.is_set():
            return
        async with TopicView(settings, SERVING, Serving) as view, Publisher(settings) as publisher:

            async def tell(serving: Serving) -> None:
                await _check(turn)
                await publisher.send(SERVING, serving)
                await view.catch_up()

            deployer = Deployer(
                settings.deploy,
                deploy=deployment(settings, fetch),
                registry=registry,
                told=lambda: view.records.get(TARGET),
                tell=tell,
                metrics=metrics,
            )
            await deployer.run(stop)
    finally:
        strays.cancel()
        await turn.leave()


async def _end_strays() -> None:
    while True:
        leash.end_strays(keep=set())
        await asyncio.sleep(1.0)


async def _check(turn: Turn) -> None:
    """Raises `TurnLost` where another deployer has the right, and keeps it."""
    try:
        await turn.check()
    except TurnLost:
        # While members come and go nobody has it for a moment, and servers take long to start.
        if not await turn.wait(10 * SESSION):
            raise
