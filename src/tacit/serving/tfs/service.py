"""TensorFlow Serving's gRPC methods: bytes in, bytes out.

Source: tensorflow_serving/apis/{prediction_service,model_service}.proto.
"""

import time
from collections.abc import Mapping

from google.protobuf.message import DecodeError, Message

from tacit.edge import GrpcCall, GrpcHandler
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.plane import Plane, Prediction, Selector
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.pb import tensorflow_pb2 as tensorflow
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

_METADATA_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"


class TfsService:
    """Answers Predict, GetModelMetadata and GetModelStatus; the protocol's other methods are UNIMPLEMENTED."""

    def __init__(self, plane: Plane, *, as_content: bool = False) -> None:
        self._plane = plane
        self._as_content = as_content

    def handlers(self) -> Mapping[str, GrpcHandler]:
        """One handler per method path."""
        answered: dict[str, GrpcHandler] = {
            _PREDICTION + "Predict": self.predict,
            _PREDICTION + "GetModelMetadata": self.get_model_metadata,
            _MODEL + "GetModelStatus": self.get_model_status,
        }
        refused = [_PREDICTION + name for name in ("Classify", "Regress", "MultiInference")]
        refused.append(_MODEL + "HandleReloadConfigRequest")
        return answered | dict.fromkeys(refused, _unimplemented)

    async def predict(self, message: bytes, call: GrpcCall) -> bytes:
        """PredictRequest to PredictResponse."""
        deadline = None if call.deadline is None else time.monotonic() + call.deadline
        request = wire.PredictRequest()
        _read(request, message)
        prediction = await self._plane.predict(
            _selector(request.model_spec),
            request.model_spec.signature_name,
            request.inputs,
            decode=_decode,
            output_filter=request.output_filter,
            deadline=deadline,
        )
        return self._response(prediction)

    async def get_model_metadata(self, message: bytes, _call: GrpcCall) -> bytes:
        """GetModelMetadataRequest to GetModelMetadataResponse; `signature_def` is the one field there is."""
        request = wire.GetModelMetadataRequest()
        _read(request, message)
        if not request.HasField("model_spec"):
            raise RequestError(Status.INVALID_ARGUMENT, "Missing ModelSpec")
        if not request.metadata_field:
            raise RequestError(
                Status.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise RequestError(Status.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        served = self._plane.find(_selector(request.model_spec))
        response = wire.GetModelMetadataResponse()
        response.model_spec.name = served.name
        response.model_spec.version.value = served.version
        definition = response.metadata["signature_def"]
        # The type's address is TensorFlow's, not that of our own message.
        definition.type_url = _METADATA_TYPE
        definition.value = signature_map(served.signatures).SerializeToString()
        return response.SerializeToString()

    async def get_model_status(self, message: bytes, _call: GrpcCall) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse, highest version first."""
        request = wire.GetModelStatusRequest()
        _read(request, message)
        if not request.HasField("model_spec"):
            raise RequestError(Status.INVALID_ARGUMENT, "Missing ModelSpec")
        response = wire.GetModelStatusResponse()
        for status in self._plane.statuses(_selector(request.model_spec)):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.SetInParent()
            entry.status.error_code = status.code
            entry.status.error_message = status.message
        return response.SerializeToString()

    def _response(self, prediction: Prediction) -> bytes:
        response = wire.PredictResponse()
        response.model_spec.name = prediction.model
        response.model_spec.version.value = prediction.version
        response.model_spec.signature_name = prediction.signature
        for alias, tensor in prediction.outputs.items():
            encode_tensor(tensor, response.outputs[alias], as_content=self._as_content)
        return response.SerializeToString()


def signature_map(signatures: Mapping[str, Signature]) -> wire.SignatureDefMap:
    """Signatures as the message that metadata carries."""
    message = wire.SignatureDefMap()
    for key, signature in signatures.items():
        definition = message.signature_def[key]
        definition.method_name = signature.method
        for specs, target in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
            for alias, spec in specs.items():
                _write_spec(spec, target[alias])
    return message


def _write_spec(spec: TensorSpec, info: tensorflow.TensorInfo) -> None:
    info.name = spec.name
    info.dtype = spec.dtype  # type: ignore[assignment]
    info.tensor_shape.SetInParent()
    if spec.shape is None:
        info.tensor_shape.unknown_rank = True
    else:
        for size in spec.shape:
            info.tensor_shape.dim.add(size=size)


def _decode(alias: str, proto: tensorflow.TensorProto) -> Tensor:
    try:
        return parse_tensor(proto)
    except RequestError as exc:
        raise RequestError(exc.status, f"tensor parsing error: {alias}: {exc}") from exc


def _selector(spec: wire.ModelSpec) -> Selector:
    choice = spec.WhichOneof("version_choice")
    return Selector(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def _read(into: Message, message: bytes) -> None:
    try:
        into.ParseFromString(message)
    except DecodeError as exc:
        raise RequestError(Status.INTERNAL, "Exception deserializing request!") from exc


async def _unimplemented(_message: bytes, call: GrpcCall) -> bytes:
    raise RequestError(Status.UNIMPLEMENTED, f"{call.method} is not served here yet; Predict is")
