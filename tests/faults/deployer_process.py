"""The deployer as a process, over the registry and the servers of tests/fakes/deploy.py.

Settings come from the environment, the registry lies in <data>/registry.
"""

import asyncio

from prometheus_client import CollectorRegistry

from fakes.deploy import DirectoryRegistry, scripted
from infra import logs
from infra.deploy_replace import Replace
from infra.deployer_worker import work
from infra.metrics_server import serving
from infra.settings import Settings
from streams.metrics import Metrics


def main() -> None:
    logs.configure()
    settings = Settings()
    metrics = Metrics(CollectorRegistry())
    registry = DirectoryRegistry(settings.data / "registry")
    with serving("deployer", settings.ports.host, settings.ports.deployer, metrics.registry):
        asyncio.run(
            work(
                settings,
                metrics,
                registry,
                registry.download,
                lambda settings, fetch: Replace(settings, fetch, scripted),
            )
        )


if __name__ == "__main__":
    main()
