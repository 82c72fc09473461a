"""A coordinator and its servers on a cluster, brought there by the programs as a user types them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.conftest import Cluster
from fakes.hosts import ThisMachine
from fakes.journey import RESNET50, Person, make_model, unpack

ROOT = Path(__file__).parents[2]
NAME = "grpc.tf-serving.service.com"
SERVERS = "tensorflow"


class Stage:
    """What a person at this machine did to a cluster, and can do to it."""

    def __init__(self, cluster: Cluster, person: Person) -> None:
        self.cluster = cluster
        self.person = person

    @property
    def roots(self) -> bytes:
        """What servers are known by: the coordinator's intermediate certificate."""
        self.person.types("tacit --kube certificate intermediate -o tensorflow.crt")
        return (self.person.folder / "tensorflow.crt").read_bytes()

    def get(self, *words: str) -> Any:
        """Objects, by `kubectl get`."""
        return json.loads(self.cluster.kubectl("get", *words, "-o", "json"))

    def address(self) -> str:
        """The servers' Service, as this machine reaches it."""
        spec = self.get("-n", SERVERS, "service", "tf-server")["spec"]
        return f"{spec['clusterIP']}:8500"

    def pods(self, *, namespace: str = SERVERS, labels: str = "marblerun/marbletype") -> list[dict[str, Any]]:
        """Pods that are not about to end."""
        items = self.get("-n", namespace, "pods", "-l", labels)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def coordinator(self) -> dict[str, Any] | None:
        """The coordinator's pod, once it runs on a node that answers."""
        pods = self.pods(namespace="marblerun", labels="app.kubernetes.io/name=coordinator")
        return next((pod for pod in pods if is_ready(pod)), None)

    def close(self) -> None:
        """Take all of it away again."""
        self.person.try_to(f"helm uninstall tensorflow-demo -n {SERVERS} --wait --timeout 60s", seconds=90)
        self.person.try_to("tacit uninstall", seconds=120)
        self.cluster.forget(SERVERS, "marblerun")


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod counts as ready, and is not about to end."""
    conditions = pod.get("status", {}).get("conditions", ())
    leaving = "deletionTimestamp" in pod["metadata"]
    return not leaving and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@contextmanager
def staged(cluster: Cluster, folder: Path, *, replicas: int) -> Iterator[Stage]:
    """A coordinator with a recovery key, and servers on both nodes; all of it ends with the block."""
    with Person(ThisMachine(), folder) as person:
        person.env |= {"KUBECONFIG": str(cluster.kubeconfig), "IMAGES": str(cluster.images)}
        stage = Stage(cluster, person)
        try:
            _fill(stage, replicas)
            yield stage
        finally:
            stage.close()


def _fill(stage: Stage, replicas: int) -> None:
    person = stage.person
    unpack(person)
    make_model(person)
    person.types("tacit model encrypt -k model_key -m models/resnet50-v15-fp32/1 --name resnet50 --model-version 1")
    person.types("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=owner -keyout owner.key -out owner.crt")
    person.types("openssl genrsa -out recovery.key 3072 && openssl rsa -in recovery.key -pubout -out recovery.pub")
    _write_manifest(stage)
    person.types(f"tacit install --domain {NAME} --simulation", seconds=300)
    person.types("tacit --kube trust --tee simulated --package $IMAGES/tacit-coordinator.package.json")
    person.types("tacit --kube manifest set manifest.json --recoverydata recovery.json")
    key = (person.folder / "model_key").read_text()
    (person.folder / "key.json").write_text(json.dumps({"model_key": {"Key": key}}))
    person.types("tacit --kube secret set key.json --cert owner.crt --key owner.key")
    person.types(f"kubectl create namespace {SERVERS}")
    person.types(f"tacit namespace add {SERVERS}")
    shutil.copytree(ROOT / "deploy" / "charts" / "tacit-serve", person.folder / "chart")
    settings = (
        f"simulation=true,replicas={replicas},service.type=ClusterIP,storage.accessModes={{ReadWriteMany}},"
        "resources.requests.cpu=100m,resources.requests.memory=256Mi"
    )
    person.types(f"helm install tensorflow-demo ./chart -n {SERVERS} --set '{settings}'", seconds=120)
    person.types(f"kubectl -n {SERVERS} wait --for=condition=Ready pod/tf-server --timeout=120s", seconds=150)
    person.types(f"kubectl cp encrypted/resnet50.capsule {SERVERS}/tf-server:/encrypted/resnet50.capsule")
    person.types(f"kubectl -n {SERVERS} rollout status deployment/tf-server --timeout=200s", seconds=240)


def _write_manifest(stage: Stage) -> None:
    folder = stage.person.folder
    manifest = json.loads((RESNET50 / "attested-manifest.json").read_text())
    measured = json.loads((stage.cluster.images / "tacit-serve.package.json").read_text())
    manifest["Packages"]["tf-server"]["UniqueID"] = measured["UniqueID"]
    inspected = stage.person.types("tacit model inspect encrypted/resnet50.capsule")
    manifest["Models"]["resnet50"]["ID"] = next(
        line.split()[1] for line in inspected.splitlines() if line.startswith("ID")
    )
    manifest["Users"]["owner"]["Certificate"] = (folder / "owner.crt").read_text()
    manifest["RecoveryKeys"] = {"owner": (folder / "recovery.pub").read_text()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def enter_by(stage: Stage, node: str) -> None:
    """Let this machine's requests to Services come in by a node, as whoever balances load sends them to one that is up."""
    addresses = stage.get("node", node)["status"]["addresses"]
    way = next(one["address"] for one in addresses if one["type"] == "InternalIP")
    service = stage.address().partition(":")[0]
    routes = subprocess.run(["ip", "-o", "route", "show", "match", service], capture_output=True, text=True, check=True)
    network = next(line.split()[0] for line in routes.stdout.splitlines() if not line.startswith("default"))
    subprocess.run(["ip", "route", "replace", network, "via", way], check=True)


def node_tool(*words: str) -> None:
    """Cut a node's power, or give it back. Raises: AssertionError."""
    command = [str(ROOT / "scripts" / "kube-testbed"), words[0], "--dir", os.environ["KUBE_TESTBED_DIR"], *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
