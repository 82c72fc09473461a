"""Every chart, with each of the values that lie in `values` beside this file, is what Kubernetes takes and what we promise.

Helm renders it. The last tests ask a real API server, which would take it and changes nothing; others install it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes.objects import defects, of_kind, pods

pytestmark = pytest.mark.cluster

CHARTS = Path(__file__).parents[2] / "deploy" / "charts"
VALUES = Path(__file__).parent / "values"
# Release and namespace, as the demo has them.
NAMES = {"tacit": ("marblerun", "marblerun"), "tacit-serve": ("tensorflow-demo", "tensorflow")}
ALL = [
    pytest.param(chart.parent, values, id=f"{chart.parent.name}-{values.stem}")
    for chart in sorted(CHARTS.glob("*/Chart.yaml"))
    for values in sorted((VALUES / chart.parent.name).glob("*.yaml"))
]


def rendered(chart: Path, *words: str) -> list[dict[str, Any]]:
    helm = shutil.which("helm")
    assert helm is not None, "helm is not in PATH; scripts/cluster.sh builds it"
    release, namespace = NAMES[chart.name]
    # A namespace among the words counts, as helm takes the last.
    command = [helm, "template", release, str(chart), "--namespace", namespace, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.parametrize("version", ["1.29", "1.35", "1.37"])
@pytest.mark.parametrize(("chart", "values"), ALL)
def test_a_chart_is_valid_and_keeps_every_rule(chart: Path, values: Path, version: str) -> None:
    found = rendered(chart, "--values", str(values))
    assert len(found) > 3
    assert defects(found, version=version) == []


@pytest.mark.parametrize(("chart", "values"), ALL)
def test_every_object_is_in_the_namespace_of_the_release(chart: Path, values: Path) -> None:
    whole = {"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}
    for one in rendered(chart, "--values", str(values)):
        if one["kind"] not in whole:
            assert one["metadata"].get("namespace") in (None, NAMES[chart.name][1]), one["metadata"]["name"]


@pytest.mark.parametrize(("chart", "values"), ALL)
def test_a_chart_renders_the_same_twice(chart: Path, values: Path) -> None:
    assert rendered(chart, "--values", str(values)) == rendered(chart, "--values", str(values))


def test_each_kind_that_the_test_cluster_cannot_enforce_is_among_the_objects() -> None:
    found = {
        (one["kind"], one["spec"].get("type") if one["kind"] == "Service" else None)
        for chart, values in (one.values for one in ALL)
        for one in rendered(chart, "--values", str(values))
        if "spec" in one
    }
    needed = {("NetworkPolicy", None), ("PodDisruptionBudget", None), ("HorizontalPodAutoscaler", None)}
    assert needed | {("Service", "LoadBalancer")} <= found


@pytest.mark.parametrize(("chart", "values"), ALL)
def test_a_pod_is_told_apart_by_its_simulation(chart: Path, values: Path) -> None:
    """Only what asks for a simulated or unattested TEE gets one, and it asks its node for no real one."""
    asked = yaml.safe_load(values.read_text()) or {}
    pretends = any(asked.get(word) for word in ("simulation", "unattested")) or asked.get("coordinator", {}).get(
        "simulation"
    )
    objects = rendered(chart, "--values", str(values))
    for _, _, spec in pods(list(of_kind(objects, "Deployment"))):
        for container in spec["containers"]:
            named = {one["name"] for one in container.get("env", [])}
            weak = named & {"TACIT_PLATFORM", "TACIT_SIMULATE", "TACIT_UNATTESTED", "OE_SIMULATION"}
            assert pretends or not weak, f"{container['name']} goes without a TEE: {weak}"
            if pretends:
                assert not [one for one in container.get("resources", {}).get("limits", {}) if "sgx" in one]


def environment(objects: list[dict[str, Any]], container: str) -> dict[str, Any]:
    for _, _, spec in pods(list(of_kind(objects, "Deployment"))):
        for one in spec["containers"]:
            if one["name"] == container:
                return {entry["name"]: entry.get("value") for entry in one["env"]}
    raise AssertionError(f"no container {container}")


def egress(objects: list[dict[str, Any]], policy: str) -> list[Any]:
    """TCP ports that a pod may speak to, the cluster's names aside."""
    (found,) = (one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"] == policy)
    ports = [port for rule in found["spec"]["egress"] for port in rule["ports"]]
    return [port["port"] for port in ports if port["port"] != 53]


AZURE = "https://global.acccache.azure.net/sgx/certification/v4/"
COLLATERAL = [
    ([], {"TACIT_PCCS": AZURE, "TACIT_KDS": "amd"}, [443]),
    (["dcap.pccsUrl=null"], {"TACIT_KDS": "amd"}, [443]),
    (["dcap.pccsUrl="], {"TACIT_KDS": "amd"}, [443]),
    (["dcap.kdsUrl=null"], {"TACIT_PCCS": AZURE}, [443]),
    (["dcap.pccsUrl=null", "dcap.kdsUrl=null"], {}, []),
    (["dcap=null"], {}, []),
    (
        ["dcap.pccsUrl=http://pccs.local", "dcap.kdsUrl=https://kds.local:8443/vcek/v1"],
        {"TACIT_PCCS": "http://pccs.local", "TACIT_KDS": "https://kds.local:8443/vcek/v1"},
        [80, 8443],
    ),
    (
        ["dcap.pccsUrl=https://[fd00::1]/a:9/", "dcap.kdsUrl=http://[fd00::1]:8081/"],
        {"TACIT_PCCS": "https://[fd00::1]/a:9/", "TACIT_KDS": "http://[fd00::1]:8081/"},
        [443, 8081],
    ),
    (["simulation=true"], {}, []),
]


@pytest.mark.parametrize(("settings", "places", "ports"), COLLATERAL)
def test_a_coordinator_is_told_where_collateral_is_and_reaches_it(
    settings: list[str], places: dict[str, str], ports: list[int]
) -> None:
    found = rendered(CHARTS / "tacit", *(word for one in settings for word in ("--set", one)))
    told = environment(found, "coordinator")
    assert {name: told[name] for name in ("TACIT_PCCS", "TACIT_KDS") if name in told} == places
    assert egress(found, "marblerun-coordinator") == ports
    # What it fetched lies on the volume of its state.
    assert told.get("TACIT_COLLATERAL_CACHE") == ("/coordinator/data/collateral" if places else None)


@pytest.mark.parametrize(
    ("settings", "places", "ports"),
    [
        ([], {}, [2001, 4433]),
        (["coordinator.kds=amd"], {"TACIT_KDS": "amd"}, [2001, 4433, 443]),
        (
            ["coordinator.pccs=http://pccs.local", "coordinator.kds=http://kds.local:8081"],
            {"TACIT_PCCS": "http://pccs.local", "TACIT_KDS": "http://kds.local:8081"},
            [2001, 4433, 80, 8081],
        ),
        (["coordinator.pccs=null", "coordinator.kds=null"], {}, [2001, 4433]),
        (["coordinator.address=host:3001", "coordinator.api=host:5433"], {}, [3001, 5433]),
        (["coordinator.address=[fd00::1]:3001", "coordinator.api=[fd00::1]"], {}, [3001, 4433]),
        (["coordinator.address=fd00::3001", "coordinator.api=null"], {}, [2001, 4433]),
    ],
)
def test_a_server_reaches_its_coordinator_and_the_collateral(
    settings: list[str], places: dict[str, str], ports: list[int]
) -> None:
    found = rendered(CHARTS / "tacit-serve", *(word for one in settings for word in ("--set", one)))
    told = environment(found, "server")
    assert {name: told[name] for name in ("TACIT_PCCS", "TACIT_KDS") if name in told} == places
    assert egress(found, "tf-server") == ports


# ---- what the API server says: its own validation, and its admission of "restricted" pods


def kubectl(*words: str, objects: list[dict[str, Any]] | None = None) -> "subprocess.CompletedProcess[str]":
    given = None if objects is None else json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    return subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def restricted() -> Iterator[str]:
    """A namespace in which no other pod is let in."""
    name = f"restricted-{os.getpid()}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    done = kubectl("apply", "-f", "-", objects=[space])
    assert done.returncode == 0, done.stderr
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def as_pod(where: str, labels: Any, spec: Any) -> dict[str, Any]:
    """A pod as its Deployment would make it; with the account that every namespace has."""
    named = {"name": where.lower().replace("/", "-"), "labels": {"app": labels.get("app.kubernetes.io/name", "x")}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": {**spec, "serviceAccountName": "default"}}


def test_the_api_server_refuses_a_pod_that_is_not_restricted(restricted: str) -> None:
    pod = as_pod("Pod/bad", {}, {"containers": [{"name": "c", "image": "localhost/x:1"}]})
    done = kubectl("apply", "--namespace", restricted, "--dry-run=server", "-f", "-", objects=[pod])
    assert "violates PodSecurity" in done.stderr


@pytest.mark.parametrize(("chart", "values"), ALL)
def test_the_api_server_takes_every_object(chart: Path, values: Path, restricted: str) -> None:
    found = rendered(chart, "--values", str(values), "--namespace", restricted)
    made = [as_pod(where, labels, spec) for where, labels, spec in pods(found)]
    sent = [one for one in found if one["kind"] != "Pod"] + made
    words = ("apply", "--namespace", restricted, "--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl(*words, objects=sent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("server dry run") == len(sent)
