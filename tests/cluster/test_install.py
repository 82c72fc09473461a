"""A coordinator and an injector on a real cluster: installed, used, interrupted, refused, and taken away."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from fakes.kubernetes import TAG, Place, a_pod, found, kubectl, place, until
from tacit import __version__

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CHART = Path(__file__).parents[2] / "deploy" / "charts" / "tacit"
IMAGE = f"localhost/tacit-injector:{TAG or __version__}"
TYPE = "marblerun/marbletype"
OFF = {"marblerun/resource-injection": "disabled"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A namespace of ours in which everything is installed, SIMULATED."""
    with place(tmp_path_factory.mktemp("home")) as made:
        done = made.tacit("install", "--simulation", "--domain", "coordinator.example.org,10.0.0.1")
        assert "Deployment marblerun-coordinator: 1 of 1 ready" in done.out
        assert "Deployment marble-injector: 2 of 2 ready" in done.out
        assert "Next:" in done.out
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Place]:
    """A namespace that is there, with nothing in it."""
    with place(tmp_path, make=True) as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Place]:
    """The name of a namespace that is not there."""
    with place(tmp_path) as made:
        yield made


# ---- what is installed


def test_pods_have_no_more_than_they_need(home: Place) -> None:
    pods = found("pods", "-n", home.name)["items"]
    assert len(pods) == 3
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        mounts = [mount["mountPath"] for one in spec["containers"] for mount in one["volumeMounts"]]
        has_token = any("serviceaccount" in mount for mount in mounts)
        assert has_token == (pod["metadata"]["labels"]["app.kubernetes.io/name"] == "marble-injector")
        for one in spec["containers"]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pods[0]["spec"]["nodeName"]


def test_the_coordinator_is_reached_through_the_cluster_and_attested(home: Place) -> None:
    logs = home.kubectl("logs", "deployment/marblerun-coordinator")
    measured = re.search(r'"measurement":"([0-9a-f]{64})"', logs)
    assert measured
    home.tacit("--kube", "trust", "--tee", "simulated", "--unique-id", measured[1])
    done = home.tacit("--kube", "status")
    assert done.out == "2: Coordinator is ready to accept a manifest.\n"
    assert "SIMULATED" in done.err
    refused = home.tacit("--kube", "status", f"nothing.{home.name}:4433", code=1)
    assert f"there is no service nothing in the namespace {home.name}" in refused.err
    names = home.tacit("--kube", "certificate", "root", "-o", str(home.folder / "root.pem"))
    assert names.code == 0
    root = x509.load_pem_x509_certificate((home.folder / "root.pem").read_bytes())
    held = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "coordinator.example.org" in held.get_values_for_type(x509.DNSName)
    assert f"coordinator-mesh-api.{home.name}.svc.cluster.local" in held.get_values_for_type(x509.DNSName)


def test_check_and_precheck_say_how_it_is(home: Place) -> None:
    assert home.tacit("check").out == "marble-injector pods ready: 2/2\nmarblerun-coordinator pods ready: 1/1\n"
    parts = json.loads(home.tacit("check", "--output", "json").out)
    assert {one["Name"] for one in parts} == {"marble-injector", "marblerun-coordinator", "coordinator-pv-claim"}
    nodes = json.loads(home.tacit("precheck", "--output", "json").out)
    assert {one["Node"] for one in nodes} == {one["metadata"]["name"] for one in found("nodes")["items"]}


def test_a_second_install_changes_nothing_and_keeps_the_webhooks_certificate(home: Place) -> None:
    before = bundle(home)
    done = home.tacit("install", "--simulation", "--domain", "coordinator.example.org,10.0.0.1")
    assert f"Namespace {home.name} is there" in done.out
    assert bundle(home) == before


# ---- the injector


def bundle(home: Place) -> list[x509.Certificate]:
    held = found("mutatingwebhookconfiguration", f"marble-injector-{home.name}")
    text = held["webhooks"][0]["clientConfig"].get("caBundle", "")
    return x509.load_pem_x509_certificates(base64.b64decode(text)) if text else []


def environment(pod: dict[str, Any], at: int = 0) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in pod["spec"]["containers"][at].get("env") or []}


def test_a_marble_gets_what_it_needs_and_a_second_container_keeps_its_mount(home: Place, other: Place) -> None:
    own = {"name": "two", "image": IMAGE, "volumeMounts": [{"name": "mine", "mountPath": "/Frontend-uid"}]}
    containers = [{"name": "one", "image": IMAGE}, own]
    volumes = [{"name": "mine", "emptyDir": {}}]
    labels = {TYPE: "Frontend", **OFF}
    other.apply(a_pod("marble", IMAGE, labels=labels, containers=containers, volumes=volumes))
    pod = found("pod", "marble", "-n", other.name)
    # Another injector on this cluster may have come first; what it set stays.
    assert re.fullmatch(r"coordinator-mesh-api\.[a-z0-9-]+:2001", environment(pod)["EDG_MARBLE_COORDINATOR_ADDR"])
    assert environment(pod)["EDG_MARBLE_TYPE"] == "Frontend"
    assert environment(pod)["EDG_MARBLE_DNS_NAMES"].startswith(f"frontend,frontend.{other.name},")
    assert environment(pod, 1)["EDG_MARBLE_UUID_FILE"] == "/Frontend-uid/uuid-file"
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounted = [mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
    uuid = next(name for name in mounted if name.startswith("uuid-file-"))
    assert volumes[uuid]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"] == "metadata.uid"


def test_an_empty_label_is_refused_and_no_label_is_none_of_its_business(home: Place, other: Place) -> None:
    said = other.apply(a_pod("empty", IMAGE, labels={TYPE: ""}), check=False)
    assert "Empty [marblerun/marbletype] label, request denied" in said
    other.apply(a_pod("free", IMAGE, labels={"app": "free"}))
    assert environment(found("pod", "free", "-n", other.name)) == {}


def test_the_uuid_is_a_file_in_the_running_pod(home: Place, other: Place) -> None:
    look = "import pathlib, os; print(pathlib.Path(os.environ['EDG_MARBLE_UUID_FILE']).read_text())"
    one = {"name": "one", "image": IMAGE, "command": ["/usr/bin/python3.11", "-c", look]}
    other.apply(a_pod("reader", IMAGE, labels={TYPE: "Frontend", **OFF}, containers=[one], restartPolicy="Never"))
    uid = found("pod", "reader", "-n", other.name)["metadata"]["uid"]
    assert until(lambda: other.kubectl("logs", "reader").strip()) == uid


def test_a_certificate_near_its_end_is_renewed_for_every_replica(home: Place) -> None:
    before = bundle(home)
    secret = found("secret", "marble-injector-certificate", "-n", home.name)
    patch = [{"op": "replace", "path": "/data/tls.crt", "value": secret["data"]["tls.crt"][:64]}]
    home.kubectl("patch", "secret", "marble-injector-certificate", "--type", "json", "--patch", json.dumps(patch))
    after = until(lambda: bundle(home) if bundle(home)[0] != before[0] else None, seconds=90)
    held = base64.b64decode(found("secret", "marble-injector-certificate", "-n", home.name)["data"]["tls.crt"])
    assert after[0] == x509.load_pem_x509_certificate(held)

    def both_serve_it() -> bool:
        logs = home.kubectl("logs", "--selector", "app.kubernetes.io/name=marble-injector", "--tail", "-1")
        return logs.count("serving with a new certificate") >= 4

    assert until(both_serve_it, seconds=90)


def test_while_the_injector_is_down_no_other_pod_waits_for_it(home: Place, other: Place) -> None:
    home.kubectl("scale", "deployment/marble-injector", "--replicas", "0")
    try:
        until(lambda: not found("pods", "-n", home.name, "-l", "app.kubernetes.io/name=marble-injector")["items"])
        other.apply(a_pod("free", IMAGE))
        said = other.apply(a_pod("marble", IMAGE, labels={TYPE: "Frontend", **OFF}), check=False)
        assert "marble-injector" in said  # and it is told whom it waits for
    finally:
        home.kubectl("scale", "deployment/marble-injector", "--replicas", "2")
        home.kubectl("rollout", "status", "deployment/marble-injector", "--timeout", "60s")
    until(lambda: other.apply(a_pod("marble", IMAGE, labels={TYPE: "Frontend", **OFF})))


def test_the_injector_may_read_no_other_secret(home: Place) -> None:
    def may(*words: str) -> str:
        user = f"system:serviceaccount:{home.name}:marble-injector"
        asked = ["kubectl", "--namespace", home.name, "auth", "can-i", *words, "--as", user]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    assert may("update", "secret/marble-injector-certificate") == "yes"
    assert may("get", "secret/tacit-platform") == "no"
    assert may("list", "secrets") == "no"
    assert may("patch", f"mutatingwebhookconfiguration/marble-injector-{home.name}") == "yes"
    assert may("patch", "mutatingwebhookconfiguration/another") == "no"


def test_a_namespace_is_added_listed_and_taken_back(home: Place, other: Place) -> None:
    done = home.tacit("namespace", "add", other.name)
    assert "labels" in done.out or "label" in done.out
    assert "tacit-platform" in kubectl("get", "secrets", "-n", other.name)
    assert f"{other.name}: 0 marbles, the simulated platform" in home.tacit("namespace", "list").out
    home.tacit("namespace", "remove", other.name)
    assert "tacit-platform" not in kubectl("get", "secrets", "-n", other.name)
    assert "there is no namespace nowhere-at-all" in home.tacit("namespace", "add", "nowhere-at-all", code=1).err


# ---- bad input, each with a clean second try


def test_nothing_is_left_and_it_says_so(fresh: Place) -> None:
    fresh.tacit("install", "--unattested")
    done = fresh.tacit("uninstall")
    assert "Nothing is left of it" in done.out
    assert f"Namespace {fresh.name} taken away" in done.out
    assert "NotFound" in kubectl("get", "namespace", fresh.name, check=False)
    for kind in ("mutatingwebhookconfigurations", "clusterroles", "clusterrolebindings", "persistentvolumes"):
        assert fresh.name not in kubectl("get", kind, "--output", "json") or kind == "persistentvolumes"
    again = fresh.tacit("uninstall", code=1)
    assert again.err.startswith("Error: nothing is installed in the namespace")


def test_an_image_that_cannot_be_pulled_is_named_and_the_second_try_goes_on(other: Place) -> None:
    done = other.tacit("install", "--unattested", "--set", "coordinator.image=no-such-image", code=1)
    assert done.err.startswith(
        "Error: Deployment marblerun-coordinator is not ready (0 of 1): the image localhost/no-such"
    )
    assert len(done.err.splitlines()) == 1
    assert "Deployment marblerun-coordinator: 1 of 1 ready" in other.tacit("install", "--unattested").out


def test_an_install_that_was_killed_is_taken_up(other: Place) -> None:
    words = [
        "helm",
        "install",
        "marblerun",
        str(CHART),
        "--namespace",
        other.name,
        "--wait",
        "--set",
        "unattested=true",
    ]
    with subprocess.Popen([*words, "--set", "image.tag=no-such-tag"], stderr=subprocess.DEVNULL) as helm:
        until(lambda: "pending-install" in history(other))
        helm.kill()
    assert "pending-install" in history(other)
    done = other.tacit("install", "--unattested")
    assert "An interrupted install is taken up" in done.out
    assert "deployed" in history(other)


def history(place: Place) -> str:
    words = ["helm", "history", "marblerun", "--namespace", place.name]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_a_person_who_interrupts_hears_how_to_go_on(fresh: Place) -> None:
    words = ["--namespace", fresh.name, "install", "--unattested", "--set", "image.tag=no-such-tag"]
    script = "import tacit.programs.tacit as t; t.main()"
    environment = {**os.environ, **fresh.environment}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
    ) as started:
        until(lambda: "marblerun-coordinator" in kubectl("get", "deployments", "-n", fresh.name, check=False))
        time.sleep(1)
        started.send_signal(2)
        _, err = started.communicate(timeout=100)
    assert started.returncode == 130
    assert "run the same command again, and it goes on from there" in err
    assert "Deployment marblerun-coordinator: 1 of 1 ready" in fresh.tacit("install", "--unattested").out


def test_without_sgx_nothing_is_made_and_the_way_out_is_named(fresh: Place) -> None:
    done = fresh.tacit("install", "--resource-key", "no.such.plugin/epc", code=1)
    assert done.err.startswith("Error: no node offers no.such.plugin/epc")
    assert "--simulation" in done.err
    assert "NotFound" in kubectl("get", "namespace", fresh.name, check=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held["clusters"][0]["cluster"].update(server="https://127.0.0.1:1"), "does not answer"),
        (lambda held: held["users"][0].update(user={"token": "nonsense"}), "does not know who asks"),
        (lambda held: held.clear(), "names no cluster that can be used"),
        (lambda held: held["contexts"][0]["context"].update(cluster="other"), "names no cluster that can be used"),
    ],
)
def test_a_wrong_kubeconfig_is_one_line(change: Any, words: str, fresh: Place, tmp_path: Path) -> None:
    held = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    change(held)
    wrong = tmp_path / "kubeconfig"
    wrong.write_text(yaml.safe_dump(held))
    done = fresh.tacit("install", "--unattested", environment={"KUBECONFIG": str(wrong)}, code=1)
    assert words in done.err
    assert str(wrong) in done.err
    assert len(done.err.splitlines()) == 1


def test_rights_that_are_missing_are_named_and_a_person_with_less_can_go_without_the_injector(
    other: Place, tmp_path: Path
) -> None:
    other.kubectl("create", "serviceaccount", "dev")
    other.kubectl("create", "rolebinding", "dev", "--clusterrole", "edit", "--serviceaccount", f"{other.name}:dev")
    held = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    held["users"][0]["user"] = {"token": other.kubectl("create", "token", "dev").strip()}
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(held))
    less = {"KUBECONFIG": str(config)}
    done = other.tacit("install", "--unattested", environment=less, code=1)
    assert "you may not create roles" in done.err
    assert "create mutatingwebhookconfigurations" in done.err
    done = other.tacit("install", "--unattested", "--disable-auto-injection", environment=less)
    assert "Deployment marblerun-coordinator: 1 of 1 ready" in done.out
    assert "Nothing is left of it" in other.tacit("uninstall", environment=less).out


def test_a_kind_that_the_cluster_does_not_know_is_named(other: Place, tmp_path: Path) -> None:
    chart = tmp_path / "tacit"
    shutil.copytree(CHART, chart)
    issuer = {"apiVersion": "no.such.group/v1", "kind": "Issuer", "metadata": {"name": "x"}}
    (chart / "templates" / "more.yaml").write_text(yaml.safe_dump(issuer))
    done = other.tacit("install", "--unattested", "--chart", str(chart), code=1)
    assert "this cluster knows no Issuer of no.such.group/v1" in done.err
    other.tacit("install", "--unattested")


# ---- the chart alone


def test_the_chart_alone_does_under_restricted_pod_security(other: Place) -> None:
    kubectl("label", "namespace", other.name, "pod-security.kubernetes.io/enforce=restricted")
    words = ["helm", "install", "mine", str(CHART), "--namespace", other.name, "--set", "unattested=true"]
    tag = ["--set", f"image.tag={TAG}"] if TAG else []
    done = subprocess.run([*words, *tag, "--wait", "--timeout", "90s"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "UNATTESTED" in done.stdout
    assert len(bundle(other)) == 1
    assert "1/1" in other.tacit("check").out
    subprocess.run(["helm", "uninstall", "mine", "--namespace", other.name, "--wait"], check=True, capture_output=True)


@pytest.mark.parametrize("program", ["helm", "helm3"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"simulation": True},
        {"unattested": True, "networkPolicy": {"enabled": False}},
        {"coordinator": {"simulation": True, "resources": {"limits": None}}, "tolerations": None, "dcap": None},
        {"marbleInjector": {"start": False}},
        {"marbleInjector": {"CABundle": "QQ==", "replicas": 1, "resourceKey": "tdx.intel.com/keys"}},
        {"coordinator": {"metrics": {"enabled": True, "tls": True}, "pvcName": "mine", "storageClass": "fast"}},
    ],
)
def test_the_chart_is_clean_in_both_helms(program: str, values: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.fail(f"there is no {program} in the PATH; scripts/cluster.sh builds it")
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    lint = [program, "lint", "--strict", str(CHART), "--values", str(file)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    render = [program, "template", "marblerun", str(CHART), "--namespace", "shop", "--values", str(file)]
    # A helm that was built from its module knows no version of Kubernetes but an old one.
    done = subprocess.run([*render, "--kube-version", "1.35.0"], capture_output=True, text=True, check=True)
    rendered = [value for value in yaml.safe_load_all(done.stdout) if value]
    assert all(value["apiVersion"] and value["kind"] and value["metadata"]["name"] for value in rendered)
    pretends = (
        values.get("simulation") or values.get("unattested") or (values.get("coordinator") or {}).get("simulation")
    )
    assert ("sgx.intel.com/epc: " in done.stdout) == (not pretends)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("simulation=true,unattested=true", "exclude each other"),
        ("simulaton=true", "simulaton"),
        ("coordinator.distributedDeployment=true", "distributedDeployment"),
        ("marbleInjector.resourceKey=epc", "resourceKey"),
        ("marbleInjector.replicas=0", "replicas"),
        ("coordinator.clientServerPort=99999", "clientServerPort"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(setting: str, said: str) -> None:
    words = ["helm", "template", str(CHART), "--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode
    assert said in done.stderr
