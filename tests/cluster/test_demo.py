"""The demo on a cluster, typed word by word as docs/kubernetes.md tells: from an empty cluster to an empty cluster.

Only the download is exchanged, and the two ports of this machine, which may be taken.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.conftest import Cluster
from fakes.hosts import named_machine
from fakes.journey import DOWNLOAD, FETCHED, Person, follow, unpack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubernetes.md"
NAME = "grpc.tf-serving.service.com"
SUMMARY = re.compile(r"summary: cnum 1, batch 1, e2e time\(s\) [\d.e-]+, average latency\(ms\) [\d.e-]+, tps: [\d.e-]+")
SECTIONS = ("1.", "2.", "3.", "4.", "5.", "6.", "7.")


@dataclass
class Done:
    """What was printed in each section, and what was on the cluster before."""

    person: Person
    before: set[str]
    port: int = 8500
    printed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def everything(cluster: Cluster) -> set[str]:
    """The objects of a cluster that people make, by name."""
    kinds = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,certificatesigningrequests"
    spread = (
        "deployments,services,pods,secrets,configmaps,serviceaccounts,pvc,roles,rolebindings,networkpolicies,pdb,hpa"
    )
    names = cluster.kubectl("get", kinds, "-o", "name").split()
    rows = cluster.kubectl(
        "get",
        spread,
        "-A",
        "-o",
        r"jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{'\n'}{end}",
    ).split()
    return {*(one for one in names if "system:" not in one), *rows}


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(person: Person) -> None:
    """Wait until the forwarded port leads somewhere; a person who types is slower."""
    limit = time.monotonic() + 60
    while person.try_to("tacit status $MARBLERUN").returncode and time.monotonic() < limit:
        time.sleep(1)


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Sections 1 to 7."""
    with (
        named_machine({NAME: "127.0.0.1"}) as machine,
        Person(machine, tmp_path_factory.mktemp("kubernetes")) as person,
    ):
        person.env |= {"KUBECONFIG": str(cluster.kubeconfig), "IMAGES": str(cluster.images)}
        done = Done(person, everything(cluster))
        unpack(person)
        shutil.copytree(ROOT / "deploy" / "charts" / "tacit-serve", person.folder / "kubernetes")
        done.port = free_port()
        coordinator = free_port()
        instead = [
            (DOWNLOAD, FETCHED),
            ("4433:4433", f"{coordinator}:4433"),
            ("localhost:4433", f"localhost:{coordinator}"),
            ("8500:8500", f"{done.port}:8500"),
            (f"{NAME}:8500", f"{NAME}:{done.port}"),
        ]
        try:
            for section in SECTIONS:
                started = time.monotonic()
                done.printed[section] = follow(person, section, page=PAGE, instead=instead, seconds=300)
                done.seconds[section] = time.monotonic() - started
        except BaseException:
            print(*(program.said for program in person.programs), sep="\n")
            cluster.tell("tensorflow", "marblerun")
            cluster.forget("tensorflow", "marblerun")
            raise
        try:
            yield done
        finally:
            # Where a section failed, nothing of it is left for the tests after it.
            cluster.forget("tensorflow", "marblerun")
            print("seconds: " + ", ".join(f"{name} {took:.1f}" for name, took in done.seconds.items()))


def test_install_shows_what_becomes_ready_and_what_to_do_next(demo: Done) -> None:
    assert "Next:" in demo.printed["1."]
    assert "SIMULATED" in demo.printed["1."]


def test_the_manifest_is_set_by_way_of_the_forwarded_service(demo: Done) -> None:
    assert "Manifest successfully set" in demo.printed["4."]
    assert "Secret successfully set" in demo.printed["4."]


def test_the_same_coordinator_is_reached_through_the_cluster_itself(demo: Done) -> None:
    images = demo.person.env["IMAGES"]
    demo.person.types(f"tacit --kube trust --tee simulated --package {images}/tacit-coordinator.package.json")
    assert demo.person.types("tacit --kube status").startswith("3: ")


def test_the_server_is_attested_and_opens_its_model_in_memory(demo: Done) -> None:
    log = demo.person.types("kubectl -n tensorflow logs deployment/tf-server")
    assert "activated as tf-server, SIMULATED" in log
    assert log.index('"model-available"') < log.index('"ready"')


def test_predictions_come_over_tls_with_the_originals_lines(demo: Done) -> None:
    assert SUMMARY.search(demo.printed["7."])
    assert "query: secure channel" in demo.printed["7."]


def test_the_log_names_the_pod_that_got_the_key(demo: Done) -> None:
    pods = json.loads(demo.person.types("kubectl -n tensorflow get pods -l marblerun/marbletype -o json"))["items"]
    log = demo.person.types("tacit log $MARBLERUN --cert owner.crt --key owner.key")
    released = [line for line in log.splitlines() if "marble activated" in line]
    assert any(pods[0]["metadata"]["uid"] in line for line in released), log


def test_marbleruns_client_of_the_demo_is_not_needed_and_works(demo: Done) -> None:
    client = ROOT / "tests" / "fakes" / "journey_original_client.py"
    said = demo.person.types(
        f"python {client} --url {NAME}:{demo.port} --crt tensorflow.crt --batch 1 --cnum 1 --loop 2"
    )
    assert said.count("query: secure channel") == 2


def test_afterwards_nothing_is_left_behind(demo: Done, cluster: Cluster) -> None:
    started = time.monotonic()
    printed = follow(demo.person, "8.", page=PAGE, seconds=300)
    demo.seconds["8."] = time.monotonic() - started
    left = {one for one in everything(cluster) - demo.before if "/kube-system/" not in one}
    # `marblerun uninstall` leaves the namespace, as the original does; its own two objects are the cluster's.
    own = {"namespace/marblerun", "ServiceAccount/marblerun/default", "ConfigMap/marblerun/kube-root-ca.crt"}
    assert left - own == set(), printed
    assert "left" in printed
