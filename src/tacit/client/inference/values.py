"""What predictions are made of, whichever protocol carries them: arrays, signatures, versions, and who asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.pki.keys import KeyPair
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, Tensor, type_name

Array = NDArray[Any]

# Types that several numpy types could stand for; a plain array means the first.
_TYPE_OF_DTYPE = {
    kind.memory: number for number, kind in reversed(ELEMENT_TYPES.items()) if not kind.name.startswith(("q", "bfloat"))
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as the model declares it: TensorFlow's type number, and its shape with -1 for a free size.

    `shape` is None where the model does not say.
    """

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model on a server: its number, its state (`AVAILABLE`, `LOADING`, ...), and its error if any."""

    version: int
    state: str
    error: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays by output name, and the version of the model that computed them (None where the server does not say)."""

    outputs: Mapping[str, Array]
    version: int | None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client shows of itself where the manifest's `Clients` say who may call: a certificate, a token, or both."""

    certificate: KeyPair | None = None
    token: str = field(default="", repr=False)


def fit_to(spec: TensorSpec, name: str, value: object) -> Array:
    """`value` as an array of the type that the model declares.

    Lists take the declared type; an array is converted within its kind (float64 to float32, say) or to a wider one.

    Raises:
        InputError: no array, or one whose values would change their meaning.
    """
    declared = ELEMENT_TYPES.get(spec.dtype)
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise InputError(f"input {name!r} is no array: {exc}") from exc
    if declared is None or declared.memory == array.dtype or spec.dtype == DT_STRING:
        return array
    if not isinstance(value, np.ndarray) and array.dtype.kind in "iufb" and declared.memory.kind in "iuf":
        converted = array.astype(declared.memory)
        if declared.memory.kind == "f" or np.array_equal(converted, array):
            return converted
    if np.can_cast(array.dtype, declared.memory, casting="same_kind"):
        return array.astype(declared.memory)
    raise InputError(f"input {name!r} is {array.dtype}, and the model takes {type_name(spec.dtype)}; convert it first")


def tensor_of(name: str, array: Array) -> Tensor:
    """A tensor of the type that the array has. Raises: InputError."""
    array = np.asarray(array)
    if array.dtype.kind in "USO":
        try:
            flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        except UnicodeEncodeError as exc:
            raise InputError(
                f"input {name!r} holds text with half a character (a lone surrogate); mend the text"
            ) from exc
        if not all(isinstance(item, bytes) for item in flat):
            raise InputError(f"input {name!r} holds Python objects; expected numbers, strings or bytes")
        strings = np.empty(len(flat), dtype=object)
        strings[:] = flat
        return Tensor(DT_STRING, strings.reshape(array.shape))
    number = _TYPE_OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise InputError(f"input {name!r} is {array.dtype}, which no tensor can hold")
    return Tensor(number, array)
