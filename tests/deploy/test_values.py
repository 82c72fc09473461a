"""Values of the charts as people write them: names that YAML takes for something else, what MarbleRun's chart has, mistakes."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fakes.objects import defects, of_kind, pods

pytestmark = pytest.mark.cluster

CHARTS = Path(__file__).parents[2] / "deploy" / "charts"


def run_helm(chart: str, *words: str, release: str = "r", namespace: str = "n") -> "subprocess.CompletedProcess[str]":
    helm = shutil.which("helm")
    assert helm is not None, "helm is not in PATH; scripts/cluster.sh builds it"
    command = [helm, "template", release, str(CHARTS / chart), "--namespace", namespace, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(chart: str, *words: str, release: str = "r", namespace: str = "n") -> list[dict[str, Any]]:
    done = run_helm(chart, *words, release=release, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def values(**given: Any) -> list[str]:
    return [word for name, value in given.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]


def given(folder: Path, text: str) -> list[str]:
    """As a file of values: there each number is a fraction to helm."""
    (folder / "values.yaml").write_text(text)
    return ["--values", str(folder / "values.yaml")]


def container(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (one for _, _, spec in pods(objects) for one in spec["containers"] if one["name"] == name)
    return {**found, "env": {one["name"]: one.get("value") for one in found["env"]}}


def images(objects: list[dict[str, Any]]) -> list[str]:
    return [one["image"] for _, _, spec in pods(objects) for one in spec["containers"]]


# ---- what YAML takes for something else


@pytest.mark.parametrize("word", ["123", "1e3", "on", "null", "true"])
@pytest.mark.parametrize("chart", ["tacit", "tacit-serve"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(chart: str, word: str) -> None:
    found = rendered(chart, *values(simulation=True), release=word, namespace=word)
    assert defects(found) == []
    assert {one["metadata"].get("namespace", word) for one in found} == {word}


def test_a_servers_names_stay_names() -> None:
    named = values(
        name="on",
        marble={"type": "123"},
        storage={"claim": "456", "className": "1e3"},
        priorityClassName="789",
        imagePullSecrets=["12", {"name": "34"}],
    )
    found = rendered("tacit-serve", *named, *values(**{"autoscaling.enabled": True}))
    assert defects(found) == []
    assert {one["metadata"]["name"] for one in of_kind(found, "Deployment", "Service", "ServiceAccount")} == {"on"}


def test_a_coordinators_names_stay_names() -> None:
    named = values(platformSecret="12", simulation=True, imagePullSecrets=["12", {"name": "34"}])
    found = rendered("tacit", *named, *values(**{"coordinator.storageClass": "1e3"}))
    assert defects(found) == []
    for _, _, spec in pods(found):
        assert spec["imagePullSecrets"] == [{"name": "12"}, {"name": "34"}]


@pytest.mark.parametrize("chart", ["tacit", "tacit-serve"])
def test_a_tag_of_digits_is_written_as_it_was(chart: str, tmp_path: Path) -> None:
    for words in (given(tmp_path, "image: {tag: 20261126}\n"), ["--set", "image.tag=20261126"]):
        assert {image.rpartition(":")[2] for image in images(rendered(chart, *words))} == {"20261126"}


def test_a_long_time_is_written_in_seconds(tmp_path: Path) -> None:
    found = rendered("tacit-serve", *given(tmp_path, "marble: {activationTimeout: 2000000}\n"))
    assert container(found, "server")["env"]["TACIT_ACTIVATION_TIMEOUT"] == "2000000"


# ---- what MarbleRun's chart has

QCNL = """{
  // where it asks
  "pccs_url": "https://pccs.example.org:8081/sgx/certification/v4/",
  // and how
  "use_secure_cert": false
}
"""


def test_what_marbleruns_chart_has_and_needs_nothing_here_is_taken() -> None:
    theirs = values(
        coordinator={
            **{"replicas": 1, "pullPolicy": "Always", "distributedDeployment": False, "storeBackend": "k8s-secret"},
            **{"stateSecretName": "s", "kekConfigMap": "k", "keyAPIName": "a"},
            **{"azureCredentials": {"clientID": "", "enableWorkloadIdentity": False}, "azureHSM": {"keyName": ""}},
        },
        marbleInjector={"start": True, "replicas": 1, "pullPolicy": "Never", "useCertManager": False, "CABundle": ""},
        **{"global": {"podAnnotations": {}, "podLabels": {"a": "b"}, "createdBy": "Helm"}},
    )
    found = rendered("tacit", *theirs)
    assert defects(found) == []
    policies = {one["name"]: one["imagePullPolicy"] for _, _, spec in pods(found) for one in spec["containers"]}
    assert policies == {"coordinator": "Always", "marble-injector": "Never"}


def test_the_schema_takes_values_without_the_defaults() -> None:
    """MarbleRun's command line holds the schema against what it gives, and nothing else."""
    schema = json.loads((CHARTS / "tacit" / "values.schema.json").read_text())
    jsonschema.validate(
        {"coordinator": {"hostname": "a.example.org", "resources": {"limits": None}}, "dcap": None}, schema
    )


def test_the_address_in_a_configuration_of_intels_library_counts(tmp_path: Path) -> None:
    """`marblerun install --dcap-qcnl-config-file` sets it, and nothing beside it."""
    (tmp_path / "qcnl").write_text(QCNL)
    found = rendered("tacit", "--set-file", f"dcap.qcnlConfig={tmp_path / 'qcnl'}", *values(**{"dcap.kdsUrl": ""}))
    told = container(found, "coordinator")["env"]
    assert told["TACIT_PCCS"] == "https://pccs.example.org:8081/sgx/certification/v4/"
    (policy,) = (one for one in of_kind(found, "NetworkPolicy") if one["metadata"]["name"] == "marblerun-coordinator")
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [53, 53, 8081]


@pytest.mark.parametrize("selector", [None, {}, {"matchExpressions": [], "matchLabels": {"app": "x"}}])
def test_whatever_the_webhook_selects_the_injector_itself_is_not(selector: Any) -> None:
    """Where none runs, the first one has to be able to start."""
    found = rendered("tacit", *values(**{"marbleInjector.objectSelector": selector}))
    (configuration,) = of_kind(found, "MutatingWebhookConfiguration")
    others = configuration["webhooks"][0]["objectSelector"]["matchExpressions"][-1]
    assert others["operator"] == "DoesNotExist"
    (injector,) = (one for one in of_kind(found, "Deployment") if one["metadata"]["name"] == "marble-injector")
    assert others["key"] in injector["spec"]["template"]["metadata"]["labels"]


def test_a_probe_can_be_left_out() -> None:
    found = container(rendered("tacit", *values(**{"coordinator.probes.startup": None})), "coordinator")
    assert {name for name in found if name.endswith("Probe")} == {"readinessProbe", "livenessProbe"}


# ---- mistakes


@pytest.mark.parametrize(
    ("chart", "mistake", "said"),
    [
        ("tacit", {"image": None}, "image is null"),
        ("tacit", {"coordinator.metrics": None}, "coordinator.metrics is null"),
        ("tacit", {"global": None}, "global is null"),
        ("tacit", {"image": {"tag": 1.10}}, "at '/image/tag': got number"),
        ("tacit", {"coordinator.replicas": 2}, "at '/coordinator/replicas': value must be 1"),
        ("tacit", {"coordinator.hash": "sha256:00"}, "take repository, version and hash out"),
        ("tacit", {"marbleInjector.repository": "ghcr.io/x"}, "image.tag and marbleInjector.image"),
        ("tacit", {"coordinator.azureHSM": {"keyName": "k"}}, "coordinator.azureHSM.keyName: sealing"),
        ("tacit", {"coordinator.meshServerPort": 4433}, "have to differ, and are 4433, 4433"),
        ("tacit", {"coordinator.metrics": {"enabled": True, "port": 2001}}, "are 4433, 2001, 2001"),
        ("tacit", {"coordinator.extraEnv": [{"name": "A", "value": 1}]}, "at '/coordinator/extraEnv/0/value'"),
        ("tacit", {"coordinator.podAnnotations": {"a": 1}}, "at '/coordinator/podAnnotations/a'"),
        ("tacit", {"global": {"podLabels": {"a": 1}}}, "at '/global/podLabels/a'"),
        ("tacit", {"coordinator.hostname": "a b"}, "at '/coordinator/hostname'"),
        ("tacit", {"coordinator.hostname": "https://a.example.org"}, "at '/coordinator/hostname'"),
        ("tacit", {"dcap.pccsUrl": "pccs.example.org"}, "at '/dcap/pccsUrl'"),
        ("tacit", {"dcap.kdsUrl": "intel"}, "at '/dcap/kdsUrl'"),
        ("tacit", {"dcap.qcnlConfig": "PCCS_URL=https://x"}, "say the address in dcap.pccsUrl instead"),
        ("tacit", {"dcap.qcnlConfig": '{"pccs_url": 3}'}, "say the address in dcap.pccsUrl instead"),
        ("tacit-serve", {"image": None}, "missing property 'image'"),
        ("tacit-serve", {"marble": None}, "missing property 'marble'"),
        ("tacit-serve", {"podLabels": {"a": 1}}, "at '/podLabels/a'"),
        ("tacit-serve", {"env": [{"name": "A", "value": 1}]}, "at '/env/0/value'"),
        ("tacit-serve", {"coordinator.pccs": "pccs.example.org"}, "at '/coordinator/pccs'"),
        ("tacit-serve", {"service": {"grpcPort": 8501}}, "grpcPort and restPort have to differ"),
    ],
)
def test_a_mistake_is_named_with_its_place(chart: str, mistake: dict[str, Any], said: str) -> None:
    done = run_helm(chart, *values(**mistake))
    assert done.returncode
    assert said in done.stderr
    assert not re.search(r"nil pointer|wrong type|YAML parse", done.stderr)
