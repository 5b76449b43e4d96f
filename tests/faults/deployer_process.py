"""The deployer as a process, over the registry and the servers of tests/fakes/deploy.py.

Settings come from the file that is named, or else from the environment; the registry lies in
<data>/registry.
"""

import asyncio
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from fakes.deploy import DirectoryRegistry, scripted
from infra import logs
from infra.deploy_replace import Replace
from infra.deployer_worker import work
from infra.metrics_server import serving
from infra.settings import Settings
from infra.settings_file import load
from streams.metrics import Metrics


def main() -> None:
    settings = load(Path(sys.argv[1])) if sys.argv[1:] else Settings()
    logs.configure(settings, "deployer")
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
