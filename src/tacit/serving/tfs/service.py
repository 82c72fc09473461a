"""TensorFlow Serving's gRPC methods: bytes in, bytes out.

Source: tensorflow_serving/apis/{prediction_service,model_service}.proto.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from google.protobuf.message import DecodeError, Message

from tacit.edge import GrpcCall, GrpcHandler
from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.serving.callers import caller_of
from tacit.serving.plane import Plane, Prediction, Selector, Wire, as_it_is
from tacit.serving.tfs.inference import CLASSIFY, REGRESS, Classified, Inference, Regressed, check_tasks
from tacit.serving.tfs.meter import Measured, Meter, NoMeter
from tacit.wire.direct.prediction import encode_prediction
from tacit.wire.direct.repeats import Repeats
from tacit.wire.pb import serving_config_pb2 as config_wire
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.pb import tensorflow_pb2 as tensorflow
from tacit.wire.tensor import DT_BOOL, DT_STRING, VALUE_FIELDS, Tensor, encode_tensor, parse_tensor, read_content

_METADATA_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"


Reload = Callable[[config_wire.ModelServerConfig, float | None], Awaitable[None]]
"""Puts a configuration into force, within seconds. Raises: RequestError."""


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """`as_content` answers in `tensor_content`; `check_methods` holds signatures to their own method."""

    as_content: bool = False
    check_methods: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a PredictRequest with one tensor of numbers, as bytes, asks: but for its values and who sent it."""

    model: str
    version: int | None
    label: str | None
    signature: str
    outputs: tuple[str, ...]
    alias: str
    dtype: int
    shape: tuple[int, ...]


class TfsService:
    """Answers PredictionService and ModelService; SessionService is UNIMPLEMENTED, as in the original."""

    def __init__(
        self,
        plane: Plane,
        options: GrpcOptions | None = None,
        *,
        reload: Reload | None = None,
        meter: Meter | None = None,
    ) -> None:
        options = options or GrpcOptions()
        self._plane = plane
        self._as_content = options.as_content
        self._reload = reload
        self._meter = meter or NoMeter()
        self._inference = Inference(plane, check_methods=options.check_methods, meter=self._meter)
        # The examples of several tasks are those of one request, which are counted once.
        self._task = Inference(plane, check_methods=options.check_methods)
        self._repeats = Repeats[_Asked]()

    def handlers(self) -> Mapping[str, GrpcHandler]:
        """One handler per method path."""
        return {
            _PREDICTION + "Predict": self.predict,
            _PREDICTION + "Classify": self.classify,
            _PREDICTION + "Regress": self.regress,
            _PREDICTION + "MultiInference": self.multi_inference,
            _PREDICTION + "GetModelMetadata": self.get_model_metadata,
            _MODEL + "GetModelStatus": self.get_model_status,
            _MODEL + "HandleReloadConfigRequest": self.handle_reload_config,
        }

    async def predict(self, message: bytes, call: GrpcCall) -> bytes:
        """PredictRequest to PredictResponse."""
        with Measured(self._meter, "Predict", "GRPC", deadline=call.deadline) as seen:
            repeated = self._repeats.find(message)
            if repeated is None:
                request = wire.PredictRequest()
                read_message(request, message)
                seen.model = request.model_spec.name
                prediction = await self._predict(
                    _selector(request.model_spec, call),
                    request.model_spec.signature_name,
                    request.inputs,
                    call,
                    decode=decode_tensor,
                    outputs=request.output_filter,
                )
                self._remember(message, request)
            else:
                asked, begin = repeated
                seen.model = asked.model
                prediction = await self._predict(
                    Selector(asked.model, asked.version, asked.label, caller_of(call.peer_certificate, call.metadata)),
                    asked.signature,
                    {asked.alias: read_content(message, begin, asked.dtype, asked.shape)},
                    call,
                    decode=as_it_is,
                    outputs=asked.outputs,
                )
            made_by = prediction.model, prediction.version, prediction.signature
            return encode_prediction(*made_by, prediction.outputs, as_content=self._as_content)

    async def _predict(
        self,
        selector: Selector,
        signature: str,
        inputs: Mapping[str, Wire],
        call: GrpcCall,
        *,
        decode: Callable[[str, Wire], Tensor],
        outputs: Sequence[str],
    ) -> Prediction:
        return await self._plane.predict(
            selector, signature, inputs, decode=decode, output_filter=outputs, deadline=_deadline(call)
        )

    def _remember(self, message: bytes, request: wire.PredictRequest) -> None:
        """A request was answered, and one like it need not be parsed; the values of a tensor are nobody's to keep."""
        if len(request.inputs) != 1:
            return
        ((alias, tensor),) = request.inputs.items()
        given = {field.name for field, _ in tensor.ListFields()}
        if "tensor_content" not in given or given & VALUE_FIELDS or tensor.dtype in (DT_STRING, DT_BOOL):
            return
        spec = _selector(request.model_spec, None)
        asked = spec.model, spec.version, spec.label, request.model_spec.signature_name, tuple(request.output_filter)
        shape = tuple([dim.size for dim in tensor.tensor_shape.dim])
        self._repeats.remember(message, tensor.tensor_content, _Asked(*asked, alias, tensor.dtype, shape))

    async def classify(self, message: bytes, call: GrpcCall) -> bytes:
        """ClassificationRequest to ClassificationResponse."""
        with Measured(self._meter, "Classify", "GRPC", deadline=call.deadline) as seen:
            request = wire.ClassificationRequest()
            read_message(request, message)
            seen.model = request.model_spec.name
            _require_spec(request.HasField("model_spec"))
            spec = request.model_spec
            found = await self._inference.classify(
                _selector(spec, call), spec.signature_name, serialized_examples(request.input), deadline=_deadline(call)
            )
            response = wire.ClassificationResponse(model_spec=_made_by(found.made_by))
            _write_classes(found, response.result)
            return response.SerializeToString()

    async def regress(self, message: bytes, call: GrpcCall) -> bytes:
        """RegressionRequest to RegressionResponse."""
        with Measured(self._meter, "Regress", "GRPC", deadline=call.deadline) as seen:
            request = wire.RegressionRequest()
            read_message(request, message)
            seen.model = request.model_spec.name
            _require_spec(request.HasField("model_spec"))
            spec = request.model_spec
            found = await self._inference.regress(
                _selector(spec, call), spec.signature_name, serialized_examples(request.input), deadline=_deadline(call)
            )
            response = wire.RegressionResponse(model_spec=_made_by(found.made_by))
            _write_values(found, response.result)
            return response.SerializeToString()

    async def multi_inference(self, message: bytes, call: GrpcCall) -> bytes:
        """MultiInferenceRequest to MultiInferenceResponse; the tasks run side by side, on one version."""
        request = wire.MultiInferenceRequest()
        read_message(request, message)
        first = request.tasks[0].model_spec if request.tasks else wire.ModelSpec()
        served = self._plane.find(_selector(first, call))
        tasks = [
            (task.model_spec.name, task.model_spec.signature_name or SERVING_DEFAULT, task.method_name)
            for task in request.tasks
        ]
        check_tasks(tasks, served.signatures)
        selector = msgspec.structs.replace(_selector(first, call), version=served.version, label=None)
        examples, deadline = serialized_examples(request.input), _deadline(call)
        methods: dict[str, Callable[..., Awaitable[Classified | Regressed]]] = {
            CLASSIFY: self._task.classify,
            REGRESS: self._task.regress,
        }
        if examples:
            self._meter.examples(served.name, len(examples))
        results = await asyncio.gather(
            *(methods[method](selector, key, examples, deadline=deadline) for _, key, method in tasks)
        )
        response = wire.MultiInferenceResponse()
        for found in results:
            result = response.results.add(model_spec=_made_by(found.made_by))
            if isinstance(found, Classified):
                _write_classes(found, result.classification_result)
            else:
                _write_values(found, result.regression_result)
        return response.SerializeToString()

    async def get_model_metadata(self, message: bytes, call: GrpcCall) -> bytes:
        """GetModelMetadataRequest to GetModelMetadataResponse; `signature_def` is the one field there is."""
        request = wire.GetModelMetadataRequest()
        read_message(request, message)
        _require_spec(request.HasField("model_spec"))
        if not request.metadata_field:
            raise RequestError(
                Status.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise RequestError(Status.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        served = self._plane.find(_selector(request.model_spec, call))
        response = wire.GetModelMetadataResponse()
        response.model_spec.name = served.name
        response.model_spec.version.value = served.version
        definition = response.metadata["signature_def"]
        # The type's address is TensorFlow's, not that of our own message.
        definition.type_url = _METADATA_TYPE
        definition.value = signature_map(served.signatures).SerializeToString()
        return response.SerializeToString()

    async def get_model_status(self, message: bytes, call: GrpcCall) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse, highest version first."""
        request = wire.GetModelStatusRequest()
        read_message(request, message)
        _require_spec(request.HasField("model_spec"))
        response = wire.GetModelStatusResponse()
        for status in self._plane.statuses(_selector(request.model_spec, call)):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.SetInParent()
            entry.status.error_code = status.code
            entry.status.error_message = status.message
        return response.SerializeToString()

    async def handle_reload_config(self, message: bytes, call: GrpcCall) -> bytes:
        """ReloadConfigRequest to ReloadConfigResponse, from who may manage this server."""
        self._plane.callers.check_management(caller_of(call.peer_certificate, call.metadata))
        request = wire.ReloadConfigRequest()
        read_message(request, message)
        if self._reload is None:
            raise RequestError(Status.UNIMPLEMENTED, "this server's models do not change while it runs")
        before = {name: self._meter.total(name) for name in request.metric_names}
        await self._reload(request.config, call.deadline)
        response = wire.ReloadConfigResponse()
        for name, value in before.items():
            response.metric.add(name=name, int64_value_increase=self._meter.total(name) - value)
        response.status.SetInParent()
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
        for alias, tensor in signature.defaults.items():
            encode_tensor(tensor, definition.defaults[alias])
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


def decode_tensor(alias: str, proto: tensorflow.TensorProto) -> Tensor:
    """One input of a request. Raises: RequestError, naming it."""
    try:
        return parse_tensor(proto)
    except RequestError as exc:
        raise RequestError(exc.status, f"tensor parsing error: {alias}: {exc}") from exc


def _selector(spec: wire.ModelSpec, call: GrpcCall | None) -> Selector:
    choice = spec.WhichOneof("version_choice")
    return Selector(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
        caller=caller_of(call.peer_certificate, call.metadata) if call else None,
    )


def read_message(into: Message, message: bytes) -> None:
    """Fill a message from bytes. Raises: RequestError INTERNAL, as gRPC itself answers."""
    try:
        into.ParseFromString(message)
    except DecodeError as exc:
        raise RequestError(Status.INTERNAL, "Exception deserializing request!") from exc


def _require_spec(given: bool) -> None:
    if not given:
        raise RequestError(Status.INVALID_ARGUMENT, "Missing ModelSpec")


def _deadline(call: GrpcCall) -> float | None:
    return None if call.deadline is None else time.monotonic() + call.deadline


def _made_by(prediction: Prediction) -> wire.ModelSpec:
    spec = wire.ModelSpec()
    _write_spec_of(prediction, spec)
    return spec


def _write_spec_of(prediction: Prediction, into: wire.ModelSpec) -> None:
    into.name, into.signature_name = prediction.model, prediction.signature
    into.version.value = prediction.version


def serialized_examples(given: wire.Input) -> list[bytes]:
    """The examples of an input, each with the context in front of it: what an example says itself comes last and wins."""
    if given.WhichOneof("kind") == "example_list_with_context":
        held = given.example_list_with_context
        return [held.context + example for example in held.examples]
    return list(given.example_list.examples)


def _write_classes(found: Classified, into: wire.ClassificationResult) -> None:
    into.SetInParent()
    for row in found.rows:
        classes = into.classifications.add().classes
        for label, score in row:
            classes.add(label=label.decode("utf-8", "replace"), score=score)


def _write_values(found: Regressed, into: wire.RegressionResult) -> None:
    into.SetInParent()
    for value in found.values:
        into.regressions.add(value=value)
