"""Reviews from bytes to bytes, and the door that takes them."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.edge import HttpRequest
from tacit.errors import AdmissionError
from tacit.kube.injector.patch import Settings
from tacit.kube.injector.review import answer_review
from tacit.kube.injector.webhook import Webhook

POD = {"metadata": {"labels": {"marblerun/marbletype": "Frontend"}}, "spec": {"containers": [{"name": "c"}]}}


def a_review(pod: Any = POD, version: str = "admission.k8s.io/v1", **request: Any) -> dict[str, Any]:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    asked = {"uid": "a-1", "kind": kind, "namespace": "shop", "operation": "CREATE", "object": pod, **request}
    return {"apiVersion": version, "kind": "AdmissionReview", "request": asked}


def answer(review: Any) -> dict[str, Any]:
    raw = review if isinstance(review, bytes) else json.dumps(review).encode()
    done: dict[str, Any] = json.loads(answer_review(raw, Settings())[0])
    return done


@pytest.mark.parametrize("version", ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"])
def test_a_marble_is_let_in_with_a_patch(version: str) -> None:
    done = answer(a_review(version=version))
    assert (done["apiVersion"], done["kind"]) == (version, "AdmissionReview")
    response = done["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == ("a-1", True, "JSONPatch")
    assert response["status"]["message"] == "Mutation request for pod of marble type [Frontend] successful"
    operations = json.loads(base64.b64decode(response["patch"]))
    assert operations[0]["path"] == "/spec/containers/0/env"


def test_an_empty_label_is_denied_and_carries_no_patch() -> None:
    response = answer(a_review({"metadata": {"labels": {"marblerun/marbletype": ""}}, "spec": {}}))["response"]
    assert response["allowed"] is False
    assert response["status"]["message"] == "Empty [marblerun/marbletype] label, request denied"
    assert "patch" not in response


@pytest.mark.parametrize(
    "review",
    [
        a_review({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}),
        a_review({"metadata": {}, "spec": {}}),
        a_review(kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
        a_review(operation="DELETE", object=None),
    ],
)
def test_what_is_no_new_marble_is_never_held_up(review: dict[str, Any]) -> None:
    assert answer(review)["response"] == {"uid": "a-1", "allowed": True}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no admission review"),
        (b"{", "no admission review"),
        (b"[]", "no admission review"),
        (b"\xff\xfe", "no admission review"),
        (b'{"apiVersion": "v1", "kind": "Pod"}', "expected AdmissionReview of admission.k8s.io/v1"),
        (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "without a request"),
        (json.dumps(a_review("text")).encode(), "a pod that is none"),
        (json.dumps(a_review({"spec": {"containers": 3}})).encode(), "a pod that is none"),
        (b"[" * 100_000, "no admission review"),
    ],
)
def test_what_is_no_review_is_refused_in_words(raw: bytes, words: str) -> None:
    with pytest.raises(AdmissionError, match=words):
        answer_review(raw, Settings())


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_are_answered_or_refused(raw: bytes) -> None:
    with suppress(AdmissionError):
        answered, note = answer_review(raw, Settings())
        assert json.loads(answered)["response"]["allowed"] in (True, False)
        assert note


def request(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> HttpRequest:
    return HttpRequest(method, path, "", {"content-type": kind}, body, None)


async def test_the_door_takes_reviews_and_says_that_it_is_well() -> None:
    webhook = Webhook(Settings())
    body = json.dumps(a_review()).encode()
    done = await webhook.handle(request("POST", "/mutate", body, "application/json; charset=utf-8"))
    assert (done.status, done.headers["content-type"]) == (200, "application/json")
    assert json.loads(done.body)["response"]["allowed"] is True
    assert (await webhook.handle(request("GET", "/healthz"))).status == 200


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (request("GET", "/mutate"), 405, b"takes POST"),
        (request("POST", "/healthz"), 405, b"takes GET"),
        (request("POST", "/"), 404, b"/mutate"),
        (request("POST", "/mutate", b"{}", "text/plain"), 415, b"application/json"),
        (request("POST", "/mutate", b"{}"), 400, b"no admission review"),
    ],
)
async def test_the_door_refuses_in_words(asked: HttpRequest, status: int, words: bytes) -> None:
    done = await Webhook(Settings()).handle(asked)
    assert done.status == status
    assert words in done.body
