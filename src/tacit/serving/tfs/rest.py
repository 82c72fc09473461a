"""TensorFlow Serving's REST interface: status, metadata, predict, classify and regress.

    GET  /v1/models/NAME[/versions/N or /labels/L]             states of the versions
    GET  the same + /metadata                                   signatures
    POST the same + :predict                                    a prediction, row by row or by column
    POST the same + :classify, :regress                         labels with scores, or numbers, for examples

Source: tensorflow_serving/model_servers/http_rest_api_handler.cc, tensorflow.org/tfx/serving/api_rest.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
from google.protobuf import json_format

from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.pieces import inflate
from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.serving.callers import caller_of
from tacit.serving.plane import Plane, Selector
from tacit.serving.tfs.examples import parse_json_examples
from tacit.serving.tfs.inference import Inference
from tacit.serving.tfs.meter import Measured, Meter, NoMeter
from tacit.serving.tfs.values import check_json_size, encode_float, encode_text, encode_value, parse_json, parse_value
from tacit.wire.pb.tensorflow_pb2 import DataType, TensorProto
from tacit.wire.tensor import DT_STRING, Tensor, encode_tensor

MAX_INFLATED = 100 * 1024 * 1024  # bytes of a compressed body once inflated; TensorFlow Serving's limit

_HTTP_CODES = {
    Status.OK: 200,
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.OUT_OF_RANGE: 400,
    Status.UNAUTHENTICATED: 401,
    Status.PERMISSION_DENIED: 403,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.ABORTED: 409,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.CANCELLED: 499,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.DEADLINE_EXCEEDED: 504,
}

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(_MODEL + r":(?P<verb>predict|classify|regress)", re.IGNORECASE | re.ASCII)
_METADATA = re.compile(_MODEL + r"/metadata", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(_MODEL, re.IGNORECASE | re.ASCII)
_JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class RestOptions:
    """`check_methods` as in gRPC.

    `timeout` is seconds for a request and its run, `max_json` the bytes of a body once inflated. `metrics` answers a GET of `metrics_path`.
    """

    check_methods: bool = False
    timeout: float | None = None
    max_json: int | None = None
    metrics_path: str = ""
    metrics: Callable[[], HttpResponse] | None = None


class TfsRest:
    """The HTTP handler; its `handle` goes to `edge.serve_http`."""

    def __init__(self, plane: Plane, options: RestOptions | None = None, *, meter: Meter | None = None) -> None:
        self._plane = plane
        self._meter = meter or NoMeter()
        self._options = options or RestOptions()
        self._inference = Inference(plane, check_methods=self._options.check_methods, meter=self._meter)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The answer to one request; errors are JSON with one key, `error`."""
        options = self._options
        if options.metrics is not None and request.path == options.metrics_path and request.method in ("GET", "HEAD"):
            return options.metrics()
        if not request.path.lower().startswith("/v1/"):
            return HttpResponse(404, b"<html><body>Not Found</body></html>\n", {"content-type": "text/html"})
        try:
            return HttpResponse(200, await self._route(request), _JSON_HEADERS)
        except RequestError as exc:
            # A name in a request may hold half a character, which JSON can spell and UTF-8 cannot.
            body = orjson.dumps({"error": str(exc).encode("utf-8", "replace").decode()})
            return HttpResponse(_HTTP_CODES.get(exc.status, 500), body, _JSON_HEADERS)

    async def _route(self, request: HttpRequest) -> bytes:
        path = request.path
        if request.method == "POST" and (found := _INFERENCE.fullmatch(path)):
            with Measured(self._meter, found["verb"].lower(), "REST") as seen:
                selector = _selector(found, request)
                seen.model = selector.model
                # Before a byte is inflated or parsed for a stranger; TensorFlow Serving, which has none, parses first.
                self._plane.callers.check_model(selector.model, selector.caller)
                if found["verb"] == "predict":
                    return await self._predict(selector, self._body(request))
                if found["verb"] in ("classify", "regress"):
                    return await self._infer(selector, found["verb"], self._body(request))
                raise _malformed(request)
        elif request.method == "GET":
            if path.lower().rstrip("/") == "/v1/models":
                raise RequestError(Status.INVALID_ARGUMENT, "Missing model name in request.")
            if found := _METADATA.fullmatch(path):
                return self._metadata(_selector(found, request))
            if found := _STATUS.fullmatch(path):
                return self._status(_selector(found, request))
        raise _malformed(request)

    def _status(self, selector: Selector) -> bytes:
        versions = [
            {
                "version": str(status.version),
                "state": status.state.name,
                "status": {"error_code": status.code.name, "error_message": status.message},
            }
            for status in self._plane.statuses(selector)
        ]
        return orjson.dumps({"model_version_status": versions}, option=orjson.OPT_INDENT_2)

    def _metadata(self, selector: Selector) -> bytes:
        served = self._plane.find(selector)
        signatures = {key: _signature_json(signature) for key, signature in served.signatures.items()}
        answer = {
            "model_spec": {"name": served.name, "signature_name": "", "version": str(served.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
        return orjson.dumps(answer, option=orjson.OPT_INDENT_2)

    async def _predict(self, selector: Selector, body: bytes) -> bytes:
        document = _parse_object(body)
        key = _signature_name(document) or SERVING_DEFAULT
        served = self._plane.find(selector)
        signature = served.signatures.get(key)
        if signature is None:
            raise _refusal(f'Serving signature name: "{key}" not found in signature def')
        in_rows = _is_in_rows(document)
        inputs = _parse_rows(document["instances"], signature) if in_rows else _parse_columns(document, signature)
        outputs = tuple(signature.outputs)
        prediction = await self._plane.run(selector, served, key, inputs, outputs=outputs, deadline=self._deadline())
        return _encode_rows(prediction.outputs) if in_rows else _encode_columns(prediction.outputs)

    def _body(self, request: HttpRequest) -> bytes:
        body = _inflate(request)
        check_json_size(len(body), self._options.max_json)
        return body

    def _deadline(self) -> float | None:
        return None if self._options.timeout is None else time.monotonic() + self._options.timeout

    async def _infer(self, selector: Selector, verb: str, body: bytes) -> bytes:
        document = _parse_object(body)
        key, examples = _signature_name(document), parse_json_examples(document)
        if verb == "classify":
            classified = await self._inference.classify(selector, key, examples, deadline=self._deadline())
            rows = [
                b"[" + b",".join(b"[" + encode_text(label) + b"," + encode_float(score) + b"]" for label, score in row)
                for row in classified.rows
            ]
            return b'{"results":[' + b",".join(row + b"]" for row in rows) + b"]}"
        regressed = await self._inference.regress(selector, key, examples, deadline=self._deadline())
        return b'{"results":[' + b",".join(map(encode_float, regressed.values)) + b"]}"


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)


# ---- requests


def _malformed(request: HttpRequest) -> RequestError:
    return _refusal(f"Malformed request: {request.method} {request.path}")


def _parse_object(body: bytes) -> dict[str, Any]:
    document = parse_json(body)
    if not isinstance(document, dict):
        raise _refusal("Request data is not valid. Is not object")
    return document


def _signature_name(document: Mapping[str, Any]) -> str:
    key = document.get("signature_name", "")
    if not isinstance(key, str):
        raise _refusal("'signature_name' key must be a string value.")
    return key


def _selector(found: re.Match[str], request: HttpRequest) -> Selector:
    version = None
    if found["version"] is not None:
        # 2^63 and above cannot be a version; int() is not asked about hundreds of digits.
        digits = found["version"].lstrip("0") or "0"
        version = int(digits) if len(digits) < 20 else 2**63
        if version >= 2**63:
            raise _refusal(f"Failed to convert version: {found['version'][:40]} to numeric.")
    label = unquote(found["label"]) if found["label"] else None
    caller = caller_of(request.peer_certificate, request.headers)
    return Selector(unquote(found["name"]), version=version, label=label, caller=caller)


def _inflate(request: HttpRequest) -> bytes:
    if "gzip" not in request.headers.get("content-encoding", "").lower():
        return request.body
    beyond = _refusal(f"the body is more than {MAX_INFLATED} bytes once inflated; send it uncompressed or in parts")
    return inflate(request.body, "gzip", limit=MAX_INFLATED, beyond=beyond)


def _is_in_rows(document: Mapping[str, Any]) -> bool:
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise _refusal("Request has both 'instances' and 'inputs' keys; expecting only one of them")
    if not rows and not columns:
        raise _refusal("Missing 'inputs' or 'instances' key")
    return rows


def _parse_rows(instances: Any, signature: Signature) -> dict[str, Tensor]:
    """Inputs from a list with one entry per row; the rows become the first dimension."""
    if not isinstance(instances, list):
        raise _refusal("Expecting 'instances' value to be an list/array")
    if not instances:
        raise _refusal("No values in 'instances' array")
    if not _is_row_object(instances[0]):
        if len(signature.inputs) != 1:
            raise _refusal(
                f"instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                f"tensorinfo_map: {sorted(signature.inputs)}"
            )
        for index, row in enumerate(instances):
            if _is_row_object(row):
                raise _refusal(f"Expecting value/list but got object at item {index} of input list")
        ((alias, spec),) = signature.inputs.items()
        return {alias: _stack(instances, spec)}
    for index, row in enumerate(instances):
        if not _is_row_object(row):
            raise _refusal(f"Expecting object but got list at item {index} of input list")
        for alias in row:
            if alias not in signature.inputs:
                raise _refusal(f"Processing instances object at index: {index} does not have named input: {alias}")
        if missing := sorted(set(signature.inputs) - set(row)):
            raise _refusal(f"Failed to process element: {index} of 'instances' list. Missing named input: {missing[0]}")
    return {alias: _stack([row[alias] for row in instances], spec) for alias, spec in signature.inputs.items()}


def _is_row_object(row: Any) -> bool:
    """Whether a row names its inputs; an object with b64 alone is a value."""
    return isinstance(row, dict) and set(row) != {"b64"}


def _stack(rows: Sequence[Any], spec: TensorSpec) -> Tensor:
    try:
        return parse_value(list(rows), spec.dtype)
    except RequestError:
        _explain_rows(rows, spec)
        raise


def _explain_rows(rows: Sequence[Any], spec: TensorSpec) -> None:
    """Say which row differs from the first, in TensorFlow Serving's words, where that is what is wrong."""
    first = parse_value(rows[0], spec.dtype)
    for row in rows[1:]:
        tensor = parse_value(row, spec.dtype)
        if tensor.array.size != first.array.size:
            raise _refusal(f"Expecting tensor size: {first.array.size} but got: {tensor.array.size}")
        if tensor.shape != first.shape:
            raise _refusal(f"Expecting shape {_show(first.shape)} but got: {_show(tensor.shape)}")


def _show(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _parse_columns(document: Mapping[str, Any], signature: Signature) -> dict[str, Tensor]:
    """Inputs from whole tensors: one bare value for one input, or an object with every input's name."""
    inputs = document["inputs"]
    if not _is_row_object(inputs):
        if len(signature.inputs) != 1:
            raise _refusal(
                f"inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {sorted(signature.inputs)}"
            )
        ((alias, spec),) = signature.inputs.items()
        return {alias: parse_value(inputs, spec.dtype)}
    for alias in signature.inputs:
        if alias not in inputs:
            raise _refusal(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: parse_value(inputs[alias], spec.dtype) for alias, spec in signature.inputs.items()}


# ---- answers


def _encode_columns(outputs: Mapping[str, Tensor]) -> bytes:
    if len(outputs) == 1:
        ((alias, tensor),) = outputs.items()
        return b'{"outputs":' + _encode(alias, tensor) + b"}"
    members = (orjson.dumps(alias) + b":" + _encode(alias, tensor) for alias, tensor in sorted(outputs.items()))
    return b'{"outputs":{' + b",".join(members) + b"}}"


def _encode_rows(outputs: Mapping[str, Tensor]) -> bytes:
    rows = None
    for alias, tensor in sorted(outputs.items()):
        if not tensor.shape:
            raise _refusal(f"Tensor name: {alias} has no shape information")
        if rows is not None and tensor.shape[0] != rows:
            raise _refusal(f"Tensor name: {alias} has inconsistent batch size: {tensor.shape[0]} expecting: {rows}")
        rows = tensor.shape[0]
    if len(outputs) == 1:
        ((alias, tensor),) = outputs.items()
        return b'{"predictions":' + _encode(alias, tensor) + b"}"
    predictions = []
    for row in range(rows or 0):
        members = (
            orjson.dumps(alias) + b":" + _encode(alias, Tensor(tensor.dtype, np.asarray(tensor.array[row])))
            for alias, tensor in sorted(outputs.items())
        )
        predictions.append(b"{" + b",".join(members) + b"}")
    return b'{"predictions":[' + b",".join(predictions) + b"]}"


def _encode(alias: str, tensor: Tensor) -> bytes:
    return encode_value(tensor, as_bytes=tensor.dtype == DT_STRING and alias.endswith("_bytes"))


def _signature_json(signature: Signature) -> dict[str, Any]:
    """A SignatureDef with every field that TensorFlow Serving prints, those at their defaults too."""
    return {
        "inputs": {alias: _spec_json(spec) for alias, spec in sorted(signature.inputs.items())},
        "outputs": {alias: _spec_json(spec) for alias, spec in sorted(signature.outputs.items())},
        "method_name": signature.method,
        "defaults": {alias: _default_json(tensor) for alias, tensor in sorted(signature.defaults.items())},
    }


def _default_json(tensor: Tensor) -> Any:
    """A default value as protobuf's JSON writes it, every field that it has."""
    proto = TensorProto()
    encode_tensor(tensor, proto)
    return json_format.MessageToDict(proto, preserving_proto_field_name=True)


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": DataType.Name(spec.dtype),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape or ()],
            "unknown_rank": spec.shape is None,
        },
        "name": spec.name,
    }
