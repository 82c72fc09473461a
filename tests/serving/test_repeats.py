"""A message like one before is compared, not parsed; and means what parsing it would say."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.served import FakeModels, FakeServed, example
from tacit.edge import GrpcCall
from tacit.errors import RequestError, Status
from tacit.serving.oip import bodies
from tacit.serving.oip import service as oip
from tacit.serving.oip.service import OipService
from tacit.serving.plane import Plane, Selector
from tacit.serving.tfs import service
from tacit.serving.tfs.service import TfsService
from tacit.wire.direct.repeats import Repeats
from tacit.wire.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor, encode_tensor

INFER = GrpcCall("/inference.GRPCInferenceService/ModelInfer", {}, None, None)
CALL = GrpcCall("/tensorflow.serving.PredictionService/Predict", {}, None, None)


def request(values: Sequence[float], *, model: str = "half_plus_two", **fields: object) -> bytes:
    message = PredictRequest(**fields)  # type: ignore[arg-type]  # whatever a test wants
    message.model_spec.name = model
    encode_tensor(Tensor(1, np.array(values, np.float32)), message.inputs["x"], as_content=True)
    return message.SerializeToString()


def answers(response: bytes) -> list[float]:
    return list(PredictResponse.FromString(response).outputs["y"].float_val)


class Leaving(FakeModels):
    """One model, until it is gone."""

    gone = False

    def __init__(self) -> None:
        super().__init__(example().find(Selector("half_plus_two")))

    def find(self, selector: Selector) -> FakeServed:
        if self.gone:
            raise RequestError(Status.NOT_FOUND, "gone")
        return super().find(selector)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages that were parsed."""
    seen: list[bytes] = []
    read = service.read_message

    def reads(into: PredictRequest, message: bytes) -> None:
        seen.append(message)
        read(into, message)

    monkeypatch.setattr(service, "read_message", reads)
    return seen


async def test_other_values_in_the_same_message_are_answered_without_parsing_it(parsed: list[bytes]) -> None:
    served = TfsService(Plane(example()))
    for values in ([1, 2, 5], [7, -3, 0], [0, 0, 0]):
        assert answers(await served.predict(request(values), CALL)) == [value / 2 + 2 for value in values]
    assert len(parsed) == 1


@pytest.mark.parametrize(
    "other",
    [
        request([1, 2, 5, 8]),
        request([1, 2, 5], output_filter=["y"]),
        request([1, 2, 5], model="half_plus_thr"),
        request([1, 2, 5], model="another"),
    ],
    ids=["more values", "a filter", "another model of the same length", "another model"],
)
async def test_a_message_that_differs_in_anything_else_is_parsed(parsed: list[bytes], other: bytes) -> None:
    served = TfsService(Plane(example()))
    await served.predict(request([1, 2, 5]), CALL)
    try:
        await served.predict(other, CALL)
    except RequestError:
        assert b"half_plus_two" not in other
    assert parsed == [request([1, 2, 5]), other]


async def test_what_was_refused_is_read_again(parsed: list[bytes]) -> None:
    served = TfsService(Plane(example()))
    for _ in range(2):
        with pytest.raises(RequestError):
            await served.predict(request([1], model="unknown"), CALL)
    assert len(parsed) == 2


async def test_a_model_that_went_away_is_gone_for_messages_like_one_before_too() -> None:
    models = Leaving()
    served = TfsService(Plane(models))
    await served.predict(request([1]), CALL)
    models.gone = True
    with pytest.raises(RequestError, match="gone"):
        await served.predict(request([2]), CALL)


def test_only_small_surroundings_are_kept() -> None:
    known = Repeats[str]()
    known.remember(b"a head of sixteen" + b"#" * 500 + b"values", b"values", "meaning")
    assert known._known == {}


async def test_what_stands_beside_the_values_is_nobodys_to_keep() -> None:
    served = TfsService(Plane(example()))
    message = PredictRequest.FromString(request([1, 2]))
    message.inputs["x"].float_val.append(7)
    await served.predict(message.SerializeToString(), CALL)
    assert served._repeats._known == {}
    asks = OipService(Plane(example()))
    told = ModelInferRequest.FromString(inference([1, 2]))
    told.parameters["who"].string_param = "a patient"
    await asks.model_infer(told.SerializeToString(), INFER)
    assert asks._repeats._known == {}


@pytest.mark.parametrize(
    "more",
    [{"id": "a patient"}, {"patient": "a name"}, {"parameters": {"patient": "a name"}}, {"inputs": []}],
)
def test_the_json_before_binary_tensors_is_kept_where_nothing_else_stands_in_it(more: dict[str, object]) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    usual = {"inputs": [entry], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    for document, kept in ((usual, True), (usual | more, False)):
        text = json.dumps(document).encode()
        values = bytes(4) if document["inputs"] else b""
        bodies.read_question(Selector("m"), text + values, str(len(text)))
        assert (text in bodies._known) == kept


def inference(values: Sequence[float], **fields: object) -> bytes:
    message = ModelInferRequest(**{"model_name": "half_plus_two", **fields})  # type: ignore[arg-type]  # whatever a test wants
    message.inputs.add(name="x", datatype="FP32", shape=[len(values), 1])
    message.raw_input_contents.append(np.array(values, np.float32).tobytes())
    return message.SerializeToString()


async def infer(served: OipService, message: bytes) -> ModelInferResponse:
    return ModelInferResponse.FromString(await served.model_infer(message, INFER))


@pytest.fixture
def inferred(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The inferences that were parsed."""
    seen: list[bytes] = []
    read = oip._read

    def reads(kind: type[ModelInferRequest], message: bytes) -> ModelInferRequest:
        seen.append(message)
        return read(kind, message)

    monkeypatch.setattr(oip, "_read", reads)
    return seen


@pytest.mark.parametrize("wanted", [[], [ModelInferRequest.InferRequestedOutputTensor(name="y")]])
async def test_an_inference_like_one_before_is_answered_as_that_was(
    inferred: list[bytes], wanted: list[ModelInferRequest.InferRequestedOutputTensor]
) -> None:
    served = OipService(Plane(example()))
    first = await infer(served, inference([1, 2], outputs=wanted))
    again = await infer(served, inference([1, 2], outputs=wanted))
    other = await infer(served, inference([4, -6], outputs=wanted))
    assert first == again
    assert len(inferred) == 1
    assert np.frombuffer(other.raw_output_contents[0], np.float32).tolist() == [4, -1]
    assert (other.model_name, other.model_version, other.outputs[0].shape) == ("half_plus_two", "123", [2, 1])


async def test_an_inference_with_an_id_is_parsed_and_its_answer_has_that_id(inferred: list[bytes]) -> None:
    served = OipService(Plane(example()))
    found = [(await infer(served, inference([1, 2], id=name))).id for name in ("a", "b", "b")]
    assert (found, len(inferred)) == (["a", "b", "b"], 3)


async def test_the_best_classes_are_chosen_for_messages_like_one_before_too(inferred: list[bytes]) -> None:
    served = OipService(Plane(example()))
    wanted = ModelInferRequest.InferRequestedOutputTensor(name="y")
    wanted.parameters["classification"].int64_param = 1
    for values in ([1, 2], [8, 2]):
        found = await infer(served, inference(values, outputs=[wanted]))
        assert found.outputs[0].datatype == "BYTES"
        assert f"{values[0] / 2 + 2:f}:0".encode() in found.raw_output_contents[0]
    assert len(inferred) == 1


def test_values_that_stand_in_a_message_twice_are_not_told_apart_and_it_is_not_kept() -> None:
    message = PredictRequest()
    message.model_spec.name = "a" * 20
    message.model_spec.signature_name = "same bytes as the values"
    message.inputs["x"].tensor_content = b"same bytes as the values"
    raw = message.SerializeToString()
    known = Repeats[str]()
    known.remember(raw, b"same bytes as the values", "meaning")
    assert known.find(raw) is None


def test_zeros_around_zeros_are_not_kept_and_cost_no_time() -> None:
    known, message = Repeats[str](), bytes(1000) + bytes(5_000_000) + b"\1" + bytes(1000)
    known.remember(message, bytes(5_000_000) + b"\1", "meaning")
    assert known.find(message) is None


def test_only_so_many_messages_are_kept() -> None:
    known = Repeats[int]()
    for number in range(1000):
        known.remember(b"a head of some length %04d" % number + b"values" + b"#" * number, b"values", number)
    assert 0 < len(known._known) <= 64


@given(
    st.text(min_size=1, max_size=20),
    st.text(max_size=20),
    st.binary(min_size=1, max_size=80),
    st.lists(st.text(max_size=4), max_size=3),
    st.binary(min_size=1, max_size=80),
    st.data(),
)
def test_what_is_found_is_what_parsing_says(
    name: str, alias: str, values: bytes, filters: list[str], others: bytes, data: st.DataObject
) -> None:
    """Whatever the first message and its values were: a message that is taken for its like has its values just there."""
    first = PredictRequest(output_filter=filters)
    first.model_spec.name = name
    first.inputs[alias].tensor_content = values
    raw, known = first.SerializeToString(), Repeats[str]()
    known.remember(raw, values, "meaning")
    second = PredictRequest()
    second.CopyFrom(first)
    second.inputs[alias].tensor_content = (others * len(values))[: len(values)]
    changed = bytearray(second.SerializeToString())
    if data.draw(st.booleans()):  # a byte of it is another one, wherever
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] ^= data.draw(st.integers(1, 255))
    found = known.find(bytes(changed))
    if found is None:
        return
    _, begin = found
    read = PredictRequest.FromString(bytes(changed))
    assert read.inputs[alias].tensor_content == bytes(changed[begin : begin + len(values)])
    read.inputs[alias].tensor_content = values
    assert read == first
