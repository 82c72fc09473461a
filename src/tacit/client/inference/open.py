"""The Open Inference Protocol over gRPC (Triton, KServe, OpenVINO's server, ours): questions and what answers say.

A model has one signature there, which is called `serving_default` here, and its versions are named, not numbered: those
that are numbers are shown.

Source: open-inference-protocol, grpc_service.proto; Triton's extension_model_repository.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tacit.client.inference.language import Question
from tacit.client.inference.values import (
    Array,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
    check_name,
    check_size,
    check_version,
    output_of,
    tensor_of,
)
from tacit.errors import InputError, PeerError, RequestError
from tacit.wire.contents import parse_contents
from tacit.wire.pb import inference_pb2
from tacit.wire.raw_tensor import DATATYPES, datatype_of, encode_raw, parse_raw

_SERVICE = "/inference.GRPCInferenceService/"
_SIGNATURE = "serving_default"
_MAX_DIGITS = 19  # as 64 bits have
_NUMBERS = {name: number for number, name in DATATYPES.items()}


class OpenInference:
    """Its `Language`."""

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: int | None,
        signature_name: str,
        outputs: Sequence[str],
    ) -> Question[Prediction]:
        """Raises: InputError."""
        if signature_name not in ("", _SIGNATURE):
            raise InputError(f"the Open Inference Protocol knows no signatures, and {signature_name!r} was asked for")
        check_name(model, "a model")
        for one in outputs:
            check_name(one, "an output")
        request = inference_pb2.ModelInferRequest(model_name=model, model_version=_version(version))
        request.outputs.extend(inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=one) for one in outputs)
        check_size(inputs)
        for name, array in inputs.items():
            check_name(name, "an input")
            tensor = tensor_of(name, array)
            try:
                request.inputs.add(name=name, datatype=datatype_of(tensor.dtype), shape=tensor.shape)
                request.raw_input_contents.append(encode_raw(tensor))
            except RequestError as exc:
                raise InputError(f"input {name!r}: {exc}") from exc
        return Question(_SERVICE + "ModelInfer", request, inference_pb2.ModelInferResponse.FromString, _read_prediction)

    def signatures(self, model: str, version: int | None) -> Question[Mapping[str, Signature]]:
        """The one that there is. Raises: InputError."""
        check_name(model, "a model")
        request = inference_pb2.ModelRequest(name=model, version=_version(version))
        answer = inference_pb2.ModelMetadataResponse.FromString
        return Question(_SERVICE + "ModelMetadata", request, answer, _read_signatures)

    def status(self, model: str, version: int | None) -> Question[tuple[VersionStatus, ...]]:
        """Of every version, or of one, as the server's index of models has them. Raises: InputError."""
        check_name(model, "a model")
        check_version(version)

        def read(answer: inference_pb2.RepositoryIndexResponse, _: str) -> tuple[VersionStatus, ...]:
            numbered = [(_number(one.version), one) for one in answer.models if one.name == model]
            found = [
                VersionStatus(number, _STATES.get(one.state, one.state), one.reason)
                for number, one in numbered
                if number is not None and version in (None, number)
            ]
            return tuple(sorted(found, key=lambda one: one.version, reverse=True))

        request, parse = inference_pb2.RepositoryIndexRequest(), inference_pb2.RepositoryIndexResponse.FromString
        return Question(_SERVICE + "RepositoryIndex", request, parse, read)


OPEN_INFERENCE = OpenInference()
_STATES = {"READY": "AVAILABLE"}  # as TensorFlow Serving calls it


def _version(version: int | None) -> str:
    """Raises: InputError."""
    check_version(version)
    return "" if version is None else str(version)


def _number(version: str) -> int | None:
    """The number that a version's name is; None where it is another name."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) <= _MAX_DIGITS else None


def _read_signatures(answer: inference_pb2.ModelMetadataResponse, at: str) -> Mapping[str, Signature]:
    def specs(found: Any) -> Mapping[str, TensorSpec]:
        if unknown := sorted({one.datatype[:32] for one in found} - set(_NUMBERS)):
            raise PeerError(f"{at}: model {answer.name!r} has the datatype {unknown[0]!r}, which is not known here")
        return {one.name: TensorSpec(_NUMBERS[one.datatype], tuple(one.shape)) for one in found}

    return {_SIGNATURE: Signature(specs(answer.inputs), specs(answer.outputs))}


def _read_prediction(answer: inference_pb2.ModelInferResponse, at: str) -> Prediction:
    """Outputs come raw, all of them, or all as typed values."""
    raw = list(answer.raw_output_contents)
    if raw and len(raw) != len(answer.outputs):
        raise PeerError(f"{at} answers with {len(answer.outputs)} outputs and the bytes of {len(raw)}")
    found: dict[str, Array] = {}
    try:
        for index, one in enumerate(answer.outputs):
            dtype = _NUMBERS[one.datatype]
            tensor = (
                parse_raw(raw[index], dtype, tuple(one.shape), name=one.name) if raw else parse_contents(one, dtype)
            )
            found[one.name] = output_of(tensor)
    except (KeyError, RequestError) as exc:
        raise PeerError(f"{at} answers with an output that is none: {exc}") from exc
    return Prediction(found, _number(answer.model_version))
