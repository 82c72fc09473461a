"""Tensors as typed values of a gRPC message: a repeated field per group of types.

Source: open-inference-protocol, InferTensorContents.
"""

from typing import Any

import numpy as np

from tacit.errors import RequestError, Status
from tacit.wire.pb.inference_pb2 import InferTensor, InferTensorContents
from tacit.wire.raw_tensor import DATATYPES, count_elements
from tacit.wire.tensor import DT_BFLOAT16, DT_HALF, DT_STRING, ELEMENT_TYPES, Tensor

_FIELDS = {
    10: "bool_contents",
    6: "int_contents",
    5: "int_contents",
    3: "int_contents",
    9: "int64_contents",
    4: "uint_contents",
    17: "uint_contents",
    22: "uint_contents",
    23: "uint64_contents",
    1: "fp32_contents",
    2: "fp64_contents",
    7: "bytes_contents",
}
UNTYPED = frozenset((DT_HALF, DT_BFLOAT16))
"""Types without a field of their own: they travel raw."""


def parse_contents(tensor: InferTensor, dtype: int) -> Tensor:
    """The tensor in a message's typed values. Raises: RequestError."""
    shape = tuple(tensor.shape)
    count = count_elements(shape, name=tensor.name)
    if dtype in UNTYPED:
        raise _refusal(f"{DATATYPES[dtype]} has no typed contents; send input '{tensor.name}' as raw_input_contents")
    field = _FIELDS[dtype]
    values: Any = getattr(tensor.contents, field)
    if len(values) != count:
        filled = ", ".join(found.name for found, _ in tensor.contents.ListFields())
        raise _refusal(
            f"unexpected number of elements {len(values)} in {field} for input '{tensor.name}', expecting {count}"
            + (f"; the message has {filled}" if filled and not len(values) else "")
        )
    if dtype == DT_STRING:
        strings = np.empty(count, dtype=object)
        strings[:] = list(values)
        return Tensor(dtype, strings.reshape(shape))
    memory = ELEMENT_TYPES[dtype].memory
    if field in ("int_contents", "uint_contents") and memory.itemsize < 4:
        wide = np.asarray(values, np.int32 if field == "int_contents" else np.uint32)
        limits = np.iinfo(memory)
        if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
            raise _refusal(
                f"input '{tensor.name}' has a number outside {limits.min}..{limits.max}, the range of {DATATYPES[dtype]}"
            )
        return Tensor(dtype, wide.astype(memory).reshape(shape))
    return Tensor(dtype, np.asarray(values, memory).reshape(shape))


def encode_contents(tensor: Tensor, into: InferTensorContents) -> None:
    """Write a tensor's values into an empty message; not for `UNTYPED`."""
    getattr(into, _FIELDS[tensor.dtype]).extend(tensor.array.ravel().tolist())


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
