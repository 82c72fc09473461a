"""Every chart, with each of the values that lie in `values` beside this file, is what Kubernetes takes and what we promise.

Helm renders it and nothing is sent anywhere; the tests on a cluster install it.
"""

import shutil
import subprocess
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
