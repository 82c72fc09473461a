"""The protocol's gRPC methods: bytes in, bytes out.

Source: open-inference-protocol, grpc_service.proto; Triton's, which adds the methods beyond the first six.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from tacit.edge import GrpcCall, GrpcMethods, GrpcStreaming
from tacit.errors import RequestError, Status
from tacit.serving.callers import Caller, caller_of
from tacit.serving.oip import about
from tacit.serving.oip.question import (
    SHARED_MEMORY,
    Question,
    Wanted,
    answer,
    find,
    microseconds,
    refuse_shared_memory,
    refuse_to_share,
    select,
    whole_number,
)
from tacit.serving.plane import Plane, Selector, as_it_is, start_managing
from tacit.wire.contents import UNTYPED, encode_contents, parse_contents
from tacit.wire.direct.inference import encode_inference
from tacit.wire.direct.repeats import Repeats
from tacit.wire.pb import inference_pb2 as wire
from tacit.wire.raw_tensor import datatype_of, dtype_of, encode_raw, parse_raw
from tacit.wire.tensor import DT_BOOL, DT_STRING, Tensor, read_content

PATH = "/inference.GRPCInferenceService/"
_SHARED_MEMORY = [
    kind + name for kind in ("SystemSharedMemory", "CudaSharedMemory") for name in ("Status", "Register", "Unregister")
]
_FINAL = "triton_final_response"

Parsed = TypeVar("Parsed", bound=Message)
_Input = tuple[wire.InferTensor, bytes | None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a ModelInferRequest with one tensor of numbers, as raw bytes, asks: but for its values and who sent it."""

    model: str
    version: int | None
    wanted: Sequence[Wanted]
    name: str
    dtype: int
    shape: tuple[int, ...]


class OipService:
    """Answers all methods but those of shared memory, which are refused by name."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._repeats = Repeats[_Asked]()

    def handlers(self) -> GrpcMethods:
        """One handler per method path."""
        answered = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_load,
            "RepositoryModelUnload": self.repository_unload,
            "TraceSetting": self.trace_setting,
            "LogSettings": self.log_settings,
        }
        methods: dict[str, Any] = {PATH + name: handler for name, handler in answered.items()}
        methods[PATH + "ModelStreamInfer"] = GrpcStreaming(self.model_stream_infer)
        return methods | dict.fromkeys((PATH + name for name in _SHARED_MEMORY), _no_shared_memory)

    async def server_live(self, _message: bytes, _call: GrpcCall) -> bytes:
        """Whoever hears it is told that we live."""
        return wire.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, _message: bytes, _call: GrpcCall) -> bytes:
        """Whether every model answers."""
        return wire.ServerReadyResponse(ready=self._plane.models.ready).SerializeToString()

    async def model_ready(self, message: bytes, call: GrpcCall) -> bytes:
        """Whether one model answers: one that nobody knows does not, as in Triton, whose clients wait for models so."""
        request = _read(wire.ModelRequest, message)
        ready = about.answers(self._plane, select(request.name, request.version, _caller(call)))
        return wire.ModelReadyResponse(ready=ready).SerializeToString()

    async def server_metadata(self, _message: bytes, _call: GrpcCall) -> bytes:
        """Name, version and extensions."""
        return wire.ServerMetadataResponse(**about.server()).SerializeToString()

    async def model_metadata(self, message: bytes, call: GrpcCall) -> bytes:
        """A model's tensors."""
        request = _read(wire.ModelRequest, message)
        served = find(self._plane, select(request.name, request.version, _caller(call)))
        return wire.ModelMetadataResponse(**about.metadata(self._plane, served)).SerializeToString()

    async def model_config(self, message: bytes, call: GrpcCall) -> bytes:
        """A model's configuration."""
        request = _read(wire.ModelRequest, message)
        served = find(self._plane, select(request.name, request.version, _caller(call)))
        return wire.ModelConfigResponse(config=about.config(served)).SerializeToString()

    async def model_statistics(self, message: bytes, call: GrpcCall) -> bytes:
        """What one model, or every model, has done."""
        request = _read(wire.ModelRequest, message)
        selector = select(request.name, request.version, _caller(call)) if request.name else None
        told = about.statistics(self._plane, selector, _caller(call))
        return wire.ModelStatisticsResponse(**told).SerializeToString()

    async def repository_index(self, message: bytes, call: GrpcCall) -> bytes:
        """All versions and their states."""
        request = _read(wire.RepositoryIndexRequest, message)
        models = about.index(self._plane, _caller(call), ready=request.ready)
        return wire.RepositoryIndexResponse(models=models).SerializeToString()

    async def repository_load(self, message: bytes, call: GrpcCall) -> bytes:
        """Load a model that is configured."""
        request = _read(wire.RepositoryModelRequest, message)
        self._plane.callers.check_management(_caller(call))
        about.refuse_overrides(list(request.parameters))
        await start_managing(partial(self._plane.models.load_model, request.model_name))
        return b""

    async def repository_unload(self, message: bytes, call: GrpcCall) -> bytes:
        """Take a model away."""
        request = _read(wire.RepositoryModelRequest, message)
        self._plane.callers.check_management(_caller(call))
        await start_managing(partial(self._plane.models.unload_model, request.model_name))
        return b""

    async def trace_setting(self, message: bytes, call: GrpcCall) -> bytes:
        """How requests are traced."""
        request = _read(wire.TraceSetting, message)
        selector = Selector(request.model_name, caller=_caller(call)) if request.model_name else None
        changes = {
            name: list(setting.value) if name == "trace_level" else "".join(setting.value)
            for name, setting in request.settings.items()
            if setting.value
        }
        response = wire.TraceSetting()
        for name, value in about.trace_settings(self._plane, selector, changes).items():
            response.settings[name].value.extend(value if isinstance(value, list) else [value])
        return response.SerializeToString()

    async def log_settings(self, message: bytes, _call: GrpcCall) -> bytes:
        """What is logged."""
        request = _read(wire.LogSettings, message)
        changes = {name: _parameter(setting) for name, setting in request.settings.items()}
        response = wire.LogSettings()
        for name, value in about.log_settings(changes).items():
            kind = (
                "bool_param"
                if isinstance(value, bool)
                else "uint32_param"
                if isinstance(value, int)
                else "string_param"
            )
            setattr(response.settings[name], kind, value)
        return response.SerializeToString()

    async def model_infer(self, message: bytes, call: GrpcCall) -> bytes:
        """ModelInferRequest to ModelInferResponse."""
        repeated = self._repeats.find(message)
        if repeated is None:
            request = _read(wire.ModelInferRequest, message)
            first = read_question(request, _caller(call))
            response = await self._infer(request, first, call)
            self._remember(message, request, first)
            return response.SerializeToString()
        asked, begin = repeated
        question = Question(
            Selector(asked.model, asked.version, caller=_caller(call)),
            {asked.name: read_content(message, begin, asked.dtype, asked.shape)},
            asked.wanted,
        )
        found = await answer(self._plane, question, decode=as_it_is, deadline=_deadline(call))
        return encode_inference(found.model, found.version, found.outputs)

    def _remember(self, message: bytes, request: wire.ModelInferRequest, question: Question[_Input]) -> None:
        """A request was answered, and one like it need not be parsed.

        One with an id or a parameter has no like: they are counted up, or hold what is nobody's to keep.
        """
        if len(request.raw_input_contents) != 1 or request.id or request.parameters:
            return
        tensor, selector = request.inputs[0], question.selector
        if tensor.parameters:
            return
        dtype = dtype_of(tensor.datatype, name=tensor.name)
        if dtype not in (DT_STRING, DT_BOOL):
            about = tensor.name, dtype, tuple(tensor.shape)
            asked = _Asked(selector.model, selector.version, question.wanted, *about)
            self._repeats.remember(message, request.raw_input_contents[0], asked)

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: GrpcCall) -> AsyncGenerator[bytes, None]:
        """Inferences one after the other; a refusal is told in its place, and the stream goes on."""
        async for message in messages:
            request, answered = wire.ModelInferRequest(), wire.ModelStreamInferResponse()
            try:
                request = _read(wire.ModelInferRequest, message)
                question = read_question(request, _caller(call))
                answered.infer_response.CopyFrom(await self._infer(request, question, call))
                answered.infer_response.parameters[_FINAL].bool_param = True
            except RequestError as exc:
                answered.error_message = str(exc).encode("utf-8", "replace").decode()
                answered.infer_response.id = request.id
            yield answered.SerializeToString()

    async def _infer(
        self, request: wire.ModelInferRequest, question: Question[_Input], call: GrpcCall
    ) -> wire.ModelInferResponse:
        found = await answer(self._plane, question, decode=_decode, deadline=_deadline(call))
        response = wire.ModelInferResponse(model_name=found.model, model_version=str(found.version), id=request.id)
        typed = not request.raw_input_contents and bool(request.inputs)
        typed = typed and not any(tensor.dtype in UNTYPED for tensor in found.outputs.values())
        for name, tensor in found.outputs.items():
            entry = response.outputs.add(name=name, datatype=datatype_of(tensor.dtype), shape=tensor.shape)
            if typed:
                encode_contents(tensor, entry.contents)
            else:
                response.raw_output_contents.append(encode_raw(tensor))
        return response


def read_question(request: wire.ModelInferRequest, caller: Caller | None = None) -> Question[_Input]:
    """What a message asks. Raises: RequestError."""
    raws = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise _refusal(f"expected {len(request.inputs)} raw inputs to be provided, one per input, but got {len(raws)}")
    inputs: dict[str, _Input] = {}
    for number, tensor in enumerate(request.inputs):
        if SHARED_MEMORY in tensor.parameters:
            raise refuse_shared_memory(tensor.name)
        if raws and tensor.HasField("contents"):
            raise _refusal(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{request.model_name}'"
            )
        if tensor.name in inputs:
            raise _refusal(f"input '{tensor.name}' is given twice")
        inputs[tensor.name] = (tensor, raws[number] if raws else None)
    wanted = []
    for output in request.outputs:
        if SHARED_MEMORY in output.parameters:
            raise refuse_shared_memory(output.name)
        classes = _parameter(output.parameters["classification"]) if "classification" in output.parameters else 0
        wanted.append(Wanted(output.name, whole_number("classification", classes)))
    timeout = _parameter(request.parameters["timeout"]) if "timeout" in request.parameters else None
    return Question(
        select(request.model_name, request.model_version, caller),
        inputs,
        wanted,
        timeout=microseconds(timeout),
    )


def _decode(name: str, given: _Input) -> Tensor:
    tensor, raw = given
    dtype = dtype_of(tensor.datatype, name=name)
    return parse_contents(tensor, dtype) if raw is None else parse_raw(raw, dtype, tuple(tensor.shape), name=name)


def _deadline(call: GrpcCall) -> float | None:
    return None if call.deadline is None else time.monotonic() + call.deadline


def _caller(call: GrpcCall) -> Caller:
    return caller_of(call.peer_certificate, call.metadata)


def _parameter(parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


async def _no_shared_memory(_message: bytes, call: GrpcCall) -> bytes:
    raise refuse_to_share(call.method.rpartition("/")[2])


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)


def _read(kind: type[Parsed], message: bytes) -> Parsed:
    found = kind()
    try:
        found.ParseFromString(message)
    except DecodeError as exc:
        raise RequestError(Status.INTERNAL, "Exception deserializing request!") from exc
    return found
