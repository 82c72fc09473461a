"""A ModelInferResponse with its tensors as raw bytes, put together without a message in between.

All but the values is the same for each answer of a version and a shape, to requests without an id.
"""

from collections.abc import Mapping
from functools import lru_cache

from tacit.wire.direct.prediction import joined
from tacit.wire.pb.inference_pb2 import ModelInferResponse
from tacit.wire.raw_tensor import datatype_of, encode_raw
from tacit.wire.tensor import Tensor, encode_varint

_RAW = b"\x32"  # the field's tag: its number and wire type 2 (bytes of a length that follows)


def encode_inference(model: str, version: int, outputs: Mapping[str, Tensor]) -> bytes:
    """The whole message.

    Raises:
        RequestError: A type that the protocol does not have, or more bytes than any message may have.
    """
    shapes = tuple([(name, tensor.dtype, tensor.array.shape) for name, tensor in outputs.items()])
    parts: list[bytes | memoryview] = [_head(model, version, shapes)]
    for tensor in outputs.values():
        raw = encode_raw(tensor)
        parts += (_RAW, encode_varint(len(raw)), raw)
    return joined(parts)


@lru_cache(maxsize=256)
def _head(model: str, version: int, shapes: tuple[tuple[str, int, tuple[int, ...]], ...]) -> bytes:
    message = ModelInferResponse(model_name=model, model_version=str(version))
    for name, dtype, shape in shapes:
        message.outputs.add(name=name, datatype=datatype_of(dtype), shape=shape)
    return message.SerializeToString()
