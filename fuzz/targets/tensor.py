"""A TensorProto from a client: a tensor of bounded size, the same after it was written in either form."""

import numpy as np
from google.protobuf.message import DecodeError

from tacit.errors import RequestError
from tacit.wire.pb.tensorflow_pb2 import TensorProto
from tacit.wire.tensor import DT_STRING, Tensor, encode_tensor, parse_tensor

REFUSALS = (RequestError,)
LIMIT = 4096  # bytes
_BUDGET = 1 << 20  # bytes that a tensor may take beyond its own message


def check(data: bytes) -> None:
    try:
        proto = TensorProto.FromString(data)
    except DecodeError:
        return  # gRPC's own refusal
    tensor = parse_tensor(proto, fill_budget=_BUDGET)
    assert tensor.dtype == DT_STRING or tensor.array.nbytes <= _BUDGET + len(data)
    for as_content in (False, True):
        written = TensorProto()
        encode_tensor(tensor, written, as_content=as_content)
        _same(parse_tensor(TensorProto.FromString(written.SerializeToString())), tensor)


def _same(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype == DT_STRING:
        assert found.array.tolist() == expected.array.tolist()
    else:  # by bits, because a NaN is not equal to itself
        assert np.ascontiguousarray(found.array).tobytes() == np.ascontiguousarray(expected.array).tobytes()
