"""The manifests: against Kubernetes' own schemas, against each other, and against the server that they start."""

import copy
from collections.abc import Iterator
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml

from gatestream.server import metrics
from gatestream.server.config import Limits, ServerConfig, TickLimits, setting_name
from gatestream.server.telemetry import Totals
from tests.support.reference import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
# The oldest that has all that is used, and the newest that the package knows.
VERSIONS = ("1.30", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
Manifest = dict[str, Any]

KUSTOMIZATION: Manifest = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: dict[tuple[str, str], Manifest] = {
    (each["kind"], each["metadata"]["name"]): each
    for name in KUSTOMIZATION["resources"]
    for each in yaml.safe_load_all((FOLDER / name).read_text())
}
DEPLOYMENT = MANIFESTS["Deployment", "gatestream"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {each["name"]: each["value"] for each in CONTAINER["env"]}


def of_kind(kind: str) -> Iterator[Manifest]:
    return (each for (of, _), each in MANIFESTS.items() if of == kind)


def workloads() -> list[Manifest]:
    return [*of_kind("Deployment"), *of_kind("StatefulSet")]


def test_every_file_is_applied() -> None:
    assert {each.name for each in FOLDER.iterdir()} - {"password"} == {
        *KUSTOMIZATION["resources"],
        *(file for each in KUSTOMIZATION["configMapGenerator"] for file in each["files"]),
        "README.md",
        "kustomization.yaml",
        "prometheus-adapter.yaml",
    }
    assert KUSTOMIZATION["secretGenerator"] == [{"name": "store-password", "files": ["password"]}]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS, ids="-".join)
def test_a_manifest_is_one_by_kubernetes_schema(name: tuple[str, str], version: str) -> None:
    assert kubernetes_validate.validate(MANIFESTS[name], version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
def test_a_slip_of_the_pen_is_found(version: str) -> None:
    slipped = copy.deepcopy(DEPLOYMENT)
    slipped["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 45
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriodSecond"):
        kubernetes_validate.validate(slipped, version, strict=True)


def test_the_settings_are_the_servers() -> None:
    known = {
        f"GATESTREAM_{setting_name(config, field.name).upper()}"
        for config in (ServerConfig, Limits, TickLimits)
        for field in fields(config)
    }
    assert set(ENVIRONMENT) <= known
    assert CONTAINER["args"][1].removeprefix("--") in {field.name for field in fields(ServerConfig)}


def test_the_drain_ends_before_the_process_is_killed() -> None:
    asleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= asleep + float(ENVIRONMENT["GATESTREAM_DRAIN_SECONDS"]) + 10
    readiness = CONTAINER["readinessProbe"]
    assert float(ENVIRONMENT["GATESTREAM_DRAIN_SECONDS"]) > readiness["periodSeconds"] * readiness["failureThreshold"]


def test_the_probes_ask_pages_of_the_http_port() -> None:
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    asked = {kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: each["path"] for kind, each in asked.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    listened = int(ENVIRONMENT["GATESTREAM_HTTP_LISTEN"].rpartition(":")[2])
    assert {ports[each["port"]] for each in asked.values()} == {listened}
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(listened)


def test_the_store_is_where_the_replicas_look_for_it() -> None:
    url = urlsplit(ENVIRONMENT["GATESTREAM_STORE"])
    service = MANIFESTS["Service", "store"]
    assert (url.hostname, url.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    (file,) = parse_qs(url.query)["password-file"]
    path = PurePosixPath(file)
    mounts = {each["mountPath"]: each["name"] for each in CONTAINER["volumeMounts"]}
    volumes = {each["name"]: each for each in POD["volumes"]}
    assert volumes[mounts[str(path.parent)]]["secret"]["secretName"] == KUSTOMIZATION["secretGenerator"][0]["name"]
    assert path.name == KUSTOMIZATION["secretGenerator"][0]["files"][0]
    (valkey,) = MANIFESTS["StatefulSet", "store"]["spec"]["template"]["spec"]["containers"]
    assert file in valkey["args"][0]


def test_the_store_writes_before_it_answers_and_evicts_nothing() -> None:
    lines = (FOLDER / "valkey.conf").read_text().splitlines()
    settings = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"


def test_pods_run_with_the_least_rights() -> None:
    """Pod Security's level `restricted`, which the namespace enforces."""
    labels = MANIFESTS["Namespace", "gatestream"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in workloads():
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_what_selects_pods_finds_them() -> None:
    pods = [each["spec"]["template"]["metadata"]["labels"].items() for each in workloads()]
    services = [each["spec"]["selector"] for each in of_kind("Service")]
    budgets = [each["spec"]["selector"]["matchLabels"] for each in of_kind("PodDisruptionBudget")]
    policies = [each["spec"]["podSelector"]["matchLabels"] for each in of_kind("NetworkPolicy")]
    deployed = [each["spec"]["selector"]["matchLabels"] for each in workloads()]
    for labels in [*services, *budgets, *policies, *deployed]:
        assert sum(labels.items() <= pod for pod in pods) == 1


def test_the_autoscaler_asks_for_a_metric_of_the_server() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in MANIFESTS
    assert "replicas" not in DEPLOYMENT["spec"]
    (pods,) = (each["pods"] for each in scaler["spec"]["metrics"])
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
    assert rule["name"]["as"] == pods["metric"]["name"]
    counted = {each.name: each for each in metrics.metrics(Totals())}
    series = rule["seriesQuery"].partition("{")[0]
    assert series in counted
    assert rule["metricsQuery"].startswith(f'sum({series}{{state="attached",')
    assert int(pods["target"]["averageValue"]) < int(ENVIRONMENT["GATESTREAM_SESSIONS"])
