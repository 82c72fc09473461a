"""The chart tacit-serve: what it makes of its values, and a model that is served from it on a real cluster."""

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fakes import models
from fakes.containers import OUT, package_of
from fakes.kubernetes import TAG, Place, found, kubectl, place, until
from fakes.stage import KEY, PROGRAMS
from tacit.client.address import Address
from tacit.client.channel import through
from tacit.client.inference import ServingClient
from tacit.pki import issue_self_signed
from tacit.vault import seal_folder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "charts" / "tacit-serve"
TEMPLATE = (str(CHART), "--kube-version", "v1.35.0")
NAME = "grpc.tf-serving.service.com"
VALUES: dict[str, Sequence[str]] = {
    "as it is": [],
    "simulated, without an injector": ["simulation=true", "marble.injector=false"],
    "the original's": ["imagePullSecrets[0].name=regcred", "imagePullPolicy=Always", "decryptModel=true", "unattested=true"],
    "a coordinator by its certificate": ["coordinator.certificate=abc", "service.type=ClusterIP"],
    "a coordinator by its package": ["coordinator.package=\\{\\}", "coordinator.pccs=https://pccs.example.org"],
    "many": ["replicas=3", "storage.accessModes[0]=ReadWriteMany", "storage.className=fast", "podDisruptionBudget.enabled=false"],
    "by the queue": ["autoscaling.enabled=true", "autoscaling.maxReplicas=9"],
    "alone": ["storage.pod.enabled=false", "storage.existing=true", "storage.claim=mine", "networkPolicy.enabled=false"],
    "without REST": ["probes.kind=tcp", "marble.dnsNames="],
    "somewhere": ["image.registry=registry.example.org/tacit", "image.tag=9", "nodeSelector.tee=sgx", "priorityClassName=high"],
}  # fmt: skip


def helm(*words: str, program: str = "helm", check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{program} {' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def settings(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def rendered(*values: str, program: str = "helm") -> list[dict[str, Any]]:
    text = helm("template", "x", *TEMPLATE, "--namespace", "tf", *settings(values), program=program).stdout
    return [one for one in yaml.safe_load_all(text) if one]


def one_of(objects: list[dict[str, Any]], kind: str, name: str = "tf-server") -> dict[str, Any]:
    return next(one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)


# ---- what the values make


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_helm_4_and_3_accept_the_chart_whatever_the_values(program: str, values: str) -> None:
    if shutil.which(program) is None:
        assert program == "helm3", "helm is what tests on a cluster need"
        pytest.fail("there is no helm3 beside helm here; `make cluster` builds both")
    helm("lint", "--strict", *TEMPLATE, *settings(VALUES[values]), program=program)
    assert len(rendered(*VALUES[values], program=program)) >= 3


@pytest.mark.parametrize(
    "value", ["replica=2", "probes.kind=grpc", "service.type=None", "replicas=many", "shutdown.wait=-1"]
)
def test_a_value_that_means_nothing_is_refused_by_its_name(value: str) -> None:
    done = helm("template", "x", *TEMPLATE, "--set", value, check=False)
    assert done.returncode
    assert value.partition("=")[0].rpartition(".")[2] in done.stderr


@pytest.fixture(scope="module")
def restricted() -> Iterator[str]:
    """A namespace that refuses what the strictest pod security standard forbids."""
    name = f"tacit-restricted-{time.monotonic_ns()}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    # A trial run makes nothing, and a pod is not admitted before its account is there.
    kubectl("create", "serviceaccount", "tf-server", "-n", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("values", VALUES)
def test_the_cluster_takes_every_object_under_the_strictest_rules(restricted: str, values: str) -> None:
    """Validated by the API server itself: schemas, and pod security, which warns of a Deployment's pods."""
    text = helm("template", "x", *TEMPLATE, "--namespace", restricted, *settings(VALUES[values])).stdout
    command = ["kubectl", "apply", "--dry-run=server", "--validate=strict", "-n", restricted, "-f", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "would violate PodSecurity" not in done.stderr


def test_the_server_has_what_the_original_demo_gives_it_and_no_more() -> None:
    objects = rendered()
    pod = one_of(objects, "Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"]["marblerun/marbletype"] == "tf-server"
    assert pod["spec"]["automountServiceAccountToken"] is False
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    service = one_of(objects, "Service")["spec"]
    assert service["type"] == "LoadBalancer"
    assert [port["port"] for port in service["ports"]] == [8500, 8501]
    assert one_of(objects, "PersistentVolumeClaim", "encrypted-model")["spec"]["resources"]["requests"] == {
        "storage": "110Mi"
    }
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts["/encrypted"]["readOnly"] is True
    storage = one_of(objects, "Pod")
    assert "marblerun/marbletype" not in storage["metadata"]["labels"]
    selector = one_of(objects, "Service")["spec"]["selector"]
    assert not selector.items() <= storage["metadata"]["labels"].items(), "no request goes to the pod with the volume"


def test_an_update_keeps_every_server_until_the_next_is_ready() -> None:
    deployment = one_of(rendered(), "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = deployment["template"]["spec"]
    wait = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > wait + 30


def test_the_queue_scales_only_when_asked() -> None:
    assert not [one for one in rendered() if one["kind"] == "HorizontalPodAutoscaler"]
    objects = rendered(*VALUES["by the queue"])
    scaler = one_of(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "tacit_queue_seconds_average"
    assert "replicas" not in one_of(objects, "Deployment")["spec"], "an upgrade would undo what was scaled"


# ---- KServe


@pytest.fixture(scope="module")
def kserve_types() -> Iterator[None]:
    """KServe's own definitions, as its module publishes them."""
    if shutil.which("go") is None:
        pytest.fail("KServe's definitions come from the Go module proxy, and there is no go")
    command = ["go", "mod", "download", "-json", "github.com/kserve/kserve@v0.16.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "full"
    files = [folder / f"serving.kserve.io_{kind}.yaml" for kind in ("servingruntimes", "inferenceservices")]
    words = [word for file in files for word in ("-f", str(file))]
    kubectl("apply", "--server-side", "--force-conflicts", *words)
    for kind in ("servingruntimes", "inferenceservices"):
        wait = ("wait", "--for", "condition=Established", f"crd/{kind}.serving.kserve.io", "--timeout", "30s")
        until(lambda wait=wait: kubectl(*wait))
    yield
    kubectl("delete", *words)


def test_kserve_takes_the_runtime_and_a_model_of_it(restricted: str, kserve_types: None) -> None:
    for name in ("servingruntime", "inferenceservice"):
        file = str(DEPLOY / "kserve" / f"{name}.yaml")
        until(lambda file=file: kubectl("apply", "--dry-run=server", "--validate=strict", "-n", restricted, "-f", file))


# ---- served


@dataclass
class Served:
    """A coordinator and a server on the cluster, and the owner's folder."""

    home: Place
    model: Path
    address: str = ""
    roots: bytes = b""
    more: list[str] = field(default_factory=list)

    def helm(self, verb: str, *values: str) -> str:
        fixed = [
            "simulation=true",
            "marble.injector=false",
            "service.type=ClusterIP",
            "storage.accessModes[0]=ReadWriteMany",
        ]
        fixed += [f"coordinator.address=coordinator-mesh-api.{self.home.name}:2001", "resources.requests.cpu=100m"]
        fixed += [f"coordinator.api=coordinator-client-api.{self.home.name}:4433", "resources.requests.memory=256Mi"]
        fixed += [f"image.tag={TAG}"] if TAG else []
        package = f"coordinator.package={OUT / 'tacit-coordinator.package.json'}"
        words = [verb, "tensorflow-demo", str(CHART), "--namespace", self.home.name, "--set-file", package]
        return helm(*words, *settings([*fixed, *values])).stdout

    @contextlib.contextmanager
    def client(self) -> Iterator[ServingClient]:
        """A client of the Service, once that leads to a pod.

        A pod that became ready is not reached at once: while a node changes its rules, a connection that begins there
        is lost and stays so, however often its first packet is sent again. Another one is not.
        """
        assert until(lambda: leads_on(self.address, 8500))
        with through(Address(NAME, 8500), Address(self.address, 8500)):
            client = ServingClient(f"{NAME}:8500", roots_pem=self.roots)
        with client:
            yield client

    def ready(self) -> int:
        return int(found("deployment", "tf-server", "-n", self.home.name)["status"].get("readyReplicas", 0))


def leads_on(host: str, port: int) -> bool:
    """Whether a connection can be made."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def manifest_of(model: str, owner: str) -> dict[str, Any]:
    argv = [
        "tacit-serve",
        "--model_name=m",
        "--model_base_path=encrypted/m.capsule",
        "--port=8500",
        "--rest_api_port=8501",
    ]
    role = {"ResourceType": "Secrets", "ResourceNames": ["model_key"], "Actions": ["WriteSecret"]}
    return {
        "Packages": {"tf-server": package_of("tacit-serve")},
        "Marbles": {
            "tf-server": {
                "Package": "tf-server",
                "AllowedNames": [NAME],
                "Models": ["m"],
                "Parameters": {"Argv": argv},
            }
        },
        "Models": {"m": {"Format": "capsule", "ID": model, "MinVersion": 1, "Key": "model_key"}},
        "Secrets": {"model_key": {"Type": "symmetric-key", "Size": 256, "UserDefined": True}},
        "Users": {"owner": {"Certificate": owner, "Roles": ["owner"]}},
        "Roles": {"owner": role},
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Everything up to a server that waits for its model."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "source").mkdir()
    (folder / "source" / "model.onnx").write_bytes(models.onnx_model())
    info = seal_folder(folder / "source", folder / "m.capsule", KEY, name="m", version=1)
    owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
    (folder / "owner.crt").write_bytes(owner.certificate_pem)
    (folder / "owner.key").write_bytes(owner.key_pem)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(info.id.hex(), owner.certificate_pem.decode())))
    (folder / "key.json").write_text(json.dumps({"model_key": {"Key": base64.b64encode(KEY).decode()}}))
    with place(folder) as home:
        home.tacit("install", "--simulation")
        home.tacit("--kube", "trust", "--tee", "simulated", "--package", str(OUT / "tacit-coordinator.package.json"))
        home.tacit("--kube", "manifest", "set", str(folder / "manifest.json"))
        identity = ["--cert", str(folder / "owner.crt"), "--key", str(folder / "owner.key")]
        home.tacit("--kube", "secret", "set", str(folder / "key.json"), *identity)
        home.tacit("--kube", "certificate", "intermediate", "-o", str(folder / "servers.crt"))
        made = Served(home, folder / "m.capsule", roots=(folder / "servers.crt").read_bytes())
        made.helm("install")
        made.address = found("service", "tf-server", "-n", home.name)["spec"]["clusterIP"]
        assert until(lambda: found("pod", "tf-server", "-n", home.name)["status"]["phase"] == "Running")
        yield made
        helm("uninstall", "tensorflow-demo", "--namespace", home.name, "--wait")
        kinds = "deployments,pods,services,persistentvolumeclaims,networkpolicies,poddisruptionbudgets,serviceaccounts"
        selector = "app.kubernetes.io/instance=tensorflow-demo"
        left = kubectl("get", kinds, "-n", home.name, "-l", selector, "-o", "name")
        assert left == ""


def test_a_server_waits_for_its_model_and_is_ready_once_it_was_copied_and_warmed_up(served: Served) -> None:
    name = served.home.name

    def said() -> str:
        log = kubectl("logs", "-n", name, "deployment/tf-server")
        return log if "listening" in log else ""

    log = until(said, seconds=90)
    assert "activated as tf-server, SIMULATED" in log
    assert "is the pinned one, SIMULATED" in log
    assert served.ready() == 0
    kubectl("cp", str(served.model), f"{name}/tf-server:/encrypted/m.capsule")
    assert until(lambda: served.ready() == 1, seconds=120)
    with served.client() as client:
        answer = client.predict("m", {"x": np.ones((2, 4), np.float32)}).outputs
    assert all(np.isfinite(value).all() for value in answer.values())


def test_a_model_is_pushed_through_the_same_pod(served: Served) -> None:
    file = served.home.folder / "other.capsule"
    source = served.home.folder / "other"
    source.mkdir()
    (source / "model.onnx").write_bytes(np.random.default_rng(1).bytes(5 << 20))  # nobody opens it
    seal_folder(source, file, KEY, name="other", version=1)
    size = file.stat().st_size
    command = [str(PROGRAMS / "tacit"), "model", "push", str(file), "--kube", "-n", served.home.name]
    for word in (f"verified in the pod; {size} bytes\n", f"{size} bytes were there already"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"Pushed {file} to {served.home.name}/tf-server:/encrypted/other.capsule" in done.stdout
        assert word in done.stdout
    in_pod = kubectl("exec", "-n", served.home.name, "tf-server", "--", "sha256sum", "/encrypted/other.capsule")
    assert in_pod.split()[0] == hashlib.sha256(file.read_bytes()).hexdigest()
    kubectl("exec", "-n", served.home.name, "tf-server", "--", "rm", "/encrypted/other.capsule")
