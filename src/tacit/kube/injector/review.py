"""From the bytes of an admission review to the bytes of its answer.

Source: Kubernetes' `admission.k8s.io/v1`, and `v1beta1`, which has the same fields.
"""

import base64
from typing import Any

import msgspec

from tacit.errors import AdmissionError
from tacit.kube.injector.patch import Patch, Pod, Settings, patch_pod

_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
_KIND = "AdmissionReview"


class _Kind(msgspec.Struct):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Request(msgspec.Struct):
    uid: str
    kind: _Kind = msgspec.field(default_factory=_Kind)
    namespace: str = ""
    operation: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct):
    apiVersion: str  # noqa: N815 -- Kubernetes' name
    kind: str
    request: _Request | None = None


def answer_review(raw: bytes, settings: Settings) -> tuple[bytes, str]:
    """The answer to a review, and a line about it for the log.

    A pod that is to start as a marble is patched; one that is none passes as it is, as does whatever is no new pod.

    Raises:
        AdmissionError: no review of a pod; says what was expected.
    """
    try:
        review = msgspec.json.decode(raw, type=_Review)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise AdmissionError(f"no admission review: {exc}; expected one of admission.k8s.io/v1") from exc
    if review.apiVersion not in _VERSIONS or review.kind != _KIND:
        raise AdmissionError(f"no admission review: expected {_KIND} of {' or '.join(_VERSIONS)}")
    request = review.request
    if request is None:
        raise AdmissionError("an admission review without a request; nothing is to be reviewed")
    if (request.kind.group, request.kind.kind) != ("", "Pod") or request.operation not in ("CREATE", ""):
        return _render(review, {"uid": request.uid, "allowed": True}), "passed: no new pod"
    try:
        pod = msgspec.json.decode(request.object, type=Pod)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise AdmissionError(f"an admission review of a pod that is none: {exc}") from exc
    try:
        patch = patch_pod(pod, namespace=request.namespace, uid=request.uid, settings=settings)
    except AdmissionError as exc:
        return _render(review, _refusal(request.uid, str(exc))), f"refused: {exc}"
    if patch is None:
        return _render(review, {"uid": request.uid, "allowed": True}), "passed: no marble"
    return _render(review, _acceptance(request.uid, patch)), f"prepared: marble of type {patch.marble_type}"


def _acceptance(uid: str, patch: Patch) -> dict[str, Any]:
    message = f"Mutation request for pod of marble type [{patch.marble_type}] successful"
    response: dict[str, Any] = {
        "uid": uid,
        "allowed": True,
        "status": {"status": "Success", "message": message},
    }
    if patch.operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(patch.operations)).decode()
    if patch.warnings:
        response["warnings"] = list(patch.warnings)
    return response


def _refusal(uid: str, message: str) -> dict[str, Any]:
    return {"uid": uid, "allowed": False, "status": {"status": "Failure", "message": message, "code": 403}}


def _render(review: _Review, response: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": review.apiVersion, "kind": _KIND, "response": response})
