"""The door to Kubernetes, against an API that answers as one does: what comes back, and what each refusal becomes."""

import json
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.server import serve_http
from tacit.errors import ClusterAccessError, ClusterConflictError, ClusterError, ClusterRightError
from tacit.kube.cluster import KubernetesCluster
from tacit.kube.objects import DEPLOYMENT, NODE, SECRET

Answer = Callable[[HttpRequest], HttpResponse]


def said(status: int, value: object) -> HttpResponse:
    return HttpResponse(status, json.dumps(value).encode(), {"content-type": "application/json"})


def refusal(status: int, message: str) -> HttpResponse:
    return said(status, {"kind": "Status", "message": message, "code": status})


class Api:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda request: said(200, {})
        self.asked: list[HttpRequest] = []

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if request.path.strip("/") == "version":
            return said(200, {"gitVersion": "v1.35.4", "major": "1", "minor": "35"})
        self.asked.append(request)
        return self.answer(request)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api()
    listener = await serve_http(api.handle, host="127.0.0.1", port=0, tls=None, max_body=1 << 20)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{listener.port}"}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield api
    await listener.close(0.1)


@pytest.fixture
async def cluster(api: Api, tmp_path: Path) -> AsyncIterator[KubernetesCluster]:
    async with KubernetesCluster(kubeconfig=tmp_path / "kubeconfig") as cluster:
        yield cluster


async def test_an_object_is_read_by_its_kind_and_place(api: Api, cluster: KubernetesCluster) -> None:
    api.answer = lambda request: said(200, {"metadata": {"name": "d"}})
    assert await cluster.get(DEPLOYMENT, "d", namespace="shop") == {"metadata": {"name": "d"}}
    assert api.asked[-1].path == "/apis/apps/v1/namespaces/shop/deployments/d"
    assert api.asked[-1].headers["authorization"] == "Bearer secret-token"
    await cluster.get(NODE, "n", namespace="shop")
    assert api.asked[-1].path == "/api/v1/nodes/n"
    assert await cluster.version() == "v1.35.4"
    assert cluster.namespace == "here"


async def test_what_is_not_there_is_none(api: Api, cluster: KubernetesCluster) -> None:
    api.answer = lambda request: refusal(404, "not found")
    assert await cluster.get(SECRET, "s", namespace="shop") is None
    assert await cluster.find(SECRET, namespace="shop") == []
    assert await cluster.delete(SECRET, "s", namespace="shop") is False


async def test_a_long_list_is_read_page_by_page(api: Api, cluster: KubernetesCluster) -> None:
    def answer(request: HttpRequest) -> HttpResponse:
        first = "continue=next" not in request.query
        return said(200, {"items": [{"n": 1 if first else 2}], "metadata": {"continue": "next" if first else ""}})

    api.answer = answer
    assert await cluster.find(SECRET, namespace="shop", labels="a=b") == [{"n": 1}, {"n": 2}]
    assert "labelSelector=a%3Db" in api.asked[0].query


async def test_changes_carry_their_value_and_their_kind_of_patch(api: Api, cluster: KubernetesCluster) -> None:
    value = {"metadata": {"name": "s", "resourceVersion": "7"}}
    await cluster.create(SECRET, value, namespace="shop")
    await cluster.replace(SECRET, value, namespace="shop")
    await cluster.patch(SECRET, "s", [{"op": "add", "path": "/a", "value": 1}], namespace="shop")
    await cluster.delete(SECRET, "s", namespace="shop")
    assert [request.method for request in api.asked] == ["POST", "PUT", "PATCH", "DELETE"]
    assert json.loads(api.asked[1].body) == value
    assert api.asked[2].headers["content-type"] == "application/json-patch+json"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            refusal(403, 'secrets is forbidden: User "u" cannot'),
            ClusterRightError,
            "not allowed on this cluster: secrets",
        ),
        (refusal(401, "Unauthorized"), ClusterAccessError, "does not know who asks.*kubeconfig"),
        (refusal(409, "the object has been modified"), ClusterConflictError, "modified"),
        (refusal(422, "testing value /metadata/resourceVersion failed"), ClusterConflictError, "testing"),
        (refusal(422, "spec.x: Invalid value"), ClusterError, "answered 422: spec.x: Invalid value"),
        (refusal(500, "broken"), ClusterError, "answered 500"),
        (HttpResponse(200, b"no json"), ClusterAccessError, "names no cluster that can be used"),
        (HttpResponse(400, b"no json"), ClusterError, "answered 400"),
    ],
)
async def test_each_refusal_is_one_line(
    api: Api, cluster: KubernetesCluster, answer: HttpResponse, error: type[ClusterError], words: str
) -> None:
    api.answer = lambda request: answer
    with pytest.raises(error, match=words) as caught:
        await cluster.create(SECRET, {"metadata": {"name": "s"}}, namespace="shop")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert "secret-token" not in str(caught.value)


async def test_a_right_is_asked_for_by_what_it_is_about(api: Api, cluster: KubernetesCluster) -> None:
    api.answer = lambda request: said(201, {"status": {"allowed": True}})
    assert await cluster.may("create", DEPLOYMENT, namespace="shop") is True
    asked = json.loads(api.asked[-1].body)["spec"]["resourceAttributes"]
    assert asked == {"verb": "create", "group": "apps", "resource": "deployments", "namespace": "shop"}
    api.answer = lambda request: said(201, {"status": {}})
    assert await cluster.may("list", NODE) is False


@pytest.mark.parametrize("content", [None, "", "{", "{}", "current-context: none", "[1]"])
async def test_a_kubeconfig_that_is_none_is_one_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClusterAccessError, match="names no cluster that can be used") as caught:
        async with KubernetesCluster(kubeconfig=file):
            pass
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


async def unusable(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of a kubeconfig after a change."""
    config = yaml.safe_load((folder / "kubeconfig").read_text())
    change(config)
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    with pytest.raises(ClusterAccessError) as caught:
        async with KubernetesCluster(kubeconfig=folder / "kubeconfig"):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("script", "words"), [("echo expired >&2; exit 1", r"\(expired\); log in anew"), ("exit 1", "says nothing of why")]
)
async def test_a_program_for_credentials_that_fails_is_told(api: Api, tmp_path: Path, script: str, words: str) -> None:
    way = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script]}
    said = await unusable(tmp_path, lambda config: config["users"][0].update(user={"exec": way}))
    assert re.search(f"kubeconfig names for credentials fails .*{words}", said)
    assert "\n" not in said


async def test_what_a_kubeconfig_lacks_is_named(api: Api, tmp_path: Path) -> None:
    assert "it lacks 'current-context'" in await unusable(tmp_path, lambda config: config.pop("current-context"))


async def test_a_key_that_a_kubeconfig_names_and_that_is_gone_is_told(api: Api, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
        config["users"][0]["user"] = {"client-certificate": "/gone.crt", "client-key": "/gone.key"}

    assert "a file with a certificate or key that it names is not there" in await unusable(tmp_path, change)


async def test_keys_of_the_kubeconfig_do_not_stay_behind(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    config["users"][0]["user"]["client-key-data"] = "QUFB"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    async with KubernetesCluster(kubeconfig=tmp_path / "kubeconfig"):
        assert any(names for _, _, names in os.walk(temporary))
    assert list(temporary.iterdir()) == []
