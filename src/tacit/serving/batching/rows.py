"""Tensors of several requests as one, and the answer as several: the first dimension is what is joined.

Nothing here knows a model. Whoever joins looks at `row_key` first: only requests with the same key fit together.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from tacit.wire.tensor import Tensor

Tensors = Mapping[str, Tensor]


def count_rows(tensors: Tensors) -> int | None:
    """The first dimension that all have; None where one has none, or they differ."""
    rows = None
    for tensor in tensors.values():
        shape = tensor.array.shape
        if not shape or (rows is not None and rows != shape[0]):
            return None
        rows = shape[0]
    return rows


def row_key(tensors: Tensors, *, pad: bool) -> Hashable:
    """What must be the same for two requests to be joined: the shapes of a row, or only their ranks where rows are padded."""
    keys = [(alias, tensor.dtype, len(tensor.shape) if pad else tensor.shape[1:]) for alias, tensor in tensors.items()]
    return tuple(sorted(keys))


def join(parts: Sequence[Tensors], size: int) -> dict[str, Tensor]:
    """One input of `size` rows: the parts' rows, and the first row again until there are so many.

    Rows of different shapes are padded at their ends with the first value of their tensor, as TensorFlow Serving does.
    """
    return {alias: _join([part[alias] for part in parts], size) for alias in parts[0]}


def _join(tensors: Sequence[Tensor], size: int) -> Tensor:
    first = tensors[0]
    width = tuple(max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True))
    joined = np.empty((size, *width), first.array.dtype)
    at = 0
    for tensor in tensors:
        rows = tensor.shape[0]
        place = joined[at : at + rows]
        if tensor.shape[1:] != width:
            place[...] = tensor.array.flat[0] if tensor.array.size else _zero(tensor)
            place = place[(slice(None), *(slice(0, extent) for extent in tensor.shape[1:]))]
        place[...] = tensor.array
        at += rows
    if at < size:
        joined[at:] = joined[0] if at else _zero(first)
    return Tensor(first.dtype, joined)


def _zero(tensor: Tensor) -> object:
    return b"" if tensor.array.dtype == object else 0


def take_rows(tensors: Tensors, begin: int, end: int) -> dict[str, Tensor]:
    """The rows from `begin` to before `end`."""
    return {alias: Tensor(tensor.dtype, tensor.array[begin:end]) for alias, tensor in tensors.items()}


def stack(parts: Sequence[Tensors]) -> dict[str, Tensor]:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    return {
        alias: Tensor(tensor.dtype, np.concatenate([part[alias].array for part in parts]))
        for alias, tensor in parts[0].items()
    }
