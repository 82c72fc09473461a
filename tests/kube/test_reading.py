"""What a cluster's objects say: about nodes, about what comes up, about the way to a service; and what helm says."""

import asyncio
import os
import re
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.cluster import FakeCluster, a_deployment
from tacit.cli.cluster.look import describe_late, describe_nodes, describe_part
from tacit.errors import (
    ClusterAccessError,
    ClusterConflictError,
    ClusterRightError,
    InputError,
    InstallError,
    UnreachableError,
)
from tacit.kube.forward import Target, find_pod, forwarded, parse_target
from tacit.kube.hardware import choose_resource_key, describe_node, parse_resource_key
from tacit.kube.helm import CHART, Helm, Release, chart_folder
from tacit.kube.objects import POD, SERVICE
from tacit.kube.readiness import Part, Trouble, current_pods, describe_claim, describe_deployment

NFD = "feature.node.kubernetes.io"


def a_node(name: str = "n", labels: dict[str, str] | None = None, **capacity: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "status": {"capacity": capacity}}


INTEL = {"sgx.intel.com/epc": "64Mi", "sgx.intel.com/enclave": "1", "sgx.intel.com/provision": "1"}


@pytest.mark.parametrize(
    ("capacity", "offers"),
    [
        (INTEL, {"SGX": "sgx.intel.com/epc"}),
        ({"kubernetes.azure.com/sgx_epc_mem_in_MiB": "56"}, {"SGX": "kubernetes.azure.com/sgx_epc_mem_in_MiB"}),
        ({"alibabacloud.com/sgx_epc_MiB": "93"}, {"SGX": "alibabacloud.com/sgx_epc_MiB"}),
        ({"tdx.intel.com/keys": "31"}, {"TDX": "tdx.intel.com/keys"}),
        ({"sev-snp.amd.com/esids": "99"}, {"SNP": "sev-snp.amd.com/esids"}),
        ({"sgx.intel.com/epc": "0", "cpu": "4"}, {}),
    ],
)
def test_a_node_says_which_tee_it_offers(capacity: dict[str, str], offers: dict[str, str]) -> None:
    assert describe_node(a_node(**capacity)).offers == offers


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (f"{NFD}/cpu-security.sgx.enabled", "SGX: the processor has it.*SGX device plugin"),
        (f"{NFD}/cpu-security.tdx.enabled", "TDX: the processor has it.*tdx.intel.com/keys"),
        (f"amd.{NFD}/snp", "SNP: the processor has it.*sev-snp.amd.com/esids"),
    ],
)
def test_a_tee_that_nothing_offers_to_pods_is_named_with_what_is_missing(label: str, words: str) -> None:
    (missing,) = describe_node(a_node(labels={label: "true"})).missing
    assert re.search(words, missing)


def test_half_of_intels_plugin_is_not_enough() -> None:
    found = describe_node(a_node(**{"sgx.intel.com/epc": "64Mi", "sgx.intel.com/enclave": "1"}))
    assert found.offers == {}
    assert "not sgx.intel.com/provision" in found.missing[0]


def test_precheck_begins_as_marbleruns_and_names_the_nodes() -> None:
    nodes = [describe_node(a_node("a", **INTEL)), describe_node(a_node("b"))]
    assert describe_nodes(nodes) == [
        "Cluster supports SGX on 1 node",
        "  a: SGX (sgx.intel.com/epc)",
        "  b: no TEE that is offered to pods",
        "To install: tacit install",
    ]
    other = describe_nodes([describe_node(a_node("a", **{"tdx.intel.com/keys": "1"}))])
    assert other[-1] == "To install: tacit install --resource-key tdx.intel.com/keys"
    assert "tacit install --simulation" in describe_nodes([])[1]


def test_the_resource_is_the_first_that_a_node_offers() -> None:
    nodes = [a_node(), a_node(**{"alibabacloud.com/sgx_epc_MiB": "1"})]
    assert choose_resource_key(nodes) == "alibabacloud.com/sgx_epc_MiB"
    assert choose_resource_key([]) == "sgx.intel.com/epc"


@pytest.mark.parametrize(
    "text", ["", "epc", "a/b/c", "A/b", "sgx.intel.com/epc=", "sgx.intel.com/epc=-1", "a/b=1x", "a/b=0"]
)
def test_what_names_no_resource_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected such as"):
        parse_resource_key(text)


# ---- what comes up


def a_pod(name: str = "p", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "ownerReferences": [{"name": "rs"}]}, "status": {"phase": "Pending", **status}}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    container = {"image": "localhost/x:1", "state": {"waiting": {"reason": reason, "message": message}}, **more}
    return a_pod(containerStatuses=[container])


NOT_READY = a_deployment("d", 2, ready=False)
UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes: Insufficient sgx.intel.com/epc"}]
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
FAILED = {"terminated": {"exitCode": 2}}


@pytest.mark.parametrize(
    ("pod", "words", "lost"),
    [
        (waiting("ErrImagePull", "no such host"), "the image localhost/x:1 cannot be pulled: no such host", False),
        (waiting("ImagePullBackOff"), "cannot be pulled: ImagePullBackOff", True),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), 'secret "s" not found', True),
        (waiting("CrashLoopBackOff", lastState=FAILED), "ends again and again (exit code 2)", True),
        (waiting("CrashLoopBackOff", lastState=KILLED), "ends again and again (not enough memory)", True),
        (a_pod(conditions=UNSCHEDULED), "no node takes it: 0/2 nodes: Insufficient sgx.intel.com/epc", False),
    ],
)
def test_what_is_in_the_way_is_read_from_the_pods(pod: dict[str, Any], words: str, lost: bool) -> None:
    part = describe_deployment(NOT_READY, [pod])
    assert (part.ready, part.wanted, part.is_ready) == (0, 2, False)
    assert part.trouble is not None
    assert words in part.trouble.text
    assert part.trouble.lost is lost


def test_a_volume_that_cannot_be_mounted_is_told_by_its_event() -> None:
    about = {
        "involvedObject": {"name": "p"},
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'secret "s" not found',
    }
    part = describe_deployment(NOT_READY, [a_pod()], [about])
    assert part.trouble is not None
    assert part.trouble.text == 'secret "s" not found'


def test_pods_that_may_not_be_made_are_told_with_the_reason() -> None:
    deployment = a_deployment("d", 1, ready=False)
    deployment["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]
    part = describe_deployment(deployment, [])
    assert part.trouble is not None
    assert (part.trouble.text, part.trouble.lost) == ("its pods are refused: exceeded quota", True)


def test_a_deployment_that_was_just_changed_is_not_ready_by_its_old_pods() -> None:
    deployment = a_deployment("d", 1)
    deployment["metadata"]["generation"] = 2
    assert not describe_deployment(deployment, []).is_ready


def test_pods_of_an_earlier_try_say_nothing() -> None:
    def a_set(name: str, revision: str) -> dict[str, Any]:
        annotations = {"deployment.kubernetes.io/revision": revision}
        return {"metadata": {"name": name, "annotations": annotations, "ownerReferences": [{"name": "d"}]}}

    deployment = a_deployment("d", 1)
    deployment["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "2"}
    old = {"metadata": {"name": "old", "ownerReferences": [{"name": "one"}]}}
    new = {"metadata": {"name": "new", "ownerReferences": [{"name": "two"}]}}
    leaving = {"metadata": {"name": "gone", "ownerReferences": [{"name": "two"}], "deletionTimestamp": "now"}}
    assert current_pods(deployment, [a_set("one", "1"), a_set("two", "2")], [old, new, leaving]) == [new]


def test_a_claim_waits_with_its_reason() -> None:
    claim = {"metadata": {"name": "c"}, "status": {"phase": "Pending"}}
    event = {"involvedObject": {"name": "c"}, "type": "Normal", "reason": "FailedBinding", "message": "no class"}
    part = describe_claim(claim, [event])
    assert part.trouble is not None
    assert part.trouble.text == "no volume yet: no class"
    assert describe_claim({"metadata": {"name": "c"}, "status": {"phase": "Bound"}}).is_ready


def test_a_part_is_told_as_marbleruns_check_tells_it() -> None:
    assert describe_part(Part("Deployment", "marble-injector", 1, 2)) == "marble-injector pods ready: 1/2"
    missing = Part("Deployment", "marble-injector", 0, 1, is_installed=False)
    assert describe_part(missing) == "marble-injector is not installed on this cluster"
    late = describe_late(Part("Deployment", "marble-injector", 1, 2), 60)
    assert late == "deployment marble-injector was not ready after 60 seconds (1/2 pods available)"


def test_what_a_cluster_says_steers_no_terminal() -> None:
    waiting = {"reason": "CreateContainerConfigError", "message": "no \x1b[2Jsecret\nError: x\x9b"}
    pod = {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"state": {"waiting": waiting}}]}}
    deployment = {"metadata": {"name": "d"}, "spec": {"replicas": 1}}
    trouble = describe_deployment(deployment, [pod]).trouble
    assert trouble is not None
    assert trouble.text == "its container cannot be made: no [2Jsecret Error: x"


def test_a_claim_without_a_volume_is_called_no_deployment() -> None:
    late = describe_late(Part("PersistentVolumeClaim", "c", 0, 1, Trouble("no volume yet")), 60)
    assert late == "PersistentVolumeClaim c was not ready after 60 seconds: no volume yet"


# ---- the way through the cluster


def a_service(cluster: FakeCluster) -> None:
    ports = [{"port": 4433, "targetPort": "http"}]
    cluster.put(SERVICE, {"metadata": {"name": "api"}, "spec": {"selector": {"app": "c"}, "ports": ports}}, "marblerun")


def a_ready_pod(cluster: FakeCluster, *, ready: str = "True") -> None:
    spec = {"containers": [{"ports": [{"name": "http", "containerPort": 5555}]}]}
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    cluster.put(POD, {"metadata": {"name": "c-1", "labels": {"app": "c"}}, "spec": spec, "status": status}, "marblerun")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("api", Target("api", "marblerun", 4433)),
        ("api.other", Target("api", "other", 4433)),
        ("api.other.svc.cluster.local", Target("api", "other", 4433)),
    ],
)
def test_a_name_of_the_clusters_dns_names_a_service(host: str, target: Target) -> None:
    assert parse_target(host, 4433, namespace="marblerun") == target


async def test_a_service_leads_to_a_pod_and_its_own_port() -> None:
    cluster, target = FakeCluster(), Target("api", "marblerun", 4433)
    with pytest.raises(InstallError, match="there is no service api in the namespace marblerun"):
        await find_pod(cluster, target)
    a_service(cluster)
    with pytest.raises(InstallError, match="no pod of the service api.*0 are there"):
        await find_pod(cluster, target)
    a_ready_pod(cluster, ready="False")
    with pytest.raises(InstallError, match="1 are there"):
        await find_pod(cluster, target)
    a_ready_pod(cluster)
    pod, port = await find_pod(cluster, target)
    assert (pod["metadata"]["name"], port) == ("c-1", 5555)
    with pytest.raises(InstallError, match="no port 80; it has 4433"):
        await find_pod(cluster, Target("api", "marblerun", 80))


def test_the_way_is_open_for_a_block_and_its_failure_is_heard() -> None:
    cluster = FakeCluster()
    a_service(cluster)
    a_ready_pod(cluster)

    @asynccontextmanager
    async def opened() -> AsyncIterator[FakeCluster]:
        yield cluster

    with forwarded(opened, Target("api", "marblerun", 4433)) as port:
        assert port == 5555
    with pytest.raises(InstallError, match="no service other"), forwarded(opened, Target("other", "x", 1)):
        pass

    @asynccontextmanager
    async def broken() -> AsyncIterator[FakeCluster]:
        raise RuntimeError
        yield cluster

    with pytest.raises(UnreachableError, match="RuntimeError"), forwarded(broken, Target("api", "marblerun", 1)):
        pass


def test_what_went_wrong_is_heard_however_slowly_the_way_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(asyncio.SelectorEventLoop):
        is_ending = False

        def close(self) -> None:
            self.is_ending = True
            time.sleep(0.1)
            super().close()

        def call_soon_threadsafe(self, *words: Any, **more: Any) -> asyncio.Handle:
            if self.is_ending:
                raise RuntimeError("Event loop is closed")
            return super().call_soon_threadsafe(*words, **more)

    @asynccontextmanager
    async def broken() -> AsyncIterator[FakeCluster]:
        raise InstallError("nobody is there")
        yield FakeCluster()

    monkeypatch.setattr(asyncio, "new_event_loop", Slow)
    with pytest.raises(InstallError, match="nobody is there"), forwarded(broken, Target("api", "marblerun", 1)):
        pass


# ---- helm


def a_helm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name that answers as the real one did."""
    program = folder / "helm"
    program.write_text(f"#!{sys.executable}\nimport sys\nwords = sys.argv[1:]\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


VERSION = "if words[0] == 'version': print('v4.3.1+gabc'); sys.exit(0)\n"


def saying(text: str) -> str:
    return f"{VERSION}print({text!r}, file=sys.stderr); sys.exit(1)"


async def test_without_helm_one_line_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"there is no `helm` in the PATH.*https://helm.sh"):
        await Helm.find("marblerun")


@pytest.mark.parametrize("said", ["v2.17.0", "nonsense"])
async def test_what_is_no_helm_of_today_is_refused(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_helm(tmp_path, monkeypatch, f"print({said!r})")
    with pytest.raises(InstallError, match="is no helm 3 or 4"):
        await Helm.find("marblerun")


async def test_a_release_is_read_from_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = '[{"revision":2,"updated":"x","status":"pending-upgrade","chart":"tacit-0.1.0","app_version":"0.1.0"}]'
    a_helm(tmp_path, monkeypatch, f"{VERSION}print({entry!r})")
    found = await (await Helm.find("marblerun")).release()
    assert found == Release("tacit-0.1.0", "pending-upgrade", 2)
    assert found.is_pending
    a_helm(tmp_path, monkeypatch, saying("Error: release: not found"))
    assert await (await Helm.find("marblerun")).release() is None


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ('Error: INSTALLATION FAILED: secrets is forbidden: User "u" cannot', ClusterRightError, "not allowed"),
        (
            "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress",
            ClusterConflictError,
            "or was interrupted",
        ),
        ("Error: Kubernetes cluster unreachable: Get", ClusterAccessError, "does not reach the cluster"),
        (
            'Error: Service "x" exists and cannot be imported into the current release: invalid',
            InstallError,
            "did not make",
        ),
        (
            'Error: unable to build: resource mapping not found: no matches for kind "Issuer" in version "cert-manager.io/v1"',
            InstallError,
            "knows no Issuer of cert-manager.io/v1.*CRD",
        ),
        (
            'Error: UPGRADE FAILED: PersistentVolumeClaim "c" is invalid: spec: Forbidden: spec is immutable after creation',
            InstallError,
            "give the storageClass and storageSize that it was made with.*`tacit uninstall`",
        ),
        ("Error: it is 3\n\nUse --debug flag to render out invalid YAML\n", InstallError, "^helm: it is 3$"),
        ("WARNING: x\nError: INSTALLATION FAILED: values don't\nmeet", InstallError, "^helm: values don't meet$"),
    ],
)
async def test_helms_last_words_become_one_line(
    said: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_helm(tmp_path, monkeypatch, saying(said))
    helm = await Helm.find("marblerun")
    with pytest.raises(error, match=words) as caught:
        await helm.install(tmp_path, {}, [])
    assert "\n" not in str(caught.value)


async def test_values_go_in_by_standard_input_and_not_as_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    a_helm(tmp_path, monkeypatch, f"{VERSION}open({str(log)!r}, 'w').write(' '.join(words) + '\\n' + sys.stdin.read())")
    helm = await Helm.find("shop")
    await helm.install(Path("/charts/tacit"), {"simulation": True}, ["--set", "a=b"])
    words, values = (await asyncio.to_thread(log.read_text)).split("\n", 1)
    assert words == "upgrade --install marblerun /charts/tacit --values - --set a=b --namespace shop"
    assert values == "simulation: true\n"


def test_the_chart_is_in_the_package() -> None:
    assert (chart_folder(CHART) / "templates" / "coordinator.yaml").is_file()
    with pytest.raises(InstallError, match="no-such-chart"):
        chart_folder("no-such-chart")
