"""TensorFlow Serving's gRPC services: questions for the server, and what its answers say.

Source: tensorflow_serving/apis, prediction_service.proto and model_service.proto.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

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
from tacit.errors import PeerError, RequestError
from tacit.wire.pb import serving_pb2
from tacit.wire.tensor import encode_tensor, parse_tensor

_SERVICE = "/tensorflow.serving.PredictionService/"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"


class TensorFlowServing:
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
        for output in outputs:
            check_name(output, "an output")
        request = serving_pb2.PredictRequest(output_filter=outputs)
        _fill_spec(request.model_spec, model, version, signature_name)
        check_size(inputs)
        for name, array in inputs.items():
            check_name(name, "an input")
            encode_tensor(tensor_of(name, array), request.inputs[name], as_content=True)

        def read(answer: serving_pb2.PredictResponse, at: str) -> Prediction:
            try:
                found = {name: output_of(parse_tensor(proto)) for name, proto in answer.outputs.items()}
            except RequestError as exc:
                raise PeerError(f"{at} answers with an output that is none: {exc}") from exc
            return Prediction(found, answer.model_spec.version.value if answer.model_spec.HasField("version") else None)

        return Question(_SERVICE + "Predict", request, serving_pb2.PredictResponse.FromString, read)

    def signatures(self, model: str, version: int | None) -> Question[Mapping[str, Signature]]:
        """All that the model has. Raises: InputError."""
        request = serving_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        _fill_spec(request.model_spec, model, version)

        def read(answer: serving_pb2.GetModelMetadataResponse, at: str) -> Mapping[str, Signature]:
            found = serving_pb2.SignatureDefMap()
            try:
                found.ParseFromString(answer.metadata["signature_def"].value)
            except DecodeError as exc:
                raise PeerError(f"{at}: the metadata of model {model!r} cannot be read ({exc})") from exc
            return {
                name: Signature(_specs(signature.inputs), _specs(signature.outputs))
                for name, signature in found.signature_def.items()
            }

        return Question(_SERVICE + "GetModelMetadata", request, serving_pb2.GetModelMetadataResponse.FromString, read)

    def status(self, model: str, version: int | None) -> Question[tuple[VersionStatus, ...]]:
        """Of every version, or of one. Raises: InputError."""
        request = serving_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, model, version)

        def read(answer: serving_pb2.GetModelStatusResponse, _: str) -> tuple[VersionStatus, ...]:
            return tuple(
                VersionStatus(found.version, _state_name(found.state), found.status.error_message)
                for found in answer.model_version_status
            )

        method = _MODEL_SERVICE + "GetModelStatus"
        return Question(method, request, serving_pb2.GetModelStatusResponse.FromString, read)


TENSORFLOW_SERVING = TensorFlowServing()


def _specs(found: Mapping[str, Any]) -> Mapping[str, TensorSpec]:
    return {
        name: TensorSpec(
            info.dtype,
            None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in found.items()
    }


def _fill_spec(spec: serving_pb2.ModelSpec, model: str, version: int | None, signature_name: str = "") -> None:
    """Raises: InputError."""
    check_name(model, "a model")
    check_name(signature_name, "a signature")
    check_version(version)
    spec.name = model
    spec.signature_name = signature_name
    if version is not None:
        spec.version.value = version


def _state_name(state: int) -> str:
    try:
        return str(serving_pb2.ModelVersionStatus.State.Name(state))
    except ValueError:
        return f"STATE {state}"
