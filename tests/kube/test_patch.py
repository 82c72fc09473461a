"""The injector's rule: what a marble's pod gets, and what it keeps."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.cluster import apply
from tacit.errors import AdmissionError
from tacit.kube.hardware import parse_resource_key
from tacit.kube.injector.patch import Pod, Settings, patch_pod

UID = "0b5c1f2e-6a57-4c3c-9df1-2a4b6c8d0e1f"
SETTINGS = Settings()


def a_pod(*containers: dict[str, Any], **labels: str) -> dict[str, Any]:
    named = {f"marblerun/{key.replace('_', '-')}": value for key, value in labels.items()}
    return {
        "metadata": {"name": "p", "labels": {"marblerun/marbletype": "Frontend", **named}},
        "spec": {"containers": list(containers) or [{"name": "one", "image": "i"}]},
    }


def patched(pod: dict[str, Any], settings: Settings = SETTINGS, namespace: str = "shop") -> dict[str, Any]:
    """The pod as it starts."""
    patch = patch_pod(msgspec.convert(pod, Pod), namespace=namespace, uid=UID, settings=settings)
    assert patch is not None
    done = copy.deepcopy(pod)
    apply(done, patch.operations)
    return done


def env(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def test_two_containers_get_what_marblerun_gives_them() -> None:
    spec = patched(a_pod({"name": "one"}, {"name": "two"}))["spec"]
    for container in spec["containers"]:
        assert env(container) == {
            "EDG_MARBLE_COORDINATOR_ADDR": "coordinator-mesh-api.marblerun:2001",
            "EDG_MARBLE_TYPE": "Frontend",
            "EDG_MARBLE_DNS_NAMES": "frontend,frontend.shop,frontend.shop.svc.cluster.local",
            "EDG_MARBLE_UUID_FILE": "/Frontend-uid/uuid-file",
        }
        assert container["volumeMounts"] == [{"name": f"uuid-file-{UID}", "mountPath": "/Frontend-uid"}]
        assert container["resources"]["limits"] == {
            "sgx.intel.com/epc": "10Mi",
            "sgx.intel.com/enclave": "1",
            "sgx.intel.com/provision": "1",
        }
    item = {"path": "uuid-file", "fieldRef": {"fieldPath": "metadata.uid"}}
    assert spec["volumes"] == [{"name": f"uuid-file-{UID}", "downwardAPI": {"items": [item]}}]
    assert spec["tolerations"] == [{"key": "sgx.intel.com/epc", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_pod_without_a_namespace_is_in_the_default_one() -> None:
    container = patched(a_pod(), namespace="")["spec"]["containers"][0]
    assert env(container)["EDG_MARBLE_DNS_NAMES"] == "frontend,frontend.default,frontend.default.svc.cluster.local"


def test_what_a_container_sets_itself_stays() -> None:
    own = [{"name": "EDG_MARBLE_UUID_FILE", "value": "uuid"}, {"name": "EDG_MARBLE_TYPE", "value": "Mine"}]
    spec = patched(a_pod({"name": "one", "env": own}))["spec"]
    assert env(spec["containers"][0])["EDG_MARBLE_UUID_FILE"] == "uuid"
    assert env(spec["containers"][0])["EDG_MARBLE_TYPE"] == "Mine"
    assert "volumeMounts" not in spec["containers"][0]
    assert "volumes" not in spec


def test_lists_that_are_there_are_added_to() -> None:
    container = {
        "name": "one",
        "env": [{"name": "A", "value": "1"}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "resources": {"limits": {"cpu": "1", "sgx.intel.com/epc": "64Mi"}, "requests": {"cpu": "1"}},
    }
    pod = a_pod(container)
    pod["spec"] |= {"volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "other", "operator": "Exists"}]}
    spec = patched(pod)["spec"]
    done = spec["containers"][0]
    assert env(done)["A"] == "1"
    assert [mount["mountPath"] for mount in done["volumeMounts"]] == ["/v", "/Frontend-uid"]
    assert done["resources"]["limits"]["sgx.intel.com/epc"] == "64Mi"
    assert done["resources"]["limits"]["sgx.intel.com/enclave"] == "1"
    assert done["resources"]["requests"] == {"cpu": "1"}
    assert [volume["name"] for volume in spec["volumes"]] == ["v", f"uuid-file-{UID}"]
    assert len(spec["tolerations"]) == 2


def test_a_container_with_a_mount_of_its_own_takes_the_volume_from_no_other() -> None:
    """There MarbleRun's injector makes a pod that Kubernetes refuses."""
    own = {"name": "two", "volumeMounts": [{"name": "mine", "mountPath": "/Frontend-uid"}]}
    pod = a_pod({"name": "one"}, own)
    pod["spec"]["volumes"] = [{"name": "mine", "emptyDir": {}}]
    spec = patched(pod)["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert volumes == {"mine", f"uuid-file-{UID}"}
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert len(container["volumeMounts"]) == 1
    assert env(spec["containers"][1])["EDG_MARBLE_UUID_FILE"] == "/Frontend-uid/uuid-file"


def test_a_label_says_which_container_is_the_marble() -> None:
    spec = patched(a_pod({"name": "one"}, {"name": "two"}, marblecontainer="two"))["spec"]
    assert spec["containers"][0] == {"name": "one"}
    assert env(spec["containers"][1])["EDG_MARBLE_TYPE"] == "Frontend"


def test_a_label_for_a_container_that_is_not_there_is_told_to_whoever_made_the_pod() -> None:
    pod = msgspec.convert(a_pod({"name": "one"}, marblecontainer="two"), Pod)
    patch = patch_pod(pod, namespace="shop", uid=UID, settings=SETTINGS)
    assert patch is not None
    assert "no such container (one): none was prepared" in patch.warnings[0]
    assert all("containers" not in operation["path"] for operation in patch.operations)


def test_a_label_switches_the_resources_off() -> None:
    spec = patched(a_pod(resource_injection="disabled"))["spec"]
    assert "tolerations" not in spec
    assert "resources" not in spec["containers"][0]
    assert env(spec["containers"][0])["EDG_MARBLE_TYPE"] == "Frontend"


@pytest.mark.parametrize(
    ("key", "limits"),
    [
        ("kubernetes.azure.com/sgx_epc_mem_in_MiB", {"kubernetes.azure.com/sgx_epc_mem_in_MiB": "10"}),
        ("alibabacloud.com/sgx_epc_MiB", {"alibabacloud.com/sgx_epc_MiB": "10"}),
        ("example.org/epc", {"example.org/epc": "10"}),
        ("tdx.intel.com/keys", {"tdx.intel.com/keys": "1"}),
        ("sev-snp.amd.com/esids", {"sev-snp.amd.com/esids": "1"}),
        ("squat.ai/tdx=1", {"squat.ai/tdx": "1"}),
    ],
)
def test_the_resource_is_the_one_that_was_asked_for(key: str, limits: dict[str, str]) -> None:
    spec = patched(a_pod(), Settings(wanted=parse_resource_key(key)))["spec"]
    assert spec["containers"][0]["resources"]["limits"] == limits
    assert spec["tolerations"][0]["key"] == key.partition("=")[0]


def test_a_toleration_that_is_there_is_not_added_again() -> None:
    pod = a_pod()
    pod["spec"]["tolerations"] = [{"key": "sgx.intel.com/epc", "operator": "Exists", "effect": "NoSchedule"}]
    assert len(patched(pod)["spec"]["tolerations"]) == 1


def test_a_pod_without_the_label_is_left_as_it_is() -> None:
    pod = msgspec.convert({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c"}]}}, Pod)
    assert patch_pod(pod, namespace="shop", uid=UID, settings=SETTINGS) is None


def test_an_empty_label_is_refused_in_marbleruns_words() -> None:
    pod = msgspec.convert(a_pod(marbletype=""), Pod)
    with pytest.raises(AdmissionError, match=r"^Empty \[marblerun/marbletype\] label, request denied$"):
        patch_pod(pod, namespace="shop", uid=UID, settings=SETTINGS)


@pytest.mark.parametrize("label", ["../../etc", "a/b", "a\nb", "-a", "a" * 64])
def test_t13_a_type_that_would_choose_a_path_is_refused(label: str) -> None:
    with pytest.raises(AdmissionError, match="Invalid"):
        patched(a_pod(marbletype=label))


NAMES = st.sampled_from(["one", "two", "EDG_MARBLE_TYPE", "EDG_MARBLE_UUID_FILE", "A"])
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "env": st.none() | st.lists(st.fixed_dictionaries({"name": NAMES, "value": st.just("v")}), unique_by=str),
        "volumeMounts": st.none()
        | st.lists(st.sampled_from([{"name": "v", "mountPath": p} for p in ("/Frontend-uid", "/v", "/Frontend-uid/")])),
        "resources": st.none() | st.just({}) | st.just({"limits": {"cpu": "1"}}),
    },
)


@given(st.lists(CONTAINERS, max_size=4), st.booleans())
def test_whatever_the_pod_every_mount_of_ours_has_its_volume(containers: list[dict[str, Any]], volumes: bool) -> None:
    pod = a_pod()
    pod["spec"]["containers"] = containers
    if volumes:
        pod["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    spec = patched(pod)["spec"]
    ours = f"uuid-file-{UID}"
    mounted = any(mount["name"] == ours for one in spec["containers"] for mount in one.get("volumeMounts") or [])
    assert mounted == any(volume["name"] == ours for volume in spec.get("volumes") or [])
    for container in spec["containers"]:
        names = [one["name"] for one in container["env"]]
        assert {"EDG_MARBLE_TYPE", "EDG_MARBLE_UUID_FILE", "EDG_MARBLE_COORDINATOR_ADDR"} <= set(names)


def test_t13_a_pod_of_more_containers_than_any_has_is_refused() -> None:
    with pytest.raises(AdmissionError, match="more than 256 containers"):
        patched(a_pod(*({"name": f"c{number}"} for number in range(257))))


def test_what_is_simulated_asks_its_node_for_nothing() -> None:
    spec = patched(a_pod(), Settings(wanted=None))["spec"]
    assert "tolerations" not in spec
    assert not any("limits" in (one.get("resources") or {}) for one in spec["containers"])
    assert any(one["name"] == "EDG_MARBLE_TYPE" for one in spec["containers"][0]["env"])
