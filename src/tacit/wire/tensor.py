"""Tensors on the wire and in memory: TensorFlow's TensorProto to numpy and back.

A `Tensor` is a numpy array beside TensorFlow's type number, because several types share one numpy type:
bfloat16 and the quantised integers are held in the integers of their width, strings in an object array of `bytes`.

What TensorFlow reads silently wrong is refused here: too many values, values in another type's field, numbers that
do not fit their type. A shape is checked against a budget before any memory is taken for it: sixty bytes may claim
gigabytes, since one value may stand for all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.wire.pb.tensorflow_pb2 import TensorProto

DT_FLOAT, DT_STRING, DT_BOOL, DT_BFLOAT16, DT_HALF = 1, 7, 10, 14, 19

FILL_BUDGET = 64 * 1024 * 1024
"""Bytes that a message may leave to be filled in: what it claims beyond the values that it brings."""

MAX_RANK = 64  # numpy's own limit; TensorFlow's is 254
_MAX_ELEMENTS = 2**62

_SHORT_INTEGERS = ("int_val", "half_val")  # int32 on the wire, narrower in memory


@dataclass(frozen=True, slots=True)
class ElementType:
    """One of TensorFlow's types: its name in error messages, how it lies in memory, and its field in a TensorProto."""

    name: str
    memory: np.dtype[Any]
    field: str


def _type(name: str, memory: str, field: str) -> ElementType:
    return ElementType(name, np.dtype(memory), field)


ELEMENT_TYPES = {
    1: _type("float", "<f4", "float_val"),
    2: _type("double", "<f8", "double_val"),
    3: _type("int32", "<i4", "int_val"),
    4: _type("uint8", "u1", "int_val"),
    5: _type("int16", "<i2", "int_val"),
    6: _type("int8", "i1", "int_val"),
    7: _type("string", "O", "string_val"),
    8: _type("complex64", "<c8", "scomplex_val"),
    9: _type("int64", "<i8", "int64_val"),
    10: _type("bool", "?", "bool_val"),
    11: _type("qint8", "i1", "int_val"),
    12: _type("quint8", "u1", "int_val"),
    13: _type("qint32", "<i4", "int_val"),
    14: _type("bfloat16", "<u2", "half_val"),
    15: _type("qint16", "<i2", "int_val"),
    16: _type("quint16", "<u2", "int_val"),
    17: _type("uint16", "<u2", "int_val"),
    18: _type("complex128", "<c16", "dcomplex_val"),
    19: _type("half", "<f2", "half_val"),
    22: _type("uint32", "<u4", "uint32_val"),
    23: _type("uint64", "<u8", "uint64_val"),
}

# Packed repeated fields whose payload is the array's own bytes: tag of the field, wire type 2.
PACKED_TAGS = {
    "float_val": b"\x2a",
    "double_val": b"\x32",
    "scomplex_val": b"\x4a",
    "bool_val": b"\x5a",
    "dcomplex_val": b"\x62",
}
VALUE_FIELDS = frozenset(kind.field for kind in ELEMENT_TYPES.values())


class Tensor(msgspec.Struct, frozen=True):
    """An array and TensorFlow's number for its type."""

    dtype: int
    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions; `()` for a scalar."""
        return self.array.shape


def type_name(dtype: int) -> str:
    """TensorFlow's name for a type number, as its error messages spell it."""
    kind = ELEMENT_TYPES.get(dtype)
    return kind.name if kind else f"type {dtype}"


def parse_tensor(proto: TensorProto, *, fill_budget: int = FILL_BUDGET) -> Tensor:
    """The tensor in a message; its array may be a read-only view of the message's bytes.

    `tensor_content` wins over typed values. Fewer values than elements: the last one fills the rest, none means zeros.

    Raises:
        RequestError: INVALID_ARGUMENT for what cannot be a tensor, RESOURCE_EXHAUSTED beyond `fill_budget` bytes.

    Source: tensorflow/core/framework/tensor.proto.
    """
    kind = ELEMENT_TYPES.get(proto.dtype)
    if kind is None:
        raise _refusal(f"type {proto.dtype} is not one that a tensor can have here")
    shape, count = _shape(proto, kind)
    content = proto.tensor_content
    if content:
        flat = _parse_strings(content, count) if proto.dtype == DT_STRING else _parse_content(content, kind, count)
    else:
        flat = _parse_values(proto, kind, count, fill_budget)
    return Tensor(proto.dtype, flat.reshape(shape))


def read_content(message: bytes, begin: int, dtype: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor of numbers whose values stand in a message from `begin` on; a view of them, and nothing is checked again."""
    return Tensor(dtype, np.frombuffer(message, ELEMENT_TYPES[dtype].memory, math.prod(shape), begin).reshape(shape))


def encode_tensor(tensor: Tensor, into: TensorProto, *, as_content: bool = False) -> None:
    """Write a tensor into an empty message: typed values, or `tensor_content` if asked (strings are always typed)."""
    kind = ELEMENT_TYPES[tensor.dtype]
    into.dtype = tensor.dtype  # type: ignore[assignment]
    dims = into.tensor_shape.dim
    into.tensor_shape.SetInParent()
    for size in tensor.array.shape:
        dims.add(size=size)
    if tensor.dtype == DT_STRING:
        into.string_val.extend(tensor.array.ravel().tolist())
        return
    array = np.ascontiguousarray(tensor.array, dtype=kind.memory)
    if as_content:
        into.tensor_content = array.tobytes()
    elif kind.field in PACKED_TAGS:
        # A packed field is its tag, its length and the little-endian values: parsing that is one copy, where
        # extending from a list makes a Python object per value.
        payload = array.tobytes()
        if payload:
            into.MergeFromString(PACKED_TAGS[kind.field] + encode_varint(len(payload)) + payload)
    else:
        bits = array.view(np.uint16) if kind.field == "half_val" else array
        getattr(into, kind.field).extend(bits.ravel().tolist())


def float32_of_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values of bfloat16 bits: the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    if number <= 0x7F:
        return bytes((number,))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# ---- parsing


def _refusal(message: str, status: Status = Status.INVALID_ARGUMENT) -> RequestError:
    return RequestError(status, message)


def _shape(proto: TensorProto, kind: ElementType) -> tuple[tuple[int, ...], int]:
    """Dimensions and number of elements, both checked before anything is allocated."""
    if proto.tensor_shape.unknown_rank:
        raise _refusal("a tensor's rank is known; unknown_rank belongs into signatures")
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if len(shape) > MAX_RANK:
        raise _refusal(f"rank {len(shape)} is above {MAX_RANK}")
    if shape and min(shape) < 0:
        raise _refusal(f"shape {list(shape)} has a negative dimension")
    count = math.prod(shape)
    # Zeroes do not excuse the other dimensions: numpy multiplies those all the same.
    if (count or math.prod(filter(None, shape))) > _MAX_ELEMENTS // max(kind.memory.itemsize, 1):
        raise _refusal(f"shape {list(shape)} has more elements than memory has addresses")
    return shape, count


def _parse_content(content: bytes, kind: ElementType, count: int) -> NDArray[Any]:
    expected = count * kind.memory.itemsize
    if len(content) != expected:
        raise _refusal(f"tensor_content has {len(content)} bytes, {count} × {kind.name} need {expected}")
    if kind.name == "bool" and np.frombuffer(content, np.uint8).max() > 1:
        raise _refusal("a bool in tensor_content is neither 0 nor 1")
    return np.frombuffer(content, kind.memory)


def _parse_strings(content: bytes, count: int) -> NDArray[Any]:
    """Strings in tensor_content: all lengths as varints, then all bytes."""
    if count > len(content):
        raise _refusal(f"tensor_content has {len(content)} bytes, fewer than its {count} strings")
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 63:
                raise _refusal("tensor_content ends within the lengths of its strings")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise _refusal(f"tensor_content has {len(content)} bytes, its strings need {position + sum(lengths)}")
    values = np.empty(count, dtype=object)
    for index, length in enumerate(lengths):
        values[index] = content[position : position + length]
        position += length
    return values


def _parse_values(proto: TensorProto, kind: ElementType, count: int, fill_budget: int) -> NDArray[Any]:
    values: Sequence[Any] = getattr(proto, kind.field)
    per_element = 2 if kind.memory.kind == "c" else 1
    given, rest = divmod(len(values), per_element)
    if rest:
        raise _refusal(f"{kind.field} has {len(values)} numbers, a {kind.name} needs pairs")
    if given > count:
        raise _refusal(f"{kind.field} has {given} values for {count} elements")
    if not given and (foreign := [f.name for f, _ in proto.ListFields() if f.name in VALUE_FIELDS]):
        raise _refusal(f"{kind.name} values belong into {kind.field}; this message has {', '.join(foreign)}")
    if (count - given) * kind.memory.itemsize > fill_budget:
        raise _refusal(
            f"the message brings {given} values for {count} elements of {kind.name}; "
            f"at most {fill_budget} bytes are filled in. Send the values themselves",
            Status.RESOURCE_EXHAUSTED,
        )
    flat = _array_of(values, kind)
    if given == count:
        return flat
    filled: NDArray[Any] = np.empty(count, kind.memory)
    filled[:given] = flat
    filled[given:] = flat[-1] if given else (b"" if kind.field == "string_val" else 0)
    return filled


def _array_of(values: Sequence[Any], kind: ElementType) -> NDArray[Any]:
    if kind.field == "string_val":
        strings = np.empty(len(values), dtype=object)
        strings[:] = list(values)
        return strings
    if kind.field not in _SHORT_INTEGERS:
        if kind.memory.kind == "c":
            real = np.dtype("<f4") if kind.memory.itemsize == 8 else np.dtype("<f8")
            return np.asarray(values, real).view(kind.memory)
        return np.asarray(values, kind.memory)
    wide = np.asarray(values, np.int32)
    stored = np.dtype("<u2") if kind.field == "half_val" else kind.memory
    limits = np.iinfo(stored)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise _refusal(f"{kind.field} has a number outside {limits.min}..{limits.max}, the range of {kind.name}")
    return wide.astype(stored).view(kind.memory)
