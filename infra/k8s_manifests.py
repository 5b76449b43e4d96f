"""Writes what follows from the code of infra/k8s/base: topics, users, workers, models and alerts.

    python -m infra.k8s_manifests

The rest of that directory is written by hand. The settings are those of kailin.toml there, which
the pods are given as it is; a test holds the files to what this makes of it.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from infra.access import ACCESS, Right, rights
from infra.k8s_pods import DATA, WORKERS, Manifest, labels, training, workers
from infra.kafka import group_name, topic_name
from infra.settings import Server, Settings
from infra.settings_file import load
from infra.topic_admin import topic_configs
from infra.vllm_server import adapter_flags, takes_adapters
from streams.topics import TOPICS

ROOT = Path(__file__).parent.parent
DASHBOARDS = ROOT / "dashboards"
BASE = Path(__file__).parent / "k8s" / "base"
HEADER = "# Written by `python -m infra.k8s_manifests`.\n"

# The Kafka of kafka.yaml, and the file of the rules of its exporter.
CLUSTER = "kailin"
KAFKA_METRICS = Path(__file__).with_name("kafka_metrics.yaml")
VLLM_IMAGE = "vllm/vllm-openai:v0.27.1"


def main() -> None:
    for path, text in files().items():
        path.write_text(text)


def files() -> dict[Path, str]:
    """Every file that is made, and what is in it."""
    settings = load(BASE / "kailin.toml")
    made = {
        BASE / "topics.yaml": topics(settings),
        BASE / "users.yaml": users(settings),
        BASE / "workers.yaml": workers(settings),
        BASE / "training.yaml": training(settings),
        BASE / "models.yaml": models(settings),
        BASE / "alerts.yaml": alerts(),
        DASHBOARDS / "kustomization.yaml": dashboards(),
    }
    return {
        path: HEADER + yaml.safe_dump_all(some, sort_keys=False, width=100)
        for path, some in made.items()
    }


def topics(settings: Settings) -> Iterator[Manifest]:
    """Every topic of the table, for Strimzi's topic operator."""
    for topic in TOPICS:
        yield _strimzi(
            "KafkaTopic",
            topic_name(settings, topic),
            {
                "partitions": topic.partitions,
                "replicas": settings.kafka.replication_factor,
                "config": {
                    name: int(value) if value.lstrip("-").isdigit() else value
                    for name, value in topic_configs(topic).items()
                },
            },
        )


def users(settings: Settings) -> Iterator[Manifest]:
    """A user for each process with what it may do, and one for KEDA, which looks at the lag."""
    for process in ACCESS:
        if process != "supervisor":
            yield _user(process, rights(settings, process))
    yield _user("keda", _lag_rights(settings))


def _lag_rights(settings: Settings) -> tuple[Right, ...]:
    scaled = {name: ACCESS[name].takes for name, worker in WORKERS.items() if worker.lag}
    return (
        *(Right("group", group_name(settings, name), "describe") for name in scaled),
        *(
            Right("topic", name, "describe")
            for name in sorted({topic_name(settings, topic) for (topic,) in scaled.values()})
        ),
    )


def _user(process: str, some: tuple[Right, ...]) -> Manifest:
    operations: dict[tuple[str, str], list[str]] = {}
    for right in some:
        name = "".join(word.title() for word in right.operation.split("-"))
        operations.setdefault((right.resource, right.name), []).append(name)
    acls = [
        {
            "resource": {
                "type": "transactionalId" if resource == "transactional-id" else resource,
                "name": name,
                "patternType": "literal",
            },
            "operations": named,
        }
        for (resource, name), named in operations.items()
    ]
    return _strimzi(
        "KafkaUser",
        f"kailin-{process}",
        {
            "authentication": {"type": "scram-sha-512"},
            "authorization": {"type": "simple", "acls": acls},
        },
    )


def _strimzi(kind: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": CLUSTER}},
        "spec": spec,
    }


def models(settings: Settings) -> Iterator[Manifest]:
    """A vLLM and its address for each server that the settings name."""
    for name, server in settings.servers.items():
        host, port = _address(server)
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": host, "labels": labels(host)},
            "spec": {
                "selector": labels(host),
                "ports": [{"name": "http", "port": port, "targetPort": "http"}],
            },
        }
        yield _vllm(name, host, port, server, settings)


def _address(server: Server) -> tuple[str, int]:
    """The Service's name and port, of a `url` within the namespace."""
    url = urlsplit(server.url)
    return url.hostname or "", url.port or 80


def _vllm(name: str, host: str, port: int, server: Server, settings: Settings) -> Manifest:
    container = _vllm_container(name, port, server, settings)
    volumes: list[Manifest] = [
        {"name": "weights", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    rollout = "RollingUpdate"
    if takes_adapters(name, settings):
        flags, variables = adapter_flags(settings)
        container["args"] += flags
        container["env"] += [{"name": key, "value": value} for key, value in variables.items()]
        # It is one process: what is loaded into one replica the others have not.
        rollout = "Recreate"
        mount = {"name": "data", "mountPath": DATA, "readOnly": True}
        container["volumeMounts"].append(mount)
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": "kailin-data"}})
    pod_labels = {**labels(host), "kailin/server": name, "kailin/outside": "true"}
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": host, "labels": labels(host)},
        "spec": {
            "replicas": 1,
            "strategy": {"type": rollout},
            "selector": {"matchLabels": labels(host)},
            "template": {"metadata": {"labels": pod_labels}, "spec": pod},
        },
    }


def _vllm_container(name: str, port: int, server: Server, settings: Settings) -> Manifest:
    served = dict.fromkeys(asked.model for asked in settings.asked if asked.server == name)
    weights, _, revision = server.source.removeprefix("hf://").partition("@")
    arguments = [f"--model={weights}", f"--revision={revision}", "--served-model-name", *served]
    arguments += [f"--port={port}", f"--max-model-len={server.max_model_len}"]
    arguments += [f"--dtype={server.dtype}", "--generation-config=vllm"]
    key = {"secretKeyRef": {"name": "kailin-models", "key": "api-key"}}
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    return {
        "name": "vllm",
        "image": VLLM_IMAGE,
        "args": [*arguments, "--disable-uvicorn-access-log"],
        "env": [
            {"name": "VLLM_API_KEY", "valueFrom": key},
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
        ],
        "ports": [{"name": "http", "containerPort": port}],
        # Weights are fetched and loaded first, which takes minutes.
        "startupProbe": {**health, "failureThreshold": 180},
        "readinessProbe": {**health, "timeoutSeconds": 5},
        "livenessProbe": {**health, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "4", "memory": "32Gi"},
            "limits": {"memory": "32Gi", "nvidia.com/gpu": 1},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "weights", "mountPath": "/root/.cache"},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def alerts() -> Iterator[Manifest]:
    """The rules of dashboards/ for the Prometheus Operator, and those of Kafka's exporter."""
    for path in sorted(DASHBOARDS.glob("*.rules.yaml")):
        yield {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": path.name.removesuffix(".rules.yaml")},
            "spec": yaml.safe_load(path.read_text()),
        }
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kafka-metrics"},
        "data": {KAFKA_METRICS.name: KAFKA_METRICS.read_text()},
    }


def dashboards() -> Iterator[Manifest]:
    """A ConfigMap for each dashboard, with the label by which Grafana's sidecar finds them."""
    found = sorted(path.name for path in DASHBOARDS.glob("*.json"))
    yield {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
        "configMapGenerator": [
            {"name": f"dashboard-{name.removesuffix('.json')}", "files": [name]} for name in found
        ],
    }


if __name__ == "__main__":
    main()
