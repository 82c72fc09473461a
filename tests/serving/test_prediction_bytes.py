"""Answers that are put together as bytes say what the message would say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import RequestError, Status
from tacit.wire.direct import prediction
from tacit.wire.direct.prediction import encode_prediction
from tacit.wire.pb.serving_pb2 import PredictResponse
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, Tensor, encode_tensor

SHAPES = [(), (0,), (1,), (3, 2), (2, 0, 5), (130, 3), (40_000,)]


def message(outputs: dict[str, Tensor], *, as_content: bool) -> PredictResponse:
    response = PredictResponse()
    response.model_spec.name, response.model_spec.signature_name = "m", "serving_default"
    response.model_spec.version.value = 7
    for alias, tensor in outputs.items():
        encode_tensor(tensor, response.outputs[alias], as_content=as_content)
    return response


def filled(dtype: int, shape: tuple[int, ...]) -> Tensor:
    memory = ELEMENT_TYPES[dtype].memory
    if memory.hasobject:
        array = np.empty(shape, object)
        array.fill(b"word")
        return Tensor(dtype, array)
    return Tensor(dtype, (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(memory))


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_every_type_and_shape_is_encoded_as_the_message_encodes_it(dtype: int, as_content: bool) -> None:
    for shape in SHAPES:
        outputs = {"y": filled(dtype, shape)}
        found = encode_prediction("m", 7, "serving_default", outputs, as_content=as_content)
        assert PredictResponse.FromString(found) == message(outputs, as_content=as_content)


def test_an_array_that_does_not_lie_in_order_is_written_in_order() -> None:
    turned = {"y": Tensor(1, np.arange(6, dtype=np.float32).reshape(2, 3).T), "z": Tensor(1, np.ones(4, ">f4")[::2])}
    found = PredictResponse.FromString(encode_prediction("m", 7, "serving_default", turned))
    assert found == message(turned, as_content=False)


@pytest.mark.parametrize("as_content", [False, True])
def test_an_answer_longer_than_a_client_can_read_is_refused(monkeypatch: pytest.MonkeyPatch, as_content: bool) -> None:
    assert prediction.MAX_MESSAGE == 2**31 - 1
    outputs = {"y": filled(1, (130, 3)), "words": filled(DT_STRING, (4,))}
    whole = encode_prediction("m", 7, "s", outputs, as_content=as_content)
    monkeypatch.setattr(prediction, "MAX_MESSAGE", len(whole))
    assert encode_prediction("m", 7, "s", outputs, as_content=as_content) == whole
    monkeypatch.setattr(prediction, "MAX_MESSAGE", len(whole) - 1)
    with pytest.raises(RequestError, match=f"has {len(whole)} bytes, and a client reads {len(whole) - 1}") as refused:
        encode_prediction("m", 7, "s", outputs, as_content=as_content)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


@given(
    st.dictionaries(st.text(max_size=300), st.lists(st.floats(width=32, allow_nan=False), max_size=40), max_size=4),
    st.text(max_size=200),
    st.integers(0, 2**63 - 1),
)
def test_names_versions_and_lengths_of_any_size_come_back(
    outputs: dict[str, list[float]], name: str, version: int
) -> None:
    tensors = {alias: Tensor(1, np.array(values, np.float32)) for alias, values in outputs.items()}
    found = PredictResponse.FromString(encode_prediction(name, version, "s", tensors))
    assert (found.model_spec.name, found.model_spec.version.value, found.model_spec.signature_name) == (
        name,
        version,
        "s",
    )
    assert {alias: list(tensor.float_val) for alias, tensor in found.outputs.items()} == outputs
