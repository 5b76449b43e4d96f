"""What `kailin doctor` looks at on this machine: versions, secrets, disk, processes and ports."""

import asyncio
import re
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from pydantic import BaseModel, SecretStr

from infra import disk as disks
from infra import run_state, up
from infra.finding import Finding, ok, problem, warning
from infra.settings import Settings
from infra.supervisor import StartFailed

PROGRAM = "kailin-stream"
# Free bytes below which the engines stop, and those below which it is time to act.
STOPS, SOON = 2 << 30, 10 << 30


async def versions(settings: Settings) -> list[Finding]:
    """This program, and whether the packages are those that it was written against."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(PROGRAM) or ()]
        found = [ok("versions", f"{PROGRAM} {metadata.version(PROGRAM)}")]
    except metadata.PackageNotFoundError:
        return [problem("versions", f"{PROGRAM} is not installed", "make check installs it")]
    remedy = "make check installs what requirements.lock says"
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(problem("versions", f"{requirement.name} is not installed", remedy))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            said = f"{requirement.name} {version} is installed, expected {requirement.specifier}"
            found.append(problem("versions", said, remedy))
    if len(found) == 1:
        found.append(ok("versions", f"{len(wanted)} packages as required"))
    return found


async def secrets(settings: Settings) -> list[Finding]:
    """Which secrets are set and where they come from; none of them is shown."""
    found = [
        ok("secrets", f"{name}: set, {f'from {file}' if file else 'by the environment'}")
        for name, file in _secrets(settings)
    ]
    for name, file in _secrets(settings):
        if file and file.exists() and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            said = f"{name}: others than its owner may use {file}"
            found.append(warning("secrets", said, f"chmod 600 {file}"))
    return found or [ok("secrets", "none is set")]


def _secrets(section: BaseModel, path: str = "") -> Iterator[tuple[str, Path | None]]:
    """The name of each secret that is set, and its file where it came from one."""
    for name, value in section:
        at = f"{path}{name}"
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield at, getattr(section, f"{name}_file", None)
        elif isinstance(value, BaseModel):
            yield from _secrets(value, f"{at}.")
        elif isinstance(value, dict):
            for key, part in value.items():
                if isinstance(part, BaseModel):
                    yield from _secrets(part, f"{at}.{key}.")
        elif isinstance(value, tuple):
            for number, part in enumerate(value):
                if isinstance(part, BaseModel):
                    yield from _secrets(part, f"{at}.{number}.")


async def disk(settings: Settings) -> list[Finding]:
    """Free space where the service writes."""
    found = []
    for directory in disks.directories(settings):
        there = next(each for each in (directory, *directory.parents) if each.exists())
        usage = psutil.disk_usage(str(there))
        said = f"{directory}: {usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB are free"
        if usage.free < STOPS:
            found.append(problem("machine", said, "make room: Kafka and Elasticsearch stop soon"))
        elif usage.free < SOON:
            found.append(warning("machine", said, "make room, or move `data` or `tables`"))
        else:
            found.append(ok("machine", said))
    if (marker := run_state.restoring(settings.data)).exists():
        said = "a restore was begun here and not finished: what there is is not whole"
        remedy = f"clear the deployment away, {marker} too, and restore it again"
        found.append(problem("machine", said, remedy))
    return found


async def processes(settings: Settings) -> list[Finding]:
    """Whether the service on this data directory is well, or could be started."""
    running = run_state.load(settings.data)
    found = []
    if running:
        for name, state in running.components.items():
            if state.state != "ready":
                said = f"{name} is {state.state}{f': {state.note}' if state.note else ''}"
                log = settings.data.resolve() / "logs" / f"{name}.log"
                found.append(problem("processes", said, f"the end of {log} says why"))
        if not found:
            found.append(ok("processes", f"{len(running.components)} components are ready"))
    else:
        found.append(ok("processes", f"no service runs on {settings.data}"))
        try:
            await asyncio.to_thread(up.check_ports, settings, ())
            found.append(ok("processes", "the ports that it needs are free"))
        except StartFailed as error:
            remedy = "is a service of another data directory running here?"
            found.append(warning("processes", str(error), remedy))
    if not re.fullmatch(r"127\..*|localhost|::1", settings.ports.host):
        said = f"ports.host = {settings.ports.host}: metrics can be read from other machines"
        found.append(warning("processes", said, "see that a firewall lets only Prometheus in"))
    return found
