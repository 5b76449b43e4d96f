"""Alertmanager beside the service: its configuration, and a real one that holds back and tells."""

import asyncio
import json
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from engines import Engine, free_port, unavailable
from infra.alertmanager import alerting, alertmanager, configuration
from infra.component import Component
from infra.prometheus import prometheus
from infra.settings import Settings, SettingsError
from infra.settings_file import load

HOOK = "https://hooks.example.org/T0/secret"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, alerts={"port": free_port(), "webhook": HOOK})


def component(settings: Settings) -> Component:
    return alertmanager(settings) or unavailable("there is no alertmanager on PATH")


def written(settings: Settings) -> Path:
    return settings.data / "alertmanager" / "alertmanager.yml"


def test_nobody_is_told_where_no_one_is_named() -> None:
    receivers = configuration(Settings().alerts)["receivers"]
    assert [one["webhook_configs"] for one in receivers] == [[], []]


@pytest.mark.prometheus
def test_the_webhook_is_in_a_file_that_others_cannot_read(settings: Settings) -> None:
    command = component(settings).command
    assert f"--config.file={written(settings)}" in command
    assert written(settings).stat().st_mode & 0o077 == 0
    assert HOOK in written(settings).read_text()
    assert HOOK not in repr(settings)


@pytest.mark.prometheus
def test_a_real_one_accepts_the_configuration(settings: Settings) -> None:
    component(settings)
    done = subprocess.run(
        ["amtool", "check-config", written(settings)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_a_file_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    settings = Settings(data=tmp_path / "data", alerts={"config": str(own)})
    assert f"--config.file={own}" in component(settings).command
    assert not written(settings).exists()


@pytest.mark.prometheus
def test_one_that_runs_elsewhere_is_told_by_prometheus(
    tmp_path: Path, prometheus_binary: str
) -> None:
    settings = Settings(data=tmp_path, alerts={"url": "https://alerts.example.org/team"})
    assert alertmanager(settings) is None
    prometheus(settings)
    config = json.loads((tmp_path / "prometheus" / "prometheus.yml").read_text())
    (target,) = config["alerting"]["alertmanagers"]
    assert target == {
        "scheme": "https",
        "path_prefix": "/team",
        "static_configs": [{"targets": ["alerts.example.org"]}],
    }


def test_without_one_prometheus_tells_nobody(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "bin"
    only.mkdir()
    (only / "prometheus").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(only))
    assert alertmanager(settings) is None
    prometheus(settings)
    assert "alerting" not in (tmp_path / "prometheus" / "prometheus.yml").read_text()


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ('webhook = "https://hooks/x"', "KAILIN_ALERTS__WEBHOOK or by webhook_file"),
        ('heartbeat = "https://hooks/x"', "KAILIN_ALERTS__HEARTBEAT or by heartbeat_file"),
        ('url = "alerts:9093"', "alerts.url"),
        ('url = "http://alerts:9093"\nconfig = "own.yml"', "config is for the Alertmanager"),
        ('url = "http://alerts:9093"\nwebhook_file = "{secret}"', "url is given, so webhook"),
        ('config = "own.yml"\nheartbeat_file = "{secret}"', "config is given, so webhook"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, toml: str, told: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(HOOK)
    file = tmp_path / "kailin.toml"
    file.write_text("[alerts]\n" + toml.format(secret=secret))
    with pytest.raises(SettingsError) as error:
        load(file)
    assert told in str(error.value)
    assert "hooks" not in str(error.value)


def alert(name: str, **labels: str) -> dict[str, Any]:
    return {
        "labels": {"alertname": name, **labels},
        "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }


@pytest.mark.prometheus
async def test_a_real_one_tells_the_cause_and_holds_back_what_follows_from_it(
    tmp_path: Path,
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    beats = asyncio.Event()

    async def hook(request: web.Request) -> web.Response:
        for each in (await request.json())["alerts"]:
            told.put_nowait(each["labels"]["alertname"])
        return web.Response()

    async def beat(_: web.Request) -> web.Response:
        beats.set()
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hook)
    app.router.add_post("/beat", beat)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await web.SockSite(runner, listening).start()
        there = f"http://127.0.0.1:{listening.getsockname()[1]}"
        hooks = {"webhook": f"{there}/hook", "heartbeat": f"{there}/beat"}
        settings = Settings(data=tmp_path, alerts={"port": free_port(), **hooks})
        engine = Engine(component(settings))
        config = written(settings)
        config.write_text(config.read_text().replace('"group_wait": "30s"', '"group_wait": "1s"'))
        try:
            await asyncio.to_thread(engine.start)
            ports = {each.laddr for each in engine.process.net_connections() if not each.raddr}
            assert ports == {("127.0.0.1", settings.alerts.port)}
            sent = [
                alert("KailinProcessDown", process="kafka", severity="critical"),
                alert("KailinStageStuck", stage="score", severity="critical"),
                alert("KailinDiskFull", directory="/a", severity="critical"),
                alert("KailinDiskFilling", directory="/a", severity="warning"),
                alert("KailinDiskFilling", directory="/b", severity="warning"),
                alert("KailinWatchdog", severity="none"),
            ]
            api = f"http://127.0.0.1:{settings.alerts.port}/api/v2/alerts"
            async with asyncio.timeout(30), aiohttp.ClientSession() as session:
                assert (await session.post(api, json=sent)).status == 200
                await beats.wait()
                first = sorted([await told.get() for _ in range(3)])
                held = await (await session.get(api)).json()
        finally:
            await asyncio.to_thread(engine.kill)
            await runner.cleanup()
    assert first == ["KailinDiskFilling", "KailinDiskFull", "KailinProcessDown"]
    assert told.empty()
    suppressed = {
        (one["labels"]["alertname"], one["labels"].get("directory"))
        for one in held
        if one["status"]["inhibitedBy"]
    }
    assert suppressed == {("KailinStageStuck", None), ("KailinDiskFilling", "/a")}


@pytest.mark.prometheus
def test_prometheus_is_told_where_ours_listens(settings: Settings) -> None:
    (target,) = alerting(settings)["alertmanagers"]
    assert target["static_configs"] == [{"targets": [f"127.0.0.1:{settings.alerts.port}"]}]
    listens = f"--web.listen-address=127.0.0.1:{settings.alerts.port}"
    assert listens in component(settings).command
