"""Classify, regress and both at once, over gRPC and REST."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed, recorded
from tacit.edge import GrpcCall, HttpRequest
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.plane import Plane
from tacit.serving.tfs.meter import Measured, NoMeter
from tacit.serving.tfs.rest import TfsRest
from tacit.serving.tfs.service import GrpcOptions, TfsService
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor

SERVICE = "/tensorflow.serving.PredictionService/"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def example(**features: Any) -> bytes:
    made = tf.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kinds = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}
        kinds[type(values[0])].value.extend(values)
    return made.SerializeToString()


async def call(method: str, message: Any, models: FakeModels | None = None, *, strict: bool = False) -> bytes:
    service = TfsService(Plane(models or recorded()), GrpcOptions(check_methods=strict))
    return await service.handlers()[SERVICE + method](
        message.SerializeToString(), GrpcCall(SERVICE + method, {}, None, None)
    )


def classification(*examples: bytes, signature: str = "classify_x_to_y", context: bytes = b"") -> Any:
    request = wire.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", signature
    if context:
        request.input.example_list_with_context.context = context
        request.input.example_list_with_context.examples.extend(examples)
    else:
        request.input.example_list.examples.extend(examples)
    return request


def regression(*examples: bytes, signature: str = "regress_x_to_y") -> Any:
    return wire.RegressionRequest.FromString(classification(*examples, signature=signature).SerializeToString())


def model(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, Tensor]) -> FakeModels:
    """A model whose default signature answers with these outputs, whatever it is asked."""
    specs = {alias: TensorSpec(f"{alias}:0", tensor.dtype, None) for alias, tensor in outputs.items()}
    return FakeModels(
        FakeServed("half_plus_two", 1, {"serving_default": Signature(inputs, specs)}, lambda _: dict(outputs))
    )


def strings(*values: list[bytes]) -> Tensor:
    return Tensor(7, np.array(values, dtype=object))


def floats(*values: Any) -> Tensor:
    return Tensor(1, np.array(values, np.float32))


TAKES_EXAMPLES = {"inputs": TensorSpec("inputs:0", 7, (-1,))}


async def test_examples_are_classified_and_the_answer_names_its_maker() -> None:
    answer = wire.ClassificationResponse.FromString(
        await call("Classify", classification(example(x=[2.0]), example(x=[20.0])))
    )
    assert [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications] == [
        [("", 3.0)],
        [("", 12.0)],
    ]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 123, "classify_x_to_y")


async def test_labels_come_beside_their_scores() -> None:
    answers = model(TAKES_EXAMPLES, {"classes": strings([b"cat", b"dog"]), "scores": floats([0.75, 0.25])})
    message = classification(example(x=[1.0]), signature="")
    answer = wire.ClassificationResponse.FromString(await call("Classify", message, answers))
    (row,) = answer.result.classifications
    assert [(one.label, one.score) for one in row.classes] == [("cat", 0.75), ("dog", 0.25)]


async def test_examples_are_regressed() -> None:
    answer = wire.RegressionResponse.FromString(await call("Regress", regression(example(x=[80.0]), example(x=[2.0]))))
    assert [one.value for one in answer.result.regressions] == [42.0, 3.0]


async def test_a_context_stands_in_for_what_an_example_does_not_say() -> None:
    message = classification(example(), example(x=[2.0]), context=example(x=[20.0]))
    answer = wire.ClassificationResponse.FromString(await call("Classify", message))
    assert [row.classes[0].score for row in answer.result.classifications] == [12.0, 3.0]


async def test_several_tasks_are_answered_in_their_order() -> None:
    request = wire.MultiInferenceRequest(input=classification(example(x=[2.0])).input)
    for signature, method in (("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
    answer = wire.MultiInferenceResponse.FromString(await call("MultiInference", request))
    first, second = answer.results
    assert first.regression_result.regressions[0].value == 3.0
    assert second.classification_result.classifications[0].classes[0].score == 3.0
    assert [one.model_spec.signature_name for one in answer.results] == ["regress_x_to_y", "classify_x_to_y"]
    assert {one.model_spec.version.value for one in answer.results} == {123}


@pytest.mark.parametrize(
    ("tasks", "status", "text"),
    [
        ([], Status.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        ([("half_plus_two", "classify_x_to_y", CLASSIFY), ("", "", REGRESS)], 3, "Found ModelSpec with an empty model"),
        ([("half_plus_two", "classify_x_to_y", CLASSIFY), ("m", "", REGRESS)], 3, "must access the same model name."),
        ([("half_plus_two", "classify_x_to_y", CLASSIFY)] * 2, 3, "Duplicate evaluation of signature: classify_x_to_y"),
        ([("half_plus_two", "nope", CLASSIFY)], 3, "Requested signature not found in model graph: nope"),
        ([("half_plus_two", "", "tensorflow/serving/predict")], 12, "Unsupported signature method_name: tensorflow/s"),
        ([("nope", "", CLASSIFY)], Status.NOT_FOUND, "Servable not found for request: Latest(nope)"),
    ],
)
async def test_tasks_that_cannot_be_answered_together_are_refused(tasks: Any, status: int, text: str) -> None:
    request = wire.MultiInferenceRequest(input=classification(example(x=[2.0])).input)
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    with pytest.raises(RequestError) as refused:
        await call("MultiInference", request)
    assert refused.value.status == status
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (wire.ClassificationRequest(), "Missing ModelSpec"),
        (classification(), "Input is empty."),
        (classification(b"\xff"), "it is no tf.Example"),
        (classification(example(y=[1.0])), "Feature: x (data type: float) is required but could not be found."),
        (classification(example(x=[1])), "Data types don't match. Data type: int64 but expected type: float"),
        (classification(example(x=[1.0, 2.0])), "Values size: 2 but output shape: [1]"),
        (classification(example(x=[1.0]), signature="nope"), "No signature was found with the name: nope"),
        (classification(example(x=[1.0]), signature="serving_default"), "to contain at least one of 'classes'"),
    ],
)
async def test_what_cannot_be_classified_is_refused_with_the_reason(message: Any, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        await call("Classify", message)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"scores": floats(1.0)}, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ({"scores": Tensor(2, np.ones((1, 1)))}, "Expected scores Tensor of float. Got: double"),
        ({"scores": floats([1.0], [2.0])}, "Input batch size did not match output batch size: 1 vs. 2"),
        ({"scores": floats([1.0]), "classes": strings([b"a", b"b"])}, "Tensors class and score should match"),
        ({"a": floats([1.0]), "b": floats([1.0]), "c": floats([1.0])}, "Expected one or two output Tensors, found 3"),
    ],
)
async def test_outputs_that_are_no_classes_are_refused(outputs: Mapping[str, Tensor], text: str) -> None:
    with pytest.raises(RequestError, match="expected|Expected|Input|Tensors") as refused:
        await call("Classify", classification(example(x=[1.0]), signature=""), model(TAKES_EXAMPLES, outputs))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"outputs": floats([1.0, 2.0])}, "to be either [batch_size] or [batch_size, 1] but got [1, 2]"),
        ({"outputs": Tensor(2, np.ones((1, 1)))}, "Expected output Tensor of float. Got: double"),
        ({"outputs": floats(1.0, 2.0)}, "Input batch size did not match output batch size: 1 vs. 2"),
        ({"y": floats([1.0])}, "No regression outputs found in SignatureDef"),
        ({"outputs": floats([1.0]), "more": floats([1.0])}, "Expected one output Tensor."),
    ],
)
async def test_outputs_that_are_no_numbers_are_refused(outputs: Mapping[str, Tensor], text: str) -> None:
    with pytest.raises(RequestError) as refused:
        await call("Regress", regression(example(x=[1.0]), signature=""), model(TAKES_EXAMPLES, outputs))
    assert text in str(refused.value)


async def test_a_signature_of_another_method_is_refused_only_where_that_was_asked_for() -> None:
    answers = model(TAKES_EXAMPLES, {"outputs": floats([1.0])})
    message = regression(example(x=[1.0]), signature="")
    assert await call("Regress", message, answers)
    with pytest.raises(RequestError, match="Expected signature method_name to be tensorflow/serving/regress"):
        await call("Regress", message, answers, strict=True)


async def test_a_dense_signature_takes_each_input_from_the_feature_of_its_name() -> None:
    asked: list[Mapping[str, Tensor]] = []

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        asked.append(inputs)
        return {"outputs": floats(1.0, 2.0)}

    inputs = {
        "x": TensorSpec("x:0", 1, (-1, 2)),
        "n": TensorSpec("n:0", 3, (-1,)),
        "t": TensorSpec("t:0", 7, (-1, -1)),
    }
    signature = Signature(inputs, {"outputs": TensorSpec("y:0", 1, (-1,))})
    models = FakeModels(FakeServed("half_plus_two", 1, {"serving_default": signature}, compute))
    rows = [example(x=[1.0, 2.0], n=[7], t=[b"a", b"b"]), example(x=[3.0, 4.0], n=[-8], t=[b"c", b"d"], more=[1])]
    await call("Regress", regression(*rows, signature=""), models)
    (found,) = asked
    assert found["x"].array.tolist() == [[1, 2], [3, 4]]
    assert found["x"].array.dtype == np.float32
    assert found["n"].array.tolist() == [7, -8]
    assert found["n"].array.dtype == np.int32
    assert found["t"].array.tolist() == [[b"a", b"b"], [b"c", b"d"]]


async def test_a_number_beyond_its_inputs_type_is_refused() -> None:
    answers = model({"n": TensorSpec("n:0", 4, (-1,))}, {"outputs": floats(1.0)})
    with pytest.raises(RequestError, match=r"feature n has a number outside 0\.\.255"):
        await call("Regress", regression(example(n=[256]), signature=""), answers)


async def test_an_input_of_two_free_sizes_cannot_come_from_examples() -> None:
    answers = model({"x": TensorSpec("x:0", 1, (-1, -1, -1))}, {"outputs": floats(1.0)})
    with pytest.raises(RequestError, match="more than one free size"):
        await call("Regress", regression(example(x=[1.0]), signature=""), answers)


# ---- REST


async def post(verb: str, document: Any, models: FakeModels | None = None) -> tuple[int, Any]:
    body = json.dumps(document).encode()
    path = f"/v1/models/half_plus_two:{verb}"
    response = await TfsRest(Plane(models or recorded())).handle(HttpRequest("POST", path, "", {}, body, None))
    return response.status, json.loads(response.body)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "No values in 'examples' array"),
        ({"examples": [1]}, "Example must be JSON object but got 1"),
        ({"examples": [{}], "context": 1}, "Example must be JSON object but got 1 at context"),
        ({"examples": [{"x": [1.0, "a"]}]}, "expected values of one kind"),
        ({"examples": [{"x": None}]}, "Feature: x has an unexpected value: null"),
        ({"examples": [{"x": 2**63}]}, "which is no int64"),
        ({"examples": [{"x": {"b64": "?"}}]}, "Unable to base64 decode"),
        ({"examples": [{"x": 80}]}, "Data types don't match. Data type: int64 but expected type: float"),
        ([], "Is not object"),
    ],
)
async def test_a_body_without_proper_examples_is_refused(document: Any, text: str) -> None:
    if isinstance(document, dict):
        document = {"signature_name": "classify_x_to_y", **document}
    status, answer = await post("classify", document)
    assert status == 400
    assert text in answer["error"]


async def test_every_kind_of_json_value_becomes_its_kind_of_feature() -> None:
    asked: list[bytes] = []

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        asked.extend(inputs["inputs"].array.tolist())
        return {"outputs": floats(1.5)}

    signature = Signature(TAKES_EXAMPLES, {"outputs": TensorSpec("y:0", 1, (-1,))})
    models = FakeModels(FakeServed("half_plus_two", 1, {"serving_default": signature}, compute))
    row = {"f": 80.0, "i": 80, "l": [1, 2], "yes": True, "t": "text", "b": [{"b64": "AAE="}, "x"], "none": []}
    status, answer = await post("regress", {"examples": [row]}, models)
    assert (status, answer) == (200, {"results": [1.5]})
    found = tf.Example.FromString(asked[0]).features.feature
    assert list(found["f"].float_list.value) == [80.0]
    assert list(found["i"].int64_list.value) == [80]
    assert list(found["l"].int64_list.value) == [1, 2]
    assert list(found["yes"].int64_list.value) == [1]
    assert list(found["t"].bytes_list.value) == [b"text"]
    assert list(found["b"].bytes_list.value) == [b"\x00\x01", b"x"]
    assert found["none"].WhichOneof("kind") is None


async def test_labels_and_scores_are_pairs() -> None:
    answers = model(TAKES_EXAMPLES, {"classes": strings([b"cat", b"dog"]), "scores": floats([0.1, float("nan")])})
    body = json.dumps({"examples": [{"x": 1.0}]}).encode()
    response = await TfsRest(Plane(answers)).handle(
        HttpRequest("POST", "/v1/models/half_plus_two:classify", "", {}, body, None)
    )
    assert response.body == b'{"results":[[["cat",0.1],["dog",NaN]]]}'


# ---- recorded


def test_recorded_messages_are_known_whole(shared_vectors: Path) -> None:
    folder = shared_vectors / "serving"
    vectors = [
        vector
        for vector in json.loads((folder / "index.json").read_text())["vectors"]
        if vector["message"].startswith("tensorflow.serving.")
    ]
    assert len(vectors) == 52
    for vector in vectors:
        kind = getattr(wire, vector["message"].rpartition(".")[2])
        raw = (folder / vector["file"]).read_bytes()
        message = kind.FromString(raw)
        assert kind.FromString(message.SerializeToString()) == message
        assert len(message.SerializeToString()) == len(raw), vector["name"]


def test_recorded_examples_are_read_with_their_context(shared_vectors: Path) -> None:
    from tacit.serving.tfs.service import serialized_examples

    raw = (shared_vectors / "serving" / "tfs_classify_req_context.bin").read_bytes()
    (found,) = serialized_examples(wire.ClassificationRequest.FromString(raw).input)
    features = tf.Example.FromString(found).features.feature
    assert list(features["x"].float_list.value) == [1.0, 2.0]
    assert list(features["n"].int64_list.value) == [-1]
    assert list(features["b"].bytes_list.value) == [b"z"]
    assert list(features["y"].float_list.value) == [3.0]


@pytest.mark.parametrize(
    ("error", "deadline", "status"),
    [
        (asyncio.CancelledError(), None, Status.CANCELLED),
        (asyncio.CancelledError(), 60.0, Status.CANCELLED),
        (asyncio.CancelledError(), 0.0, Status.DEADLINE_EXCEEDED),
        (RequestError(Status.NOT_FOUND, "none"), None, Status.NOT_FOUND),
        (ValueError(), None, Status.INTERNAL),
    ],
)
def test_a_call_that_ends_early_is_counted_as_what_ended_it(
    error: BaseException, deadline: float | None, status: Status
) -> None:
    class Counts(NoMeter):
        def request(self, model: str, api: str, entry: Any, status: Status, seconds: float) -> None:
            counted.append(status)

    counted: list[Status] = []
    with pytest.raises(type(error)), Measured(Counts(), "Predict", "GRPC", deadline=deadline):
        raise error
    assert counted == [status]
