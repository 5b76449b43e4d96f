"""What `kailin doctor` looks at behind HTTP: model servers, MLflow, Prometheus, their clocks."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from infra import mlflow_copy
from infra.finding import Finding, ok, problem, warning
from infra.model_probe import NoAnswer
from infra.model_probe import models as served
from infra.settings import Settings
from streams.log_lines import without_secrets

TIMEOUT = aiohttp.ClientTimeout(total=5.0)
# Seconds that a server's clock may differ; its answers are of whole seconds.
SKEW = 5.0


async def models(settings: Settings) -> list[Finding]:
    """Each model server that is used, and whether it serves the models that are asked for."""
    names = dict.fromkeys(asked.server for asked in settings.asked)
    found = await asyncio.gather(*(_server(settings, name) for name in names))
    if settings.embedder.url:
        found.append(await _encoder(settings))
    return [finding for some in found for finding in some]


async def _server(settings: Settings, name: str) -> list[Finding]:
    server = settings.servers[name]
    at = f"servers.{name} at {without_secrets(server.address)}"
    wanted = {asked.model for asked in settings.asked if asked.server == name}
    try:
        there = await served(server, server.address)
    except NoAnswer as error:
        return [problem("models", f"{at}: {error}", "start it, or mend its url, key or ca_file")]
    found = [ok("models", f"{at}: serves {', '.join(sorted(there))}")]
    if missing := sorted(wanted - there.keys()):
        said = f"{at}: does not serve {', '.join(missing)}"
        remedy = "load them there, or put right `model` of generators and answerers"
        found.append(problem("models", said, remedy))
    return found + await _clock("models", server.address)


async def _encoder(settings: Settings) -> list[Finding]:
    embedder = settings.embedder
    at = f"embedder at {without_secrets(embedder.url)}"
    # What a probe needs of a server, an encoder's section has, too.
    try:
        there = await served(embedder, embedder.url)
    except NoAnswer as error:
        return [problem("models", f"{at}: {error}", "start it, or mend its url, key or ca_file")]
    if embedder.model not in there:
        said = f"{at}: does not serve {embedder.model}, but {', '.join(sorted(there))}"
        return [problem("models", said, "put right embedder.model")]
    return [ok("models", f"{at}: serves {embedder.model}")]


async def mlflow(settings: Settings) -> list[Finding]:
    """MLflow's server, or the database that stands in for one."""
    if mlflow_copy.directory(settings) is None:
        address = settings.mlflow_uri.rstrip("/")
        shown = without_secrets(address)
        try:
            version = await _text(f"{address}/version")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            remedy = "start it, or mend mlflow.uri and its credentials"
            return [problem("mlflow", f"{shown}: {_why(error)}", remedy)]
        return [
            ok("mlflow", f"{shown} answers, version {version}"),
            *await _clock("mlflow", address),
        ]
    path = mlflow_copy.database(settings)
    if not path.exists():
        return [ok("mlflow", f"{path}: not there yet, the first job makes it")]

    def runs() -> Any:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            return database.execute("select count(*) from runs").fetchone()[0]

    try:
        return [ok("mlflow", f"{path}: {await asyncio.to_thread(runs):,} runs")]
    except sqlite3.Error as error:
        return [problem("mlflow", f"{path}: {error}", "restore it from a backup")]


async def prometheus(settings: Settings) -> list[Finding]:
    """Whether Prometheus answers, and which processes it cannot scrape."""
    address = f"http://127.0.0.1:{settings.prometheus.port}"
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(f"{address}/api/v1/targets?state=active") as answer,
        ):
            targets = (await answer.json())["data"]["activeTargets"]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
        remedy = "`kailin up` starts it where the binary `prometheus` is on PATH"
        return [warning("prometheus", f"{address}: {_why(error)}", remedy)]
    down = [target["scrapeUrl"] for target in targets if target["health"] == "down"]
    found = [ok("prometheus", f"{address} answers, and scrapes {len(targets)} processes")]
    if down:
        said = f"cannot be scraped: {', '.join(sorted(down))}"
        found.append(warning("prometheus", said, "do they run? `kailin status` shows it"))
    return found + await _clock("prometheus", address)


async def _text(url: str) -> str:
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.get(url) as answer,
    ):
        answer.raise_for_status()
        return (await answer.text()).strip()[:40]


async def _clock(area: str, address: str) -> list[Finding]:
    """Whether a server's clock is that of this machine, as far as its answers tell."""
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(address) as answer,
        ):
            date = answer.headers.get("Date")
    except (aiohttp.ClientError, OSError, TimeoutError):
        return []
    try:
        apart = (parsedate_to_datetime(date or "") - datetime.now(UTC)).total_seconds()
    except ValueError:
        return []
    if abs(apart) <= SKEW:
        return []
    said = f"the clock of {without_secrets(address)} is {apart:+,.0f} s from this machine's"
    return [warning(area, said, "set both by NTP: months, budgets and ages go by the clock")]


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
