"""Predictions over TensorFlow Serving's REST interface: slower than gRPC, and readable by any program."""

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from tacit.client.address import REST_PORT, parse_address
from tacit.client.channel import HttpsChannel
from tacit.client.inference.values import (
    Array,
    Prediction,
    VersionStatus,
    check_name,
    check_version,
    output_of,
    tensor_of,
)
from tacit.errors import InputError, PeerError, RequestError, Status
from tacit.pki.tls import client_context
from tacit.wire.rest import JSON_ERRORS
from tacit.wire.tensor import DT_STRING


class _State(msgspec.Struct):
    error_message: str = ""


class _Version(msgspec.Struct):
    version: str | int
    state: str
    status: _State


class _Versions(msgspec.Struct):
    versions: list[_Version] = msgspec.field(name="model_version_status", default_factory=list)


class RestServingClient:
    """TensorFlow Serving's REST interface at one address: slower than gRPC, and readable by any program."""

    def __init__(self, address: str, *, roots_pem: bytes, timeout: float = 60.0) -> None:
        parsed = parse_address(address, default_port=REST_PORT)
        self._channel = HttpsChannel(parsed, client_context(roots_pem=roots_pem), timeout=timeout)

    @classmethod
    def from_channel(cls, channel: HttpsChannel) -> Self:
        """A client over a channel that the caller prepared (`tacit.client.bound`)."""
        client = cls.__new__(cls)
        client._channel = channel
        return client

    def predict(
        self, model: str, inputs: Mapping[str, Array], *, version: int | None = None, signature_name: str = ""
    ) -> Prediction:
        """The model's outputs for `inputs`, by name; types are the server's choice, as JSON has none.

        Raises: as `ServingClient.predict`.
        """
        for name in inputs:
            check_name(name, "an input")
        check_name(signature_name, "a signature")
        check_version(version)
        values = {name: _json_value(name, array) for name, array in inputs.items()}
        body = {"inputs": values} | ({"signature_name": signature_name} if signature_name else {})
        path = _path(model) + ("" if version is None else f"/versions/{version}")
        answer = self._call("POST", f"{path}:predict", msgspec.json.encode(body))
        found = answer.get("outputs")
        named = found if isinstance(found, dict) else {"output": found}
        try:
            return Prediction({name: np.asarray(value) for name, value in named.items()}, version)
        except (ValueError, OverflowError) as exc:
            raise PeerError(f"{self._channel.url(path)} answers with an output that is none: {exc}") from exc

    def status(self, model: str) -> tuple[VersionStatus, ...]:
        """The model's versions, highest first. Raises: RequestError, ConnectError."""
        path = _path(model)
        answer = self._call("GET", path, None)
        try:
            return tuple(
                VersionStatus(int(one.version), one.state, one.status.error_message)
                for one in msgspec.convert(answer, _Versions).versions
            )
        except (msgspec.ValidationError, ValueError) as exc:
            raise PeerError(f"{self._channel.url(path)} answers with versions that are none: {exc}") from exc

    def close(self) -> None:
        """End the connections."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        answer = self._channel.call(method, path, body=body)
        try:
            value: dict[str, Any] | None = msgspec.json.decode(answer.body, type=dict[str, Any])
        except JSON_ERRORS:
            value = _decode_with_infinities(answer.body)
        if value is None:
            raise PeerError(f"{method} {self._channel.url(path)}: {answer.status} {answer.phrase}, and no JSON object")
        if answer.status != 200:
            raise RequestError(_HTTP_STATUS.get(answer.status, Status.UNKNOWN), str(value.get("error", answer.phrase)))
        return value


_HTTP_STATUS = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    409: Status.ALREADY_EXISTS,
    429: Status.RESOURCE_EXHAUSTED,
    499: Status.CANCELLED,
    500: Status.INTERNAL,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def _path(model: str) -> str:
    """Of this model, and nothing that stands above or below it. Raises: InputError."""
    check_name(model, "a model")
    if not model or "/" in model or model in (".", ".."):
        raise InputError(f"{model!r} is no name of a model that an address could hold")
    return f"/v1/models/{model}"


def _json_value(name: str, array: Array) -> Any:
    """Nested lists; bytes become the protocol's base64 objects. Raises: InputError."""
    tensor = tensor_of(name, array)
    if tensor.dtype == DT_STRING:
        return _base64_objects(np.asarray(array).tolist())  # as it was given: what was text stays text
    array = output_of(tensor)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"input {name!r} holds infinities or NaN, which JSON cannot; use gRPC")
    if array.dtype.kind == "c":
        raise InputError(f"input {name!r} is complex, which JSON cannot hold; use gRPC")
    return array.tolist()


def _base64_objects(value: Any) -> Any:
    if isinstance(value, list):
        return [_base64_objects(item) for item in value]
    return {"b64": value} if isinstance(value, bytes) else value  # msgspec writes bytes as base64


def _decode_with_infinities(body: bytes) -> dict[str, Any] | None:
    """JSON with bare NaN and Infinity, as the protocol writes them; None if it is no JSON object."""
    import json

    try:
        value = json.loads(
            body, parse_constant={"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.__getitem__
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
