"""Predictions over TensorFlow Serving's protocols, gRPC and REST, to servers that an attested coordinator vouches for.

TLS is verified against the certificates that the caller brings (the coordinator's intermediate), and nothing else: no
system certificates, no proxy from the environment, no way to plaintext but the constructor that is named for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import msgspec
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from tacit.client.address import GRPC_PORT, REST_PORT, Address, parse_address
from tacit.client.channel import HttpsChannel, way_to
from tacit.errors import InputError, PeerError, RequestError, Status, TacitError, TlsError, UnreachableError
from tacit.pki.keys import KeyPair
from tacit.pki.tls import client_context
from tacit.wire.pb import serving_pb2
from tacit.wire.rest import JSON_ERRORS
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, Tensor, encode_tensor, parse_tensor, type_name

Array = NDArray[Any]
_M = TypeVar("_M", bound=Message)

_SERVICE = "/tensorflow.serving.PredictionService/"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "tacit"),
)
# Types that several numpy types could stand for; a plain array means the first.
_TYPE_OF_DTYPE = {
    kind.memory: number for number, kind in reversed(ELEMENT_TYPES.items()) if not kind.name.startswith(("q", "bfloat"))
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as the model declares it: TensorFlow's type number, and its shape with -1 for a free size.

    `shape` is None where the model does not say.
    """

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model on a server: its number, its state (`AVAILABLE`, `LOADING`, ...), and its error if any."""

    version: int
    state: str
    error: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays by output name, and the version of the model that computed them (None where the server does not say)."""

    outputs: Mapping[str, Array]
    version: int | None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client shows of itself where the manifest's `Clients` say who may call: a certificate, a token, or both."""

    certificate: KeyPair | None = None
    token: str = field(default="", repr=False)


class ServingClient:
    """TensorFlow Serving's gRPC services at one address."""

    _metadata: tuple[tuple[str, str], ...] = ()

    def __init__(
        self, address: str, *, roots_pem: bytes, timeout: float = 60.0, credential: Credential | None = None
    ) -> None:
        shown = credential.certificate if credential else None
        credentials = grpc.ssl_channel_credentials(
            root_certificates=roots_pem,
            private_key=shown.key_pem if shown else None,
            certificate_chain=shown.certificate_pem if shown else None,
        )
        if credential and credential.token:
            if not credential.token.isascii() or not credential.token.isprintable():
                raise InputError("a bearer token is one line of ASCII text")
            self._metadata = (("authorization", f"Bearer {credential.token}"),)
        parsed = parse_address(address, default_port=GRPC_PORT)
        way = way_to(parsed)
        named = () if way == parsed else (("grpc.ssl_target_name_override", parsed.host),)
        self._start(parsed, grpc.secure_channel(str(way), credentials, options=[*_OPTIONS, *named]), timeout)

    @classmethod
    def without_tls(cls, address: str, *, timeout: float = 60.0) -> Self:
        """A client whose requests anybody on the way can read and change: for servers that have no TLS."""
        client = cls.__new__(cls)
        parsed = parse_address(address, default_port=GRPC_PORT)
        client._start(parsed, grpc.insecure_channel(str(parsed), options=_OPTIONS), timeout)
        return client

    def _start(self, address: Address, channel: grpc.Channel, timeout: float) -> None:
        self._address = address
        self._channel = channel
        self._timeout = timeout

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: int | None = None,
        signature_name: str = "",
        outputs: Sequence[str] = (),
    ) -> Prediction:
        """The model's outputs for `inputs`, whose types go to the server as they are.

        Raises:
            InputError: an array of a type that has no tensor.
            RequestError: the server refuses; with its canonical status.
            ConnectError: nobody answers, or TLS fails.
        """
        request = serving_pb2.PredictRequest(output_filter=outputs)
        _fill_spec(request.model_spec, model, version, signature_name)
        for name, array in inputs.items():
            encode_tensor(_tensor(name, array), request.inputs[name], as_content=True)
        answer = self._call(_SERVICE + "Predict", request, serving_pb2.PredictResponse)
        found = {name: parse_tensor(proto).array for name, proto in answer.outputs.items()}
        return Prediction(found, answer.model_spec.version.value if answer.model_spec.HasField("version") else None)

    def signatures(self, model: str, *, version: int | None = None) -> Mapping[str, Signature]:
        """The model's signatures by name. Raises: RequestError, ConnectError."""
        request = serving_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        _fill_spec(request.model_spec, model, version)
        answer = self._call(_SERVICE + "GetModelMetadata", request, serving_pb2.GetModelMetadataResponse)
        found = serving_pb2.SignatureDefMap()
        try:
            found.ParseFromString(answer.metadata["signature_def"].value)
        except DecodeError as exc:
            raise PeerError(f"{self._address}: the metadata of model {model!r} cannot be read ({exc})") from exc
        return {
            name: Signature(_specs(signature.inputs), _specs(signature.outputs))
            for name, signature in found.signature_def.items()
        }

    def status(self, model: str, *, version: int | None = None) -> tuple[VersionStatus, ...]:
        """The model's versions, highest first. Raises: RequestError, ConnectError."""
        request = serving_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, model, version)
        answer = self._call(_MODEL_SERVICE + "GetModelStatus", request, serving_pb2.GetModelStatusResponse)
        return tuple(
            VersionStatus(found.version, _state_name(found.state), found.status.error_message)
            for found in answer.model_version_status
        )

    def close(self) -> None:
        """End the connections."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, request: Message, answer: type[_M]) -> _M:
        parse: Callable[[bytes], _M] = answer.FromString
        call = self._channel.unary_unary(method, type(request).SerializeToString, parse)
        try:
            return call(request, timeout=self._timeout, metadata=self._metadata)  # type: ignore[no-any-return]  # grpcio has no types
        except grpc.RpcError as exc:
            raise _grpc_error(self._address, exc, self._timeout) from exc


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
        values = {name: _json_value(name, array) for name, array in inputs.items()}
        body = {"inputs": values} | ({"signature_name": signature_name} if signature_name else {})
        path = f"/v1/models/{model}" + ("" if version is None else f"/versions/{version}")
        answer = self._call("POST", f"{path}:predict", msgspec.json.encode(body))
        found = answer.get("outputs")
        if isinstance(found, dict):
            return Prediction({name: np.asarray(value) for name, value in found.items()}, version)
        return Prediction({"output": np.asarray(found)}, version)

    def status(self, model: str) -> tuple[VersionStatus, ...]:
        """The model's versions, highest first. Raises: RequestError, ConnectError."""
        answer = self._call("GET", f"/v1/models/{model}", None)
        return tuple(
            VersionStatus(int(found["version"]), found["state"], found["status"]["error_message"])
            for found in answer.get("model_version_status", ())
        )

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


def fit_to(spec: TensorSpec, name: str, value: object) -> Array:
    """`value` as an array of the type that the model declares.

    Lists take the declared type; an array is converted within its kind (float64 to float32, say) or to a wider one.

    Raises:
        InputError: no array, or one whose values would change their meaning.
    """
    declared = ELEMENT_TYPES.get(spec.dtype)
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise InputError(f"input {name!r} is no array: {exc}") from exc
    if declared is None or declared.memory == array.dtype or spec.dtype == DT_STRING:
        return array
    if not isinstance(value, np.ndarray) and array.dtype.kind in "iufb" and declared.memory.kind in "iuf":
        converted = array.astype(declared.memory)
        if declared.memory.kind == "f" or np.array_equal(converted, array):
            return converted
    if np.can_cast(array.dtype, declared.memory, casting="same_kind"):
        return array.astype(declared.memory)
    raise InputError(f"input {name!r} is {array.dtype}, and the model takes {type_name(spec.dtype)}; convert it first")


def _tensor(name: str, array: Array) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind in "USO":
        flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        if not all(isinstance(item, bytes) for item in flat):
            raise InputError(f"input {name!r} holds Python objects; expected numbers, strings or bytes")
        strings = np.empty(len(flat), dtype=object)
        strings[:] = flat
        return Tensor(DT_STRING, strings.reshape(array.shape))
    number = _TYPE_OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise InputError(f"input {name!r} is {array.dtype}, which no tensor can hold")
    return Tensor(number, array)


def _specs(found: Mapping[str, Any]) -> Mapping[str, TensorSpec]:
    return {
        name: TensorSpec(
            info.dtype,
            None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in found.items()
    }


def _fill_spec(spec: serving_pb2.ModelSpec, model: str, version: int | None, signature_name: str = "") -> None:
    spec.name = model
    spec.signature_name = signature_name
    if version is not None:
        spec.version.value = version


def _state_name(state: int) -> str:
    try:
        return str(serving_pb2.ModelVersionStatus.State.Name(state))
    except ValueError:
        return f"STATE {state}"


def _grpc_error(address: Address, exc: grpc.RpcError, timeout: float) -> TacitError:
    """What a failed call means: the way to the server, or the server's own refusal."""
    code, details = exc.code(), exc.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        lower = details.lower()
        if "hostname verification check failed" in lower or "not in peer certificate" in lower:
            return TlsError(
                f"the certificate of {address} does not name it; connect by a name that it has, "
                f"or start the server with EDG_MARBLE_DNS_NAMES={address.host}"
            )
        if "certificate_verify_failed" in lower:
            return TlsError(
                f"the certificate of {address} does not lead to the attested coordinator: it is another server, "
                "or the manifest was updated since; connect to the coordinator again"
            )
        if "ssl" in lower or "tls" in lower:
            return TlsError(f"TLS with {address} failed; does that port speak TLS? ({details[:200]})")
        if "failed to connect" in lower or "dns" in lower or "resolution" in lower or "socket closed" in lower:
            return UnreachableError(
                f"nobody answers at {address}; check the address, and that it is running ({details[:200]})"
            )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RequestError(Status.DEADLINE_EXCEEDED, f"{address}: no answer within {timeout:.0f} s")
    return RequestError(Status(code.value[0]), details)


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


def _json_value(name: str, array: Array) -> Any:
    """Nested lists; bytes become the protocol's base64 objects. Raises: InputError."""
    array = np.asarray(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"input {name!r} holds infinities or NaN, which JSON cannot; use gRPC")
    if array.dtype.kind == "c":
        raise InputError(f"input {name!r} is complex, which JSON cannot hold; use gRPC")
    if array.dtype.kind in "SO":
        return _base64_objects(array.tolist())
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
