"""A PredictResponse as bytes, put together without a message in between.

Its head is the same for each answer of a version, and so is that of a tensor of a shape: only the values are new, and
those are copied once, where a message would copy them three times.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from tacit.errors import RequestError, Status
from tacit.wire.pb.serving_pb2 import ModelSpec
from tacit.wire.pb.tensorflow_pb2 import TensorProto
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, PACKED_TAGS, Tensor, encode_tensor, encode_varint

_SMALL = 16 << 10  # bytes that are copied sooner than looked at
MAX_MESSAGE = (1 << 31) - 1  # bytes; what is longer no library of protobuf's parses

# Tags: field number and wire type 2 (bytes of a length that follows).
_OUTPUTS, _MODEL_SPEC = b"\x0a", b"\x12"  # of PredictResponse
_KEY, _VALUE = b"\x0a", b"\x12"  # of an entry of a map
_CONTENT = b"\x22"  # tensor_content, of TensorProto


def encode_prediction(
    model: str, version: int, signature: str, outputs: Mapping[str, Tensor], *, as_content: bool = False
) -> bytes:
    """The whole message: typed values, or `tensor_content` if asked (strings are always typed).

    Raises:
        RequestError: RESOURCE_EXHAUSTED, it would have more than `MAX_MESSAGE` bytes.
    """
    parts: list[bytes | memoryview] = []
    for alias, tensor in outputs.items():
        parts += _entry(alias, tensor, as_content=as_content)
    parts.append(_made_by(model, version, signature))
    return joined(parts)


def joined(parts: Sequence[bytes | memoryview]) -> bytes:
    """A message from its pieces, looked at before they are copied. Raises: RequestError, it is too long for any client."""
    if (whole := sum(map(len, parts))) > MAX_MESSAGE:
        raise RequestError(
            Status.RESOURCE_EXHAUSTED,
            f"the answer has {whole} bytes, and a client reads {MAX_MESSAGE} of a message at most (protobuf's limit); "
            f"ask for fewer rows, or for fewer outputs",
        )
    return b"".join(parts)


def _entry(alias: str, tensor: Tensor, *, as_content: bool) -> tuple[bytes, bytes | memoryview]:
    """An entry of the map of outputs in two pieces, of which the second is the values."""
    kind, shape = ELEMENT_TYPES[tensor.dtype], tensor.array.shape
    if tensor.dtype == DT_STRING or (not as_content and kind.field not in PACKED_TAGS):
        message = TensorProto()
        encode_tensor(tensor, message)
        raw = message.SerializeToString()
        return _before(alias, len(raw)), raw
    before = _before_values(alias, tensor.dtype, shape, as_content=as_content)
    array = np.ascontiguousarray(tensor.array, dtype=kind.memory)
    if array.nbytes <= _SMALL:
        return before, array.tobytes()
    return before, array.reshape(-1).view(np.uint8).data


@lru_cache(maxsize=256)
def _before_values(alias: str, dtype: int, shape: tuple[int, ...], *, as_content: bool) -> bytes:
    """All of an entry but the values: how many bytes those have follows from the shape."""
    message = TensorProto()
    message.dtype = dtype  # type: ignore[assignment]
    message.tensor_shape.SetInParent()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    head, kind = message.SerializeToString(), ELEMENT_TYPES[dtype]
    values = math.prod(shape) * kind.memory.itemsize
    if values:
        head += (_CONTENT if as_content else PACKED_TAGS[kind.field]) + encode_varint(values)
    return _before(alias, len(head) + values) + head


def _before(alias: str, size: int) -> bytes:
    """What stands before a tensor of so many bytes."""
    raw = alias.encode()
    key = _KEY + encode_varint(len(raw)) + raw + _VALUE + encode_varint(size)
    return _OUTPUTS + encode_varint(len(key) + size) + key


@lru_cache(maxsize=256)
def _made_by(model: str, version: int, signature: str) -> bytes:
    spec = ModelSpec(name=model, signature_name=signature)
    spec.version.value = version
    raw = spec.SerializeToString()
    return _MODEL_SPEC + encode_varint(len(raw)) + raw
