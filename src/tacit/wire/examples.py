"""tf.Example to tensors: features by name, one row for each example.

An example is read when it is known what is wanted of it. Types are held to, as TensorFlow holds to them: `80` in a
feature of floats is a mistake. What an example has beyond that is not looked at.

Source: tensorflow/core/example/example.proto, and ParseExample's documentation in tensorflow/core/ops/parsing_ops.cc.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.wire.pb.tensorflow_pb2 import Example
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, FILL_BUDGET, Tensor, type_name

_FLOATS = frozenset((1, 2, 19))
_INTEGERS = frozenset((3, 4, 5, 6, 9, 10, 17, 22, 23))


@dataclass(frozen=True, slots=True)
class Feature:
    """What one feature must be: type, and shape of one row, with at most one free size.

    `default` is what an example without the feature gets, None where it must have it.
    """

    dtype: int
    shape: tuple[int, ...]
    default: NDArray[Any] | None = None


def parse_examples(serialized: Sequence[bytes], features: Mapping[str, Feature]) -> dict[str, Tensor]:
    """One tensor for each feature, with a row for each example.

    Raises:
        RequestError: INVALID_ARGUMENT for bytes that are no example, and features that are missing or of another kind.
    """
    examples = [_parse(raw) for raw in serialized]
    return {name: _column(examples, name, feature) for name, feature in features.items()}


def _parse(raw: bytes) -> Example:
    try:
        return Example.FromString(raw)
    except DecodeError as exc:
        raise _refusal("Could not parse example input, it is no tf.Example") from exc


def _column(examples: Sequence[Example], name: str, feature: Feature) -> Tensor:
    rows: list[NDArray[Any]] = []
    filled = 0
    for number, example in enumerate(examples):
        values = _values(example, name, feature)
        if values is None:
            values = _default(name, feature)
            filled += values.nbytes
        if filled > FILL_BUDGET:
            raise RequestError(
                Status.RESOURCE_EXHAUSTED,
                f"at most {FILL_BUDGET} bytes are filled in for examples without feature {name}; send its values",
            )
        row = _row(values, name, feature)
        if rows and row.shape != rows[0].shape:
            raise _refusal(
                f"Name: <unknown>, Key: {name}, Index: {number}.  Number of {type_name(feature.dtype)} values != "
                f"expected.  Values size: {row.size} but output shape: {_show(rows[0].shape)}"
            )
        rows.append(row)
    return Tensor(feature.dtype, np.stack(rows))


def _values(example: Example, name: str, feature: Feature) -> NDArray[Any] | None:
    """The values in an example, None where it has none of this name."""
    if name not in example.features.feature:
        return None
    found = example.features.feature[name]
    kind = found.WhichOneof("kind")
    if kind is None:
        return None
    wanted, expected = _list_of(feature.dtype)
    if kind != wanted:
        raise _refusal(
            f"Name: <unknown>, Feature: {name}.  Data types don't match. Data type: {_KINDS[kind]} "
            f"but expected type: {expected}"
        )
    values = getattr(found, kind).value
    if kind == "bytes_list":
        strings = np.empty(len(values), dtype=object)
        strings[:] = list(values)
        return strings
    return _array(np.asarray(values), name, feature.dtype)


def _array(values: NDArray[Any], name: str, dtype: int) -> NDArray[Any]:
    memory = ELEMENT_TYPES[dtype].memory
    if memory.kind in "iu" and values.size:
        limits = np.iinfo(memory)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise _refusal(f"feature {name} has a number outside {limits.min}..{limits.max}, the range of its type")
    with np.errstate(over="ignore"):
        return values.astype(memory)


def _default(name: str, feature: Feature) -> NDArray[Any]:
    if feature.default is None:
        raise _refusal(
            f"Name: <unknown>, Feature: {name} (data type: {type_name(feature.dtype)}) is required but could not be "
            "found."
        )
    return feature.default.reshape(-1)


def _row(values: NDArray[Any], name: str, feature: Feature) -> NDArray[Any]:
    known = math.prod(size for size in feature.shape if size >= 0)
    free = any(size < 0 for size in feature.shape)
    if values.size != known and not (free and known and values.size % known == 0):
        raise _refusal(
            f"Name: <unknown>, Key: {name}, Index: 0.  Number of {type_name(feature.dtype)} values != expected.  "
            f"Values size: {values.size} but output shape: {_show(feature.shape)}"
        )
    return values.reshape(feature.shape)


_KINDS = {"float_list": "float", "int64_list": "int64", "bytes_list": "string"}


def _list_of(dtype: int) -> tuple[str, str]:
    if dtype in _FLOATS:
        return "float_list", "float"
    if dtype in _INTEGERS:
        return "int64_list", "int64"
    if dtype == DT_STRING:
        return "bytes_list", "string"
    raise RequestError(
        Status.UNIMPLEMENTED, f"a tf.Example cannot carry {type_name(dtype)}; call Predict with a tensor"
    )


def _show(shape: Sequence[int]) -> str:
    return "[" + ",".join("?" if size < 0 else str(size) for size in shape) + "]"


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
