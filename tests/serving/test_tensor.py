"""TensorProto to numpy and back."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.errors import RequestError, Status
from tacit.wire.pb.serving_pb2 import PredictRequest
from tacit.wire.pb.tensorflow_pb2 import TensorProto
from tacit.wire.tensor import ELEMENT_TYPES, Tensor, encode_tensor, parse_tensor

OWN = json.loads((Path(__file__).parents[1] / "vectors" / "serving" / "predict.json").read_text())


def values_of(tensor: Tensor) -> Any:
    if tensor.dtype == 7:
        return [value.hex() for value in tensor.array.ravel().tolist()]
    return tensor.array.tolist()


@pytest.mark.parametrize("case", OWN, ids=lambda case: case["name"])
def test_a_message_is_read_or_refused_as_recorded(case: dict[str, Any]) -> None:
    request = PredictRequest.FromString(bytes.fromhex(case["message"]))
    if "refused" in case:
        with pytest.raises(RequestError) as refused:
            parse_tensor(request.inputs["x"])
        assert refused.value.status is Status[case["refused"]]
    else:
        assert values_of(parse_tensor(request.inputs["x"])) == case["values"]


# Recorded with TensorFlow, which reads these silently wrong; here they are refused.
STRICTER = {
    "tfs_predict_req_bad_unknown_rank",
    "tfs_predict_req_float_val_too_many",
    "tfs_predict_req_wrong_value_field",
    "tfs_predict_req_amplification",
}


def test_tensorflows_own_messages_are_read_as_tensorflow_reads_them(shared_vectors: Path) -> None:
    wrong = {}
    for vector in json.loads((shared_vectors / "serving" / "index.json").read_text())["vectors"]:
        if vector["message"] != "tensorflow.serving.PredictRequest":
            continue
        request = PredictRequest.FromString((shared_vectors / "serving" / vector["file"]).read_bytes())
        refusal = vector["name"] in STRICTER or "expect_error" in vector
        try:
            tensors = {alias: parse_tensor(proto) for alias, proto in request.inputs.items()}
        except RequestError:
            if not refusal:
                wrong[vector["name"]] = "refused"
            continue
        if refusal:
            wrong[vector["name"]] = "read"
        for alias, expected in (vector.get("expect") or {}).items():
            if not same(tensors[alias], expected):
                wrong[vector["name"]] = str(tensors[alias])
    assert not wrong


def same(tensor: Tensor, expected: dict[str, Any]) -> bool:
    if list(tensor.shape) != expected["shape"]:
        return False
    if "values_hex" in expected:
        return values_of(tensor) == expected["values_hex"]
    if "bits" in expected:
        return tensor.array.view(np.uint16).tolist() == expected["bits"]
    flat = tensor.array.ravel().tolist()
    for got, wanted in zip(flat, expected["values"], strict=True):
        number = complex(*wanted) if isinstance(wanted, list) else type(got)(wanted)
        exact = tensor.array.dtype.type(number)
        if not (tensor.array.dtype.type(got) == exact or (math.isnan(abs(got)) and math.isnan(abs(exact)))):
            return False
    return True


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_what_is_encoded_is_decoded(dtype: int, as_content: bool, shape: tuple[int, ...]) -> None:
    kind = ELEMENT_TYPES[dtype]
    count = math.prod(shape)
    if dtype == 7:
        flat = np.array([bytes([n, 255 - n]) for n in range(count)] + [None], dtype=object)[:count]
    else:
        flat = np.frombuffer(bytes(n % 2 for n in range(count * kind.memory.itemsize)), kind.memory)
    tensor = Tensor(dtype, flat.reshape(shape))
    proto = TensorProto()
    encode_tensor(tensor, proto, as_content=as_content)
    back = parse_tensor(TensorProto.FromString(proto.SerializeToString()))
    assert (back.dtype, back.shape) == (dtype, shape)
    assert back.array.tolist() == tensor.array.tolist()


def test_typed_values_are_what_protobuf_itself_writes() -> None:
    proto = TensorProto()
    encode_tensor(Tensor(1, np.array([1.5, float("inf")], np.float32)), proto)
    assert list(proto.float_val) == [1.5, float("inf")]
    assert not proto.tensor_content


def test_content_is_read_without_a_copy() -> None:
    proto = TensorProto(dtype=1, tensor_content=bytes(16))
    proto.tensor_shape.dim.add(size=4)
    assert not parse_tensor(proto).array.flags.owndata
