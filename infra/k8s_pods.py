"""The pods of our own processes, and how many there are of each: part of `infra.k8s_manifests`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from infra.access import ACCESS
from infra.kafka import group_name, topic_name
from infra.settings import Settings

Manifest: TypeAlias = dict[str, Any]

# The name of the image, which an overlay replaces, and where things are in it.
IMAGE = "kailin"
USER_ID = 10001
SETTINGS = "/etc/kailin/kailin.toml"
SECRETS = "/etc/kailin"
DATA = "/data"
SCRATCH = "/tmp"  # noqa: S108


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process in a pod of its own.

    Of a stage that has a `lag` there is a pod for each so many messages that wait for it, at most
    one a partition; of others there is a single pod. `search` and `models` are the engines
    that it asks, `tables` and `internet` what it reaches outside, and `data` the files that it
    shares with others: MeSH, adapters and training jobs. Memory in MiB.
    """

    command: tuple[str, ...]
    lag: int = 0
    search: bool = False
    models: bool = False
    tables: bool = False
    data: bool = False
    internet: bool = False
    cpu: str = "250m"
    memory: int = 512
    gpus: int = 0


def _stage(name: str, **needs: Any) -> Worker:
    # A pod is always started again. One that met its dead-letter limit must not be, so it stays.
    return Worker(command=("kailin", "run", name, "--stay"), **needs)


WORKERS: Mapping[str, Worker] = {
    "index": _stage("index", lag=1000, search=True, cpu="1", memory=2048),
    "generate": _stage("generate", lag=200, models=True),
    "retrieve": _stage("retrieve", lag=200, search=True, cpu="1", memory=2048),
    "score": _stage("score", lag=2000, data=True, cpu="500m", memory=1024),
    "prefer": _stage("prefer", lag=5000),
    "answer": _stage("answer", lag=200, models=True),
    # Each would sweep the parked records for itself.
    "rescore": _stage("rescore", search=True, tables=True, data=True, memory=2048),
    # Its rate is a bound on a process.
    "backlog": _stage("backlog", search=True, models=True, tables=True, memory=1024),
    # Each would hold the ids of all rows.
    "append": _stage("append", tables=True, cpu="1", memory=4096),
    "ingest": Worker(
        command=("kailin", "ingest", "follow"), internet=True, cpu="500m", memory=2048
    ),
    "deployer": Worker(command=("kailin", "deployer"), models=True, data=True),
    "trainer": Worker(
        command=("kailin", "trainer", "--once"),
        search=True,
        models=True,
        tables=True,
        data=True,
        internet=True,
        cpu="4",
        memory=65_536,
        gpus=1,
    ),
    # Where commands are given: kubectl exec -it operator-0 -- kailin dlq list
    "operator": Worker(
        command=("sleep", "infinity"), search=True, models=True, tables=True, data=True
    ),
}


def labels(name: str) -> dict[str, str]:
    """What the objects of a process are found by."""
    return {"app.kubernetes.io/part-of": "kailin", "app.kubernetes.io/component": name}


def workers(settings: Settings) -> Iterator[Manifest]:
    """Each process but the trainer, and how the number of its pods follows its lag."""
    for name, worker in WORKERS.items():
        if name == "trainer":
            continue
        yield _workload(name, worker, settings)
        if worker.lag:
            yield _scaled(name, worker, settings)
            yield _budget(name)


def _workload(name: str, worker: Worker, settings: Settings) -> Manifest:
    # Pods of a StatefulSet keep their host names, by which the append stage and those that take
    # turns find their places again.
    stateful = not worker.lag
    spec: Manifest = {
        "selector": {"matchLabels": labels(name)},
        "template": _pod(name, worker, settings),
    }
    if stateful:
        spec |= {"serviceName": name, "replicas": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet" if stateful else "Deployment",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": spec,
    }


def _scaled(name: str, worker: Worker, settings: Settings) -> Manifest:
    (topic,) = ACCESS[name].takes
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": 1,
            "maxReplicaCount": topic.partitions,
            # Each change of the number moves partitions, and what was in hand is done again.
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 900}}
                }
            },
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServers": settings.kafka.servers,
                        "consumerGroup": group_name(settings, name),
                        "topic": topic_name(settings, topic),
                        "lagThreshold": str(worker.lag),
                        "offsetResetPolicy": "earliest",
                        "sasl": "scram_sha512",
                        "tls": "enable",
                    },
                    "authenticationRef": {"name": "kailin-keda"},
                }
            ],
        },
    }


def _budget(name: str) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(name)}},
    }


def training(settings: Settings) -> Iterator[Manifest]:
    """The trainer: a Job now and then that has a GPU only while something is due."""
    pod = _pod("trainer", WORKERS["trainer"], settings)
    pod["spec"]["restartPolicy"] = "Never"
    yield {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "trainer", "labels": labels("trainer")},
        "spec": {
            "schedule": "*/30 * * * *",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "failedJobsHistoryLimit": 3,
            "successfulJobsHistoryLimit": 1,
            "jobTemplate": {
                "metadata": {"labels": labels("trainer")},
                "spec": {"backoffLimit": 2, "template": pod},
            },
        },
    }


def _pod(name: str, worker: Worker, settings: Settings) -> Manifest:
    port = getattr(settings.ports, name, None)
    outside = {"kailin/outside": "true"} if worker.internet or worker.tables else {}
    mounted = _mounted(name, worker, settings)
    resources: Manifest = {
        "requests": {"cpu": worker.cpu, "memory": f"{worker.memory}Mi"},
        "limits": {"memory": f"{worker.memory}Mi"},
    }
    if worker.gpus:
        resources["limits"]["nvidia.com/gpu"] = worker.gpus
    container: Manifest = {
        "name": name,
        "image": IMAGE,
        "command": list(worker.command),
        "env": _environment(name, worker, mounted),
        "resources": resources,
        "securityContext": _confined(),
        "volumeMounts": _mounts(mounted),
    }
    if port:
        container["ports"] = [{"name": "metrics", "containerPort": port}]
        # There is no liveness probe: what fails ends by itself, and what met its dead-letter limit
        # is to stay as it is, not ready, until somebody has looked.
        probe = {"httpGet": {"path": "/metrics", "port": "metrics"}, "periodSeconds": 10}
        container["readinessProbe"] = probe
    if worker.tables:
        container["envFrom"] = [{"secretRef": {"name": "kailin-tables", "optional": True}}]
    return {
        "metadata": {"labels": labels(name) | outside},
        "spec": {
            "serviceAccountName": "kailin",
            "automountServiceAccountToken": False,
            # The variables of a Service `kailin-…` would be taken for settings.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 60,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": _volumes(mounted, worker.data),
        },
    }


def _confined() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _mounted(name: str, worker: Worker, settings: Settings) -> dict[str, dict[str, str]]:
    """The Secrets that a process is given as files, and for each the settings that name them.

    Strimzi makes that of a user and of the cluster's CA, ECK that of its CA; the others are given.
    """
    mounted = {
        f"kailin-{name}": {"KAILIN_KAFKA__PASSWORD_FILE": "password"},
        "kailin-cluster-ca-cert": {"KAILIN_KAFKA__CA_FILE": "ca.crt"},
    }
    if worker.search:
        user = {"KAILIN_ELASTICSEARCH__PASSWORD_FILE": "password"}
        mounted["kailin-elasticsearch-user"] = user
        mounted["kailin-es-http-certs-public"] = {"KAILIN_ELASTICSEARCH__CA_FILE": "ca.crt"}
    if worker.models:
        mounted["kailin-models"] = {
            f"KAILIN_SERVERS__{server.upper()}__API_KEY_FILE": "api-key"
            for server in settings.servers
        }
    return mounted


def _environment(
    name: str, worker: Worker, mounted: Mapping[str, Mapping[str, str]]
) -> list[Manifest]:
    given = {
        "KAILIN_CONFIG": SETTINGS,
        "KAILIN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "KAILIN_KAFKA__USERNAME": f"kailin-{name}",
    }
    if worker.search:
        given["KAILIN_ELASTICSEARCH__USERNAME"] = "kailin"
    for secret, files in mounted.items():
        given |= {setting: f"{SECRETS}/{secret}/{file}" for setting, file in files.items()}
    # The user has no entry in /etc/passwd, and may write in few places.
    given |= {"USER": "kailin", "HOME": SCRATCH, "XDG_CACHE_HOME": f"{SCRATCH}/cache"}
    return [{"name": key, "value": value} for key, value in given.items()]


def _mounts(mounted: Mapping[str, object]) -> list[Manifest]:
    secrets = [
        {"name": secret, "mountPath": f"{SECRETS}/{secret}", "readOnly": True} for secret in mounted
    ]
    return [
        {"name": "settings", "mountPath": SETTINGS, "subPath": "kailin.toml", "readOnly": True},
        {"name": "data", "mountPath": DATA},
        {"name": "scratch", "mountPath": SCRATCH},
        *secrets,
    ]


def _volumes(mounted: Mapping[str, object], shares: bool) -> list[Manifest]:
    data = {"persistentVolumeClaim": {"claimName": "kailin-data"}} if shares else {"emptyDir": {}}
    return [
        {"name": "settings", "configMap": {"name": "kailin-settings"}},
        {"name": "data", **data},
        {"name": "scratch", "emptyDir": {}},
        *({"name": secret, "secret": {"secretName": secret}} for secret in mounted),
    ]
