"""Installing and taking away: what is there before the chart, what is asked first, and what an earlier try left."""

import base64
import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.cluster import FakeCluster, FakeHelm, Told, a_namespace
from tacit.errors import ClusterRightError, InputError, InstallError
from tacit.evidence.simulated.platform import generate_platform, refresh_platform, render_platform
from tacit.kube.helm import Release
from tacit.kube.install import Wish, install, look, make_values, platform_secret
from tacit.kube.objects import DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET, SECRET, SIGNING_REQUEST, WEBHOOK
from tacit.kube.places import Place, add_place, find_places, remove_place
from tacit.kube.remove import remove

CHART = Path("charts/tacit")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
PLATFORM = generate_platform(now=NOW, random=lambda size: b"\7" * size)
OTHER = generate_platform(now=NOW, random=lambda size: b"\6" * size)
RAW = render_platform(PLATFORM)
SIMULATED = Wish(simulation=True, platform=RAW, timeout=0)
SGX = {"sgx.intel.com/epc": "64Mi", "sgx.intel.com/enclave": "10", "sgx.intel.com/provision": "10"}


def a_node(name: str, **capacity: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"capacity": {"cpu": "2", **capacity}}}


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put(NODE, a_node("node-0"))
    a_namespace(made, "default")
    return made


@pytest.fixture
def helm(cluster: FakeCluster) -> FakeHelm:
    return FakeHelm(cluster)


async def test_an_empty_cluster_gets_all_of_it_and_each_step_is_told(cluster: FakeCluster, helm: FakeHelm) -> None:
    told = Told()
    await install(cluster, helm, CHART, SIMULATED, told)
    assert cluster.names(NAMESPACE) == ["default", "marblerun"]
    secret = cluster.objects[SECRET.name, "marblerun", "tacit-platform"]
    assert base64.b64decode(secret["data"]["platform.json"]) == RAW
    assert helm.values["simulation"] is True
    assert list(told) == [
        "Kubernetes v1.35.4",
        "Namespace marblerun made",
        "Secret tacit-platform made (SIMULATED platform)",
        "Chart tacit installed as the release marblerun",
    ]
    assert all(part.is_ready for part in told.seen[-1])


async def test_a_second_try_finds_what_is_there_and_keeps_the_platform(cluster: FakeCluster, helm: FakeHelm) -> None:
    await install(cluster, helm, CHART, SIMULATED, Told())
    told = Told()
    another = render_platform(generate_platform(now=NOW, random=lambda size: b"\x08" * size))
    await install(cluster, helm, CHART, Wish(simulation=True, platform=another, timeout=0), told)
    assert "Namespace marblerun is there" in list(told)
    assert any("it is another platform than this machine's" in line for line in told)
    secret = cluster.objects[SECRET.name, "marblerun", "tacit-platform"]
    assert base64.b64decode(secret["data"]["platform.json"]) == RAW


async def test_the_same_platform_is_brought_up_to_date(cluster: FakeCluster, helm: FakeHelm) -> None:
    await install(cluster, helm, CHART, SIMULATED, Told())
    fresh = render_platform(refresh_platform(PLATFORM, now=NOW + timedelta(days=360)))
    told = Told()
    await install(cluster, helm, CHART, Wish(simulation=True, platform=fresh, timeout=0), told)
    assert "Secret tacit-platform brought up to date" in list(told)
    secret = cluster.objects[SECRET.name, "marblerun", "tacit-platform"]
    assert base64.b64decode(secret["data"]["platform.json"]) == fresh


async def test_a_secret_that_holds_no_platform_is_named(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "marblerun")
    cluster.put(SECRET, {"metadata": {"name": "tacit-platform"}, "data": {"platform.json": "QQ=="}}, "marblerun")
    with pytest.raises(InstallError, match="the Secret tacit-platform in marblerun holds no platform"):
        await install(cluster, helm, CHART, SIMULATED, Told())


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade", "uninstalling"])
async def test_an_interrupted_install_is_taken_up(cluster: FakeCluster, helm: FakeHelm, status: str) -> None:
    a_namespace(cluster, "marblerun")
    helm.held = Release("tacit-0.1.0", status, 3)
    cluster.put(SECRET, {"metadata": {"name": "sh.helm.release.v1.marblerun.v3"}}, "marblerun")
    told = Told()
    await install(cluster, helm, CHART, SIMULATED, told)
    assert "An interrupted install is taken up" in list(told)
    assert "delete Secret sh.helm.release.v1.marblerun.v3" in cluster.changes


async def test_another_release_of_that_name_is_left_alone(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "marblerun")
    helm.held = Release("marblerun-1.9.0", "deployed", 1)
    with pytest.raises(InstallError, match=r"holds marblerun-1\.9\.0 as the release marblerun"):
        await install(cluster, helm, CHART, SIMULATED, Told())
    assert cluster.changes == []


async def test_all_rights_that_are_missing_are_named_before_anything_is_made(
    cluster: FakeCluster, helm: FakeHelm
) -> None:
    cluster.forbidden = {("create", "clusterroles"), ("create", "mutatingwebhookconfigurations")}
    with pytest.raises(ClusterRightError, match="create clusterroles, create mutatingwebhookconfigurations"):
        await install(cluster, helm, CHART, SIMULATED, Told())
    assert cluster.changes == []


async def test_rights_for_the_injector_are_not_asked_where_none_is_installed(
    cluster: FakeCluster, helm: FakeHelm
) -> None:
    cluster.forbidden = {("create", "clusterroles"), ("list", "nodes"), ("get", "namespaces")}
    await install(cluster, helm, CHART, Wish(unattested=True, injection=False, timeout=0), Told())
    assert helm.values["marbleInjector"]["start"] is False


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(unattested=True, domains=("a.example.org", "a b")), '"a b" is neither a name nor an address'),
        (Wish(unattested=True, domains=("https://a.example.org",)), "expected such as coordinator.example.org"),
        (Wish(unattested=True, client_port=2001), "both to have port 2001"),
    ],
)
async def test_what_the_coordinator_would_not_start_with_is_refused_before_anything_is_made(
    cluster: FakeCluster, helm: FakeHelm, wish: Wish, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        await install(cluster, helm, CHART, wish, Told())
    assert cluster.changes == []


def test_names_and_addresses_are_domains_of_a_coordinator() -> None:
    names = ("localhost", "*.example.org", "a_b.example.org.", "10.0.0.1", "fd00::1")
    assert make_values(Wish(domains=names), "a.b/c")["coordinator"]["hostname"] == ",".join(names)


async def test_an_injector_that_a_value_switched_off_is_not_waited_for(cluster: FakeCluster, helm: FakeHelm) -> None:
    helm.injector = False
    told = Told()
    await install(cluster, helm, CHART, Wish(unattested=True, more=("--set", "marbleInjector.start=false")), told)
    assert [part.name for part in told.seen[-1]] == ["coordinator-pv-claim", "marblerun-coordinator"]


async def test_who_sees_deployments_and_nothing_else_hears_how_they_are(cluster: FakeCluster, helm: FakeHelm) -> None:
    await install(cluster, helm, CHART, SIMULATED, Told())
    cluster.forbidden = {
        ("get", "persistentvolumeclaims"),
        *(("list", one) for one in ("pods", "events", "replicasets")),
    }
    assert [part.name for part in await look(cluster, "marblerun")] == ["marble-injector", "marblerun-coordinator"]


async def test_who_may_not_look_at_namespaces_prepares_one_and_takes_all_away(
    cluster: FakeCluster, helm: FakeHelm
) -> None:
    await install(cluster, helm, CHART, SIMULATED, Told())
    cluster.forbidden = {("get", "namespaces")}
    assert any("SIMULATED" in line for line in await add_place(cluster, "default", owner="marblerun"))
    await remove(cluster, helm, "marblerun", told := Told())
    assert "Nothing is left of it" in list(told)


async def test_whether_nodes_are_unseen_or_there_are_none_is_told_apart(cluster: FakeCluster, helm: FakeHelm) -> None:
    told = Told()
    cluster.forbidden = {("list", "nodes")}
    await install(cluster, helm, CHART, Wish(timeout=0), told)
    cluster.forbidden = set()
    del cluster.objects[NODE.name, "", "node-0"]
    await install(cluster, helm, CHART, Wish(timeout=0), told)
    notes = [line for line in told if line.startswith("Note")]
    assert [note.partition(", so")[0] for note in notes] == [
        "Note: you may not list nodes",
        "Note: the cluster has no node yet",
    ]


async def test_without_a_node_that_has_sgx_nothing_is_made(cluster: FakeCluster, helm: FakeHelm) -> None:
    cluster.put(NODE, a_node("node-1", **{"tdx.intel.com/keys": "31"}))
    with pytest.raises(InstallError, match=r"no node offers sgx\.intel\.com/epc \(node-1 has tdx\.intel\.com/keys\)"):
        await install(cluster, helm, CHART, Wish(timeout=0), Told())
    assert cluster.changes == []


async def test_the_resource_of_the_nodes_is_found_and_asked_for(cluster: FakeCluster, helm: FakeHelm) -> None:
    cluster.put(NODE, a_node("node-1", **{"kubernetes.azure.com/sgx_epc_mem_in_MiB": "56"}))
    told = Told()
    await install(cluster, helm, CHART, Wish(timeout=0), told)
    assert "kubernetes.azure.com/sgx_epc_mem_in_MiB on node-1" in list(told)
    limits = helm.values["coordinator"]["resources"]["limits"]
    assert {key: amount for key, amount in limits.items() if amount is not None} == {
        "kubernetes.azure.com/sgx_epc_mem_in_MiB": "10"
    }
    assert limits["sgx.intel.com/epc"] is None
    assert helm.values["marbleInjector"]["resourceKey"] == "kubernetes.azure.com/sgx_epc_mem_in_MiB"


async def test_what_does_not_come_up_is_told_with_its_reason(cluster: FakeCluster, helm: FakeHelm) -> None:
    helm.ready = False
    now = {"deployment.kubernetes.io/revision": "1"}
    owner = [{"name": "marblerun-coordinator"}]
    sets = {"metadata": {"name": "rs", "annotations": now, "ownerReferences": owner}}
    cluster.put(REPLICA_SET, sets, "marblerun")
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    status = {"containerStatuses": [{"image": "localhost/x:1", "state": {"waiting": waiting}}]}
    cluster.put(POD, {"metadata": {"name": "p", "ownerReferences": [{"name": "rs"}]}, "status": status}, "marblerun")
    install_ = helm.install

    async def with_revision(*words: Any) -> None:
        await install_(*words)
        held = cluster.objects[DEPLOYMENT.name, "marblerun", "marblerun-coordinator"]
        held["metadata"]["annotations"] = now

    helm.install = with_revision  # type: ignore[method-assign]
    with pytest.raises(
        InstallError, match=r"the image localhost/x:1 cannot be pulled: not found.*run the same command"
    ):
        await install(cluster, helm, CHART, Wish(simulation=True, platform=RAW, timeout=60), Told())


async def test_what_is_late_without_a_reason_is_told_too(cluster: FakeCluster, helm: FakeHelm) -> None:
    helm.ready = False
    with pytest.raises(InstallError, match=r"Deployment marble-injector is not ready after 0 s \(0 of 2\)"):
        await install(cluster, helm, CHART, SIMULATED, Told())


async def test_a_namespace_that_is_going_is_not_installed_into(cluster: FakeCluster, helm: FakeHelm) -> None:
    cluster.put(NAMESPACE, {"metadata": {"name": "marblerun"}, "status": {"phase": "Terminating"}})
    with pytest.raises(InstallError, match="is just being deleted"):
        await install(cluster, helm, CHART, SIMULATED, Told())


def test_values_are_those_of_the_wish() -> None:
    wish = Wish(domains=("a.example", "10.0.0.1"), client_port=5433, pccs="https://pccs.example/v4/")
    values = make_values(wish, "sgx.intel.com/epc=64Mi")
    assert values["coordinator"]["hostname"] == "a.example,10.0.0.1"
    assert values["coordinator"]["clientServerPort"] == 5433
    assert values["coordinator"]["resources"]["limits"] == {
        "sgx.intel.com/epc": "64Mi",
        "sgx.intel.com/enclave": "1",
        "sgx.intel.com/provision": "1",
    }
    assert values["dcap"] == {"pccsUrl": "https://pccs.example/v4/"}
    assert make_values(Wish(kds="https://kds.example"), "sgx.intel.com/epc")["dcap"] == {
        "kdsUrl": "https://kds.example"
    }
    assert "dcap" not in make_values(Wish(), "sgx.intel.com/epc")
    assert "resources" not in make_values(SIMULATED, "sgx.intel.com/epc")["coordinator"]


# ---- taking away


async def test_nothing_is_left_and_it_says_so(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "tensorflow")
    await install(cluster, helm, CHART, SIMULATED, Told())
    await add_place(cluster, "tensorflow", owner="marblerun")
    told = Told()
    await remove(cluster, helm, "marblerun", told)
    assert cluster.names(SECRET) == ["sh.helm.release.v1.marblerun.v1"] or cluster.names(SECRET) == []
    assert cluster.names(WEBHOOK) == []
    assert cluster.names(NAMESPACE) == ["default", "tensorflow"]
    assert "Secret tacit-platform taken away from tensorflow" in list(told)
    assert "Nothing is left of it" in list(told)
    assert list(told)[-1] == "Namespace marblerun taken away"


async def test_a_namespace_that_was_there_before_stays(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "marblerun")
    await install(cluster, helm, CHART, SIMULATED, Told())
    await remove(cluster, helm, "marblerun", Told())
    assert "marblerun" in cluster.names(NAMESPACE)


async def test_a_namespace_of_ours_in_which_somebody_lives_stays(cluster: FakeCluster, helm: FakeHelm) -> None:
    await install(cluster, helm, CHART, SIMULATED, Told())
    cluster.put(POD, {"metadata": {"name": "somebody"}}, "marblerun")
    told = Told()
    await remove(cluster, helm, "marblerun", told)
    assert list(told)[-1] == "Namespace marblerun stays: it holds Pod somebody"


async def test_what_marbleruns_command_line_made_goes_too(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "marblerun")
    helm.held = Release("marblerun-1.9.0", "deployed", 1)
    cluster.put(SECRET, {"metadata": {"name": "marble-injector-webhook-certs"}}, "marblerun")
    cluster.put(SIGNING_REQUEST, {"metadata": {"name": "marble-injector.marblerun"}})
    await remove(cluster, helm, "marblerun", Told())
    assert cluster.names(SECRET) == []
    assert cluster.names(SIGNING_REQUEST) == []


async def test_where_nothing_is_installed_it_says_so(cluster: FakeCluster, helm: FakeHelm) -> None:
    with pytest.raises(InstallError, match="nothing is installed in the namespace marblerun"):
        await remove(cluster, helm, "marblerun", Told())


async def test_the_platform_of_another_coordinator_stays(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "other")
    await install(cluster, helm, CHART, SIMULATED, Told())
    labels = {"app.kubernetes.io/managed-by": "tacit", "edgeless.systems/control-plane-ns": "second"}
    cluster.put(SECRET, {"metadata": {"name": "tacit-platform", "labels": labels}}, "other")
    await remove(cluster, helm, "marblerun", Told())
    assert (SECRET.name, "other", "tacit-platform") in cluster.objects


# ---- namespaces


async def test_a_namespace_is_added_listed_and_taken_back(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "tensorflow")
    await install(cluster, helm, CHART, SIMULATED, Told())
    lines = await add_place(cluster, "tensorflow", owner="marblerun")
    assert "pods with the label marblerun/marbletype are marbles there" in lines[0]
    assert "SIMULATED" in lines[1]
    assert len(await add_place(cluster, "tensorflow", owner="marblerun")) == 2  # again, without harm
    cluster.put(POD, {"metadata": {"name": "m", "labels": {"marblerun/marbletype": "T"}}}, "tensorflow")
    found = await find_places(cluster, owner="marblerun")
    assert found == [Place("marblerun", 0, has_platform=True), Place("tensorflow", 1, has_platform=True)]
    lines = await remove_place(cluster, "tensorflow", owner="marblerun")
    assert lines[0] == "Secret tacit-platform taken away from tensorflow"
    assert (SECRET.name, "tensorflow", "tacit-platform") not in cluster.objects


async def test_a_secret_of_somebody_else_is_not_touched(cluster: FakeCluster, helm: FakeHelm) -> None:
    a_namespace(cluster, "tensorflow")
    await install(cluster, helm, CHART, SIMULATED, Told())
    cluster.put(SECRET, {"metadata": {"name": "tacit-platform"}, "data": {}}, "tensorflow")
    lines = await add_place(cluster, "tensorflow", owner="marblerun")
    assert lines[-1] == "Its own Secret tacit-platform stays as it is"
    assert (await remove_place(cluster, "tensorflow", owner="marblerun"))[0] == "Nothing of ours is in tensorflow"


@pytest.mark.parametrize(
    ("place", "owner", "said"),
    [
        ("team-b", "team-b", "is of the coordinator in team-b, not in marblerun"),
        ("tensorflow", "team-b", "is of the coordinator in team-b, not in marblerun"),
        ("tensorflow", "", "is of no coordinator that it names, not in marblerun"),
    ],
)
async def test_adding_a_namespace_keeps_the_platform_of_another_coordinator(
    cluster: FakeCluster, helm: FakeHelm, place: str, owner: str, said: str
) -> None:
    a_namespace(cluster, place)
    await install(cluster, helm, CHART, SIMULATED, Told())
    cluster.put(SECRET, platform_secret(place, render_platform(OTHER), owner=owner), place)
    before = copy.deepcopy(cluster.objects)
    assert said in (await add_place(cluster, place, owner="marblerun"))[-1]
    assert cluster.objects == before


async def test_a_namespace_that_is_not_there_is_not_added(cluster: FakeCluster) -> None:
    with pytest.raises(InstallError, match="kubectl create namespace nowhere"):
        await add_place(cluster, "nowhere", owner="marblerun")
