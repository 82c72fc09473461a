"""The protocol's names for element types, and tensors as raw bytes.

Raw bytes are little-endian and row-major; each element of BYTES is its length (4 bytes) and its bytes. A shape is
compared with the bytes that came before any memory is taken for it.

Source: open-inference-protocol, specification/protocol; Triton's extension_binary_data.md.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.wire.tensor import DT_BOOL, DT_STRING, ELEMENT_TYPES, MAX_RANK, Tensor, type_name

DATATYPES = {
    10: "BOOL",
    4: "UINT8",
    17: "UINT16",
    22: "UINT32",
    23: "UINT64",
    6: "INT8",
    5: "INT16",
    3: "INT32",
    9: "INT64",
    19: "FP16",
    1: "FP32",
    2: "FP64",
    7: "BYTES",
    14: "BF16",
}
_NUMBERS = {name: number for number, name in DATATYPES.items()}
_MAX_ELEMENTS = 2**62
_LENGTH = struct.Struct("<I")


def datatype_of(dtype: int) -> str:
    """The protocol's name for one of TensorFlow's types. Raises: RequestError for one that it does not have."""
    name = DATATYPES.get(dtype)
    if name is None:
        raise RequestError(
            Status.UNIMPLEMENTED,
            f"the Open Inference Protocol has no {type_name(dtype)}; TensorFlow Serving's interface has",
        )
    return name


def dtype_of(datatype: str, *, name: str) -> int:
    """TensorFlow's number for a type of the protocol. Raises: RequestError."""
    number = _NUMBERS.get(datatype)
    if number is None:
        raise _refusal(f"input '{name}' has datatype '{datatype[:32]}'; expected one of {', '.join(_NUMBERS)}")
    return number


def count_elements(shape: Sequence[int], *, name: str) -> int:
    """How many elements a shape has. Raises: RequestError for what is no shape."""
    if len(shape) > MAX_RANK:
        raise _refusal(f"input '{name}' has rank {len(shape)}, above {MAX_RANK}")
    count = beside_zeroes = 1
    for size in shape:
        if size < 0:
            raise _refusal(f"input '{name}' has shape {list(shape)}; a size in a request is known, so -1 is none")
        count *= size
        beside_zeroes *= size or 1
    # Zeroes do not excuse the other dimensions: numpy multiplies those all the same.
    if beside_zeroes > _MAX_ELEMENTS // 16:
        raise _refusal(f"input '{name}' has shape {list(shape)}, more elements than memory has addresses")
    return count


def parse_raw(raw: bytes | memoryview, dtype: int, shape: Sequence[int], *, name: str) -> Tensor:
    """A tensor from raw bytes; its array may be a read-only view of them. Raises: RequestError."""
    count = count_elements(shape, name=name)
    if dtype == DT_STRING:
        return Tensor(dtype, _parse_strings(bytes(raw), count, name).reshape(shape))
    memory = ELEMENT_TYPES[dtype].memory
    if len(raw) != count * memory.itemsize:
        raise _refusal(
            f"unexpected total byte size {len(raw)} for input '{name}', expecting {count * memory.itemsize}: "
            f"{count} × {DATATYPES[dtype]}"
        )
    if dtype == DT_BOOL and count and np.frombuffer(raw, np.uint8).max() > 1:
        raise _refusal(f"a BOOL of input '{name}' is neither 0 nor 1")
    return Tensor(dtype, np.frombuffer(raw, memory).reshape(shape))


def encode_raw(tensor: Tensor) -> bytes:
    """A tensor's raw bytes. Raises: RequestError for a type that the protocol does not have."""
    datatype_of(tensor.dtype)
    if tensor.dtype == DT_STRING:
        return b"".join(piece for value in tensor.array.ravel() for piece in (_LENGTH.pack(len(value)), value))
    return np.ascontiguousarray(tensor.array, ELEMENT_TYPES[tensor.dtype].memory).tobytes()


def _parse_strings(raw: bytes, count: int, name: str) -> NDArray[Any]:
    if count * _LENGTH.size > len(raw):
        raise _refusal(f"input '{name}' has {len(raw)} bytes, fewer than the lengths of its {count} elements")
    values = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        begin = position + _LENGTH.size
        if begin > len(raw):
            raise _refusal(f"input '{name}' ends within element {index} of {count}")
        position = begin + _LENGTH.unpack_from(raw, position)[0]
        if position > len(raw):
            raise _refusal(f"input '{name}' ends within element {index} of {count}")
        values[index] = raw[begin:position]
    if position != len(raw):
        raise _refusal(f"input '{name}' has {len(raw) - position} bytes beyond its {count} elements")
    return values


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
