"""TensorFlow Serving's gRPC methods, in memory."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed, example
from tacit.edge import GrpcCall
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.plane import Plane, Selector
from tacit.serving.tfs.service import GrpcOptions, TfsService, signature_map
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


async def call(method: str, message: bytes, models: FakeModels | None = None, *, as_content: bool = False) -> bytes:
    handlers = TfsService(Plane(models or example()), GrpcOptions(as_content=as_content)).handlers()
    return await handlers[method](message, GrpcCall(method, {}, None, None))


def request(**inputs: Tensor) -> wire.PredictRequest:
    message = wire.PredictRequest()
    message.model_spec.name = "half_plus_two"
    for alias, tensor in inputs.items():
        encode_tensor(tensor, message.inputs[alias])
    return message


def floats(*values: float) -> Tensor:
    return Tensor(1, np.array(values, np.float32))


async def predict(
    message: wire.PredictRequest, models: FakeModels | None = None, *, as_content: bool = False
) -> wire.PredictResponse:
    return wire.PredictResponse.FromString(
        await call(PREDICT, message.SerializeToString(), models, as_content=as_content)
    )


async def refusal(message: wire.PredictRequest, models: FakeModels | None = None) -> tuple[Status, str]:
    with pytest.raises(RequestError) as refused:
        await predict(message, models)
    return refused.value.status, str(refused.value)


async def test_a_prediction_names_the_version_that_made_it() -> None:
    response = await predict(request(x=floats(1, 2, 5)))
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 123, "serving_default")
    assert spec.WhichOneof("version_choice") == "version"


async def test_tensor_content_is_answered_if_asked_for() -> None:
    response = await predict(request(x=floats(1)), as_content=True)
    assert response.outputs["y"].tensor_content == np.float32(2.5).tobytes()


async def test_a_rank_that_the_signature_does_not_name_refuses_nobody() -> None:
    response = await predict(request(x=floats(1)))
    assert parse_tensor(response.outputs["y"]).shape == (1,)


@pytest.mark.parametrize(("version", "label"), [(123, None), (0, None), (None, "prod")])
async def test_a_version_is_found_by_number_by_label_and_by_zero(version: int | None, label: str | None) -> None:
    message = request(x=floats(1))
    if version is not None:
        message.model_spec.version.value = version
    if label:
        message.model_spec.version_label = label
    assert (await predict(message)).model_spec.version.value == 123


async def test_refusals_come_in_the_original_order_with_its_words() -> None:
    two = example(inputs={"a": 1, "b": 1})
    empty = wire.PredictRequest()
    assert await refusal(empty) == (Status.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    unknown = request()
    unknown.model_spec.name = "nope"
    unknown.model_spec.signature_name = "nope"
    assert await refusal(unknown) == (Status.NOT_FOUND, "Servable not found for request: Latest(nope)")
    version = request()
    version.model_spec.version.value = 7
    assert await refusal(version) == (Status.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 7)")
    label = request()
    label.model_spec.version_label = "beta"
    assert await refusal(label) == (Status.INVALID_ARGUMENT, "Unrecognized servable version label: beta")
    signature = request()
    signature.model_spec.signature_name = "nope"
    assert await refusal(signature) == (Status.FAILED_PRECONDITION, 'Serving signature key "nope" not found.')
    count = request(a=floats(1), b=floats(1), c=floats(1))
    assert await refusal(count, two) == (
        Status.INVALID_ARGUMENT,
        "input size does not match signature: 3!=2 len({a, b, c}) != len({a, b}). Sent extra: {c}. Missing but required: {}.",
    )
    status, text = await refusal(request(a=floats(1), c=floats(1)), two)
    assert status is Status.INVALID_ARGUMENT
    assert text.startswith(
        "Signature input alias: b(feed name: b:0) not found in request and no default value provided."
    )


async def test_an_undecodable_tensor_is_named() -> None:
    message = request(x=floats(1))
    message.inputs["x"].tensor_content = b"123"
    message.output_filter.append("nope")  # comes later in the order
    status, text = await refusal(message)
    assert status is Status.INVALID_ARGUMENT
    assert text.startswith("tensor parsing error: x")


async def test_outputs_are_filtered_by_name_and_once_each() -> None:
    message = request(x=floats(1))
    message.output_filter.append("y")
    assert set((await predict(message)).outputs) == {"y"}
    message.output_filter.append("y")
    assert await refusal(message) == (Status.INVALID_ARGUMENT, "duplicate output tensor alias: y")
    message.output_filter[0] = "z"
    status, text = await refusal(message)
    assert (status, text.split(" Outputs")[0]) == (
        Status.INVALID_ARGUMENT,
        "output tensor alias not found in signature: z",
    )


async def test_another_type_is_refused_and_never_cast() -> None:
    status, text = await refusal(request(x=Tensor(3, np.array([1], np.int32))))
    assert status is Status.INVALID_ARGUMENT
    assert text.startswith("Expects arg[0] to be float but int32 is provided")


async def test_t44_a_message_that_claims_gigabytes_is_refused_before_memory_is_taken() -> None:
    message = request(x=floats(1))
    message.inputs["x"].tensor_shape.dim[0].size = 2**28
    status, _ = await refusal(message)
    assert status is Status.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(RequestError) as refused:
        await call(PREDICT, b"\xff\xff\xff")
    assert refused.value.status is Status.INTERNAL


async def test_metadata_carries_tensorflows_own_type_address() -> None:
    message = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "half_plus_two"
    response = wire.GetModelMetadataResponse.FromString(await call(METADATA, message.SerializeToString()))
    definition = response.metadata["signature_def"]
    assert definition.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = wire.SignatureDefMap.FromString(definition.value)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "x:0"


@pytest.mark.parametrize(
    ("fields", "named", "text"),
    [
        (["signature_def"], False, "Missing ModelSpec"),
        ([], True, "GetModelMetadataRequest must specify at least one metadata_field"),
        (["weights"], True, "Metadata field weights is not supported"),
    ],
)
async def test_metadata_refuses_in_the_originals_words(fields: list[str], named: bool, text: str) -> None:
    message = wire.GetModelMetadataRequest(metadata_field=fields)
    if named:
        message.model_spec.name = "half_plus_two"
    with pytest.raises(RequestError) as refused:
        await call(METADATA, message.SerializeToString())
    assert (refused.value.status, str(refused.value)) == (Status.INVALID_ARGUMENT, text)


async def test_status_has_an_empty_but_present_error() -> None:
    message = wire.GetModelStatusRequest()
    message.model_spec.name = "half_plus_two"
    response = wire.GetModelStatusResponse.FromString(await call(STATUS, message.SerializeToString()))
    (version,) = response.model_version_status
    assert (version.version, version.state, version.HasField("status")) == (123, 30, True)


@pytest.mark.parametrize(("name", "version", "text"), [
    ("nope", None, "Could not find any versions of model nope"),
    ("half_plus_two", 7, "Could not find version 7 of model half_plus_two"),
])  # fmt: skip
async def test_status_of_what_is_not_there_is_not_found(name: str, version: int | None, text: str) -> None:
    message = wire.GetModelStatusRequest()
    message.model_spec.name = name
    if version:
        message.model_spec.version.value = version
    with pytest.raises(RequestError) as refused:
        await call(STATUS, message.SerializeToString())
    assert (refused.value.status, str(refused.value)) == (Status.NOT_FOUND, text)


def test_recorded_metadata_is_made_again_from_its_signature(shared_vectors: Path) -> None:
    recorded = wire.GetModelMetadataResponse.FromString(
        (shared_vectors / "serving" / "tfs_metadata_resp.bin").read_bytes()
    )
    spec: Mapping[str, TensorSpec] = {"input": TensorSpec("input:0", 1, (-1, 224, 224, 3))}
    made = signature_map({"serving_default": Signature(spec, {"predict": TensorSpec("predict:0", 1, (-1, 1001))})})
    assert made == wire.SignatureDefMap.FromString(recorded.metadata["signature_def"].value)


def test_recorded_answers_are_read_alike(shared_vectors: Path) -> None:
    folder = shared_vectors / "serving"
    for name in ("tfs_predict_resp_float_val.bin", "tfs_predict_resp_tensor_content.bin"):
        response = wire.PredictResponse.FromString((folder / name).read_bytes())
        for proto in response.outputs.values():
            parse_tensor(proto)
    status = wire.GetModelStatusResponse.FromString((folder / "tfs_status_resp.bin").read_bytes())
    assert [entry.version for entry in status.model_version_status] == [2, 1]


async def test_a_deadline_reaches_the_engines_queue() -> None:
    asked: list[float | None] = []
    models = example()
    served = models.find(Selector("half_plus_two"))
    submit = served.submit

    def remember(*arguments: Any, deadline: float | None = None, **_more: Any) -> Any:
        asked.append(deadline)
        return submit(*arguments)

    served.submit = remember  # type: ignore[method-assign]
    handler = TfsService(Plane(models)).handlers()[PREDICT]
    message = request(x=floats(1)).SerializeToString()
    begun = time.monotonic()
    for left in (5.0, None):
        await handler(message, GrpcCall(PREDICT, {}, None, left))
    assert asked[1] is None
    assert asked[0] is not None
    assert begun + 5 <= asked[0] <= time.monotonic() + 5


def with_default(value: float = 10.0) -> FakeModels:
    """`y = x + n`, where a request may leave out `n`."""

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": Tensor(1, inputs["x"].array + inputs["n"].array)}

    signature = Signature(
        {alias: TensorSpec(f"{alias}:0", 1, (-1,)) for alias in ("x", "n")},
        {"y": TensorSpec("y:0", 1, (-1,))},
        defaults={"n": floats(value)},
    )
    return FakeModels(FakeServed("half_plus_two", 123, {"serving_default": signature}, compute))


async def test_an_input_with_a_default_may_be_left_out() -> None:
    models = with_default()
    assert list((await predict(request(x=floats(1)), models)).outputs["y"].float_val) == [11.0]
    assert list((await predict(request(x=floats(1), n=floats(2)), models)).outputs["y"].float_val) == [3.0]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            ("n",),
            "Signature input alias: x(feed name: x:0) not found in request and no default value provided. Inputs ",
        ),
        (("x", "z"), "Inputs contains invalid name. Used request inputs: {x}, request input: {x, z}"),
        (("x", "n", "z"), "input size does not match signature: 3!=2 len({n, x, z}) != len({n, x})"),
    ],
)
async def test_names_are_held_to_where_defaults_exist(given: tuple[str, ...], text: str) -> None:
    status, said = await refusal(request(**dict.fromkeys(given, floats(1))), with_default())
    assert status is Status.INVALID_ARGUMENT
    assert said.startswith(text)
    if given == ("n",):
        assert said.endswith("{n, x}, or default input alias set: {n}")


async def test_metadata_shows_defaults() -> None:
    message = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "half_plus_two"
    answer = wire.GetModelMetadataResponse.FromString(await call(METADATA, message.SerializeToString(), with_default()))
    found = wire.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
    assert parse_tensor(found.signature_def["serving_default"].defaults["n"]).array.tolist() == [10.0]
    from tacit.edge import HttpRequest
    from tacit.serving.tfs.rest import TfsRest

    path = "/v1/models/half_plus_two/metadata"
    body = (await TfsRest(Plane(with_default())).handle(HttpRequest("GET", path, "", {}, b"", None))).body
    (shown,) = json.loads(body)["metadata"]["signature_def"]["signature_def"].values()
    assert shown["defaults"]["n"]["float_val"] == [10.0]
