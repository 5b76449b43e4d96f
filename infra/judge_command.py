"""Runs the gate for one job in the foreground: `kailin models judge --job ID`."""

import asyncio
import logging

from rich.console import Console

from infra import gate_answers, gate_run, logs
from infra.artifacts import ArtifactError
from infra.component import ComponentError
from infra.deploy import DeployError, deployment
from infra.deploy_replace import Replace
from infra.job_process import AWAY
from infra.kafka import BrokerUnreachable
from infra.model_registry import ModelRegistry, RegistryError
from infra.settings import Settings, SettingsError
from infra.tables import STORE_ERRORS, TableError, one_line
from streams.errors import Transient
from streams.learning import Target, Verdict
from streams.mesh import MeshError
from trainers.errors import DataError

log = logging.getLogger(__name__)

DONE, FAILED, WRONG = 0, 1, 2


def run(settings: Settings, job: str, target: Target) -> int:
    """Judge a job's model and print the verdict; the exit status.

    The reason of a failure is the last line of the log.
    """
    logs.configure(settings, "judge")
    console = Console()
    try:
        verdict = asyncio.run(_judge(settings, job, target, console))
    except (DataError, SettingsError) as error:
        return _failed(f"{error}", WRONG)
    except (
        *(ArtifactError, ComponentError, DeployError, gate_run.GateError),
        *(MeshError, RegistryError, TableError),
    ) as error:
        return _failed(f"{error}", FAILED)
    except (BrokerUnreachable, Transient) as error:
        return _failed(f"{error}", AWAY)
    except STORE_ERRORS as error:
        return _failed(one_line(error), FAILED)
    except KeyboardInterrupt:
        return _failed("stopped; the same command goes on from here", FAILED)
    outcome = "passed" if verdict.passed else "blocked"
    console.print(f"{verdict.candidate} {outcome}: {verdict.reason}", highlight=False)
    return DONE


async def _judge(settings: Settings, job: str, target: Target, console: Console) -> Verdict:
    registry = ModelRegistry(settings)
    # Adapters are for the server of θ3's origin alone.
    deploy = (
        deployment(settings, registry.download)
        if target == "theta3"
        else Replace(settings, gate_answers.fetching(registry.download))
    )
    try:
        return await gate_run.judge(
            settings, job, target, registry=registry, deploy=deploy, console=console
        )
    finally:
        await deploy.close()


def _failed(line: str, status: int) -> int:
    log.error("%s", line)
    return status
