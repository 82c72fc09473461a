"""A PredictResponse as bytes, put together without a message in between.

Its head is the same for each answer of a version, and so is that of a tensor of a shape: only the values are new, and
those are copied once, where a message would copy them three times.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from tacit.wire.pb.serving_pb2 import ModelSpec
from tacit.wire.pb.tensorflow_pb2 import TensorProto
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, PACKED_TAGS, Tensor, encode_tensor, encode_varint

# Tags: field number and wire type 2 (bytes of a length that follows).
_OUTPUTS, _MODEL_SPEC = b"\x0a", b"\x12"  # of PredictResponse
_KEY, _VALUE = b"\x0a", b"\x12"  # of an entry of a map
_CONTENT = b"\x22"  # tensor_content, of TensorProto


def encode_prediction(
    model: str, version: int, signature: str, outputs: Mapping[str, Tensor], *, as_content: bool = False
) -> bytes:
    """The whole message: typed values, or `tensor_content` if asked (strings are always typed)."""
    parts: list[bytes | memoryview] = []
    for alias, tensor in outputs.items():
        head, values = _tensor(tensor, as_content=as_content)
        key = _key(alias)
        size = len(head) + len(values)
        length = encode_varint(size)
        parts += (_OUTPUTS, encode_varint(len(key) + len(length) + size), key, length, head, values)
    parts.append(_made_by(model, version, signature))
    return b"".join(parts)


def _tensor(tensor: Tensor, *, as_content: bool) -> tuple[bytes, bytes | memoryview]:
    """A TensorProto in two pieces, of which the second is the values."""
    kind = ELEMENT_TYPES[tensor.dtype]
    tag = _CONTENT if as_content else PACKED_TAGS.get(kind.field)
    if tensor.dtype == DT_STRING or tag is None:
        message = TensorProto()
        encode_tensor(tensor, message)
        return message.SerializeToString(), b""
    array = np.ascontiguousarray(tensor.array, dtype=kind.memory)
    head = _head(tensor.dtype, tensor.array.shape)
    if not array.size:
        return head, b""
    return head + tag + encode_varint(array.nbytes), array.reshape(-1).view(np.uint8).data


@lru_cache(maxsize=256)
def _head(dtype: int, shape: tuple[int, ...]) -> bytes:
    """Type and shape."""
    message = TensorProto()
    message.dtype = dtype  # type: ignore[assignment]
    message.tensor_shape.SetInParent()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message.SerializeToString()


@lru_cache(maxsize=256)
def _key(alias: str) -> bytes:
    """An entry's key, and the tag of its value."""
    raw = alias.encode()
    return _KEY + encode_varint(len(raw)) + raw + _VALUE


@lru_cache(maxsize=256)
def _made_by(model: str, version: int, signature: str) -> bytes:
    spec = ModelSpec(name=model, signature_name=signature)
    spec.version.value = version
    raw = spec.SerializeToString()
    return _MODEL_SPEC + encode_varint(len(raw)) + raw
