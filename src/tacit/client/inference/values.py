"""What predictions are made of, whichever protocol carries them: arrays, signatures, versions, and who asks."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.pki.keys import KeyPair
from tacit.wire.tensor import DT_BFLOAT16, DT_STRING, ELEMENT_TYPES, Tensor, float32_of_bfloat16, type_name

Array = NDArray[Any]

# Types that several numpy types could stand for; a plain array means the first.
_TYPE_OF_DTYPE = {
    kind.memory: number for number, kind in reversed(ELEMENT_TYPES.items()) if not kind.name.startswith(("q", "bfloat"))
}

_MAX_SIZE = (1 << 31) - (1 << 20)  # bytes; protobuf's limit, less what stands around the values


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
    if spec.dtype == DT_STRING and not isinstance(value, np.ndarray):
        return make_array(name, value, dtype=np.dtype(object))  # an array of bytes drops the zeros at their ends
    array = make_array(name, value)
    if declared is None or spec.dtype in (DT_STRING, _number_of(array)):
        return array
    # Bits that stand for another type's numbers (bfloat16 in 16 bits) are no numbers that could be converted to.
    is_plain = _TYPE_OF_DTYPE.get(declared.memory) == spec.dtype
    listed = not isinstance(value, np.ndarray) and array.dtype.kind in "iufb" and declared.memory.kind in "iuf"
    if is_plain and (listed or np.can_cast(array.dtype, declared.memory, casting="same_kind")):
        return _convert(name, array, spec.dtype)
    how = " (to ml_dtypes.bfloat16)" if spec.dtype == DT_BFLOAT16 else ""
    raise InputError(
        f"input {name!r} is {array.dtype}, and the model takes {type_name(spec.dtype)}; convert it first{how}"
    )


def make_array(name: str, value: object, *, dtype: np.dtype[Any] | None = None) -> Array:
    """`value` as numpy sees it. Raises: InputError."""
    try:
        return np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InputError(f"input {name!r} is no array: {exc}") from exc


def tensor_of(name: str, array: Array) -> Tensor:
    """A tensor of the type that the array has. Raises: InputError."""
    array = np.asarray(array)
    if array.dtype.kind in "USO":
        return _strings_of(name, array)
    number = _number_of(array)
    if number is None:
        raise InputError(f"input {name!r} is {array.dtype}, which no tensor can hold")
    return Tensor(number, array.view(np.uint16) if number == DT_BFLOAT16 else array)


def output_of(tensor: Tensor) -> Array:
    """An output as numbers that numpy knows: bfloat16, which is held as bits, becomes float32, which has all its values."""
    return float32_of_bfloat16(tensor.array) if tensor.dtype == DT_BFLOAT16 else tensor.array


def check_size(inputs: Mapping[str, Array]) -> None:
    """Refuse what no message can carry, before memory is taken for it. Raises: InputError."""
    size = sum(np.asarray(array).nbytes for array in inputs.values())
    if size > _MAX_SIZE:
        raise InputError(
            f"the inputs take {size >> 20} MiB, and a message of gRPC carries {_MAX_SIZE >> 20} at most; ask for parts of the batch"
        )


def check_name(name: object, what: str) -> None:
    """Refuse a name that no message can carry. Raises: InputError."""
    if not isinstance(name, str) or not _is_utf8(name):
        raise InputError(f"{name!r} is no name of {what}: expected text")


def check_version(version: object) -> None:
    """Refuse what is no number of a version; None is any. Raises: InputError."""
    if version is None:
        return
    try:
        number = operator.index(version)  # type: ignore[arg-type]  # whatever it is
    except TypeError:
        number = -1
    if not 0 <= number < 1 << 63:
        raise InputError(f"{version!r} is no version of a model: expected a whole number from 0")


def _number_of(array: Array) -> int | None:
    """TensorFlow's number for the type of an array; bfloat16 is a type of its own that ml_dtypes brings."""
    if array.dtype.name == "bfloat16":
        return DT_BFLOAT16
    return _TYPE_OF_DTYPE.get(array.dtype.newbyteorder("<"))


def _convert(name: str, array: Array, number: int) -> Array:
    """The same values in another type. Raises: InputError, where it cannot hold them all."""
    target = ELEMENT_TYPES[number].memory
    with np.errstate(all="ignore"):  # what goes wrong is looked for here
        converted = array.astype(target)
    if np.can_cast(array.dtype, target) or not array.size:
        return converted
    if target.kind in "fc":
        kept = bool((np.isfinite(converted) | ~np.isfinite(array)).all())
    else:
        lowest, highest, limits = array.min(), array.max(), np.iinfo(target)
        # By Python's numbers, which compare exactly whatever their types.
        kept = limits.min <= lowest.item() <= highest.item() <= limits.max and bool((converted == array).all())
    if not kept:
        raise InputError(
            f"input {name!r} holds values that {type_name(number)}, which the model takes, cannot hold: they would become "
            "other ones"
        )
    return converted


def _strings_of(name: str, array: Array) -> Tensor:
    flat = array.ravel().tolist()
    if not all(isinstance(item, bytes | str) for item in flat):
        raise InputError(f"input {name!r} holds Python objects; expected numbers, strings or bytes")
    if not all(_is_utf8(item) for item in flat if isinstance(item, str)):
        raise InputError(
            f"input {name!r} holds text that UTF-8 does not have (half a character, a lone surrogate); give its bytes"
        )
    strings = np.empty(len(flat), dtype=object)
    strings[:] = [item.encode() if isinstance(item, str) else item for item in flat]
    return Tensor(DT_STRING, strings.reshape(array.shape))


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 has it: half of a surrogate pair, as file names may bring it, it does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
