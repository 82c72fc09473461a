"""Tensors in JSON, by TensorFlow Serving's rules.

A value is a number, a bool, a string or `{"b64": "..."}`; lists of them nest. The element type comes from the
signature. Lists of numbers go to numpy as they are; only where that finds anything odd is the list walked, value by
value, to say what is wrong with it.

Source: tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import gc
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.wire.tensor import (
    DT_BFLOAT16,
    DT_BOOL,
    DT_FLOAT,
    DT_HALF,
    DT_STRING,
    ELEMENT_TYPES,
    Tensor,
    float32_of_bfloat16,
    type_name,
)

_LARGE_JSON = 1 << 20  # bytes
MAX_DEPTH = 64  # nested lists; numpy has no more dimensions

_FLOATS = frozenset((1, 2, DT_HALF, DT_BFLOAT16))
# INT8, INT16, INT32 and UINT8 take what fits an int32, as TensorFlow Serving does; here it must fit the type as well.
_INTEGERS = frozenset((3, 4, 5, 6, 9, 17, 22, 23))


def parse_json(body: bytes) -> Any:
    """The first JSON value of a body; NaN, Infinity and -Infinity are numbers, and what follows is not looked at.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if not body.strip():
        raise _refusal("JSON Parse error: The document is empty")
    if len(body) < _LARGE_JSON or not gc.isenabled():
        return _parse_json(body)
    # Nothing in it can be in a cycle, and looking for some among millions of new lists takes longer than to read them.
    gc.disable()
    try:
        return _parse_json(body)
    finally:
        gc.enable()


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # perhaps only NaN or trailing bytes, which the slow parser takes
    text, unreadable = _decode_prefix(body)
    try:
        return json.JSONDecoder(parse_float=_finite).raw_decode(text.lstrip())[0]
    except (ValueError, RecursionError) as exc:
        cause = unreadable or exc
        raise _refusal(f"JSON Parse error: {str(cause) or type(cause).__name__}") from exc


def _finite(digits: str) -> float:
    """A number of the text; Infinity is spelt as that word. Raises: ValueError."""
    number = float(digits)
    if math.isinf(number):
        shown = digits if len(digits) <= 32 else digits[:32] + "..."
        raise ValueError(f"the number {shown} is too big to be stored in double")
    return number


def _decode_prefix(body: bytes) -> tuple[str, UnicodeDecodeError | None]:
    """The text that a body begins with; with what follows it, where that is none."""
    try:
        return body.decode(), None
    except UnicodeDecodeError as exc:
        return body[: exc.start].decode(), exc


def parse_value(value: Any, dtype: int) -> Tensor:
    """A tensor from a JSON value of any nesting; a bare value is a scalar.

    Raises:
        RequestError: INVALID_ARGUMENT for wrong types and ragged lists, UNIMPLEMENTED for types that JSON cannot carry.
    """
    if dtype not in _FLOATS | _INTEGERS | {DT_BOOL, DT_STRING}:
        raise RequestError(
            Status.UNIMPLEMENTED, f"Conversion of JSON Value to type: {type_name(dtype)} is not supported; use gRPC"
        )
    shape = _shape(value)
    flat = list(_flatten(value, len(shape)))
    if dtype == DT_STRING:
        strings = np.empty(len(flat), dtype=object)
        strings[:] = [parse_bytes(item) for item in flat]
        return Tensor(dtype, strings.reshape(shape))
    _check_kinds(flat, dtype)
    return Tensor(dtype, _array(flat, dtype).reshape(shape))


def check_json_size(size: int, largest: int | None) -> None:
    """Refuse more JSON than is read on this server: its values take many times the memory of its text.

    Raises:
        RequestError: RESOURCE_EXHAUSTED.
    """
    if largest is not None and size > largest:
        raise RequestError(
            Status.RESOURCE_EXHAUSTED,
            f"the JSON has {size} bytes, more than the {largest} of --max_json_bytes; "
            "send tensors as binary data or by gRPC",
        )


def encode_value(tensor: Tensor, *, as_bytes: bool) -> bytes:
    """JSON text of a tensor. Numbers read back to the same value; `as_bytes` writes strings as b64 objects."""
    array = tensor.array
    if tensor.dtype == DT_STRING:
        return orjson.dumps(_nested_strings(array, as_bytes=as_bytes))
    if tensor.dtype == DT_BFLOAT16:
        array = float32_of_bfloat16(array)
    if array.dtype.kind == "c":
        raise RequestError(
            Status.UNIMPLEMENTED, f"Conversion of {type_name(tensor.dtype)} to JSON is not supported; use gRPC"
        )
    text = orjson.dumps(np.ascontiguousarray(array) if array.ndim else array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _with_words(text, array)
    return text


def encode_text(value: bytes) -> bytes:
    """JSON text of a string; what is no UTF-8 in it is replaced."""
    return orjson.dumps(value.decode("utf-8", "replace"))


def encode_float(value: float) -> bytes:
    """JSON text of a float32, as short as it reads back to the same value."""
    return encode_value(Tensor(DT_FLOAT, np.asarray(value, np.float32)), as_bytes=False)


# ---- parsing


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)


def _shape(value: Any) -> tuple[int, ...]:
    """Sizes along the first element of each list; `_flatten` finds out whether the others agree."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_DEPTH:
            raise _refusal(f"lists are nested more than {MAX_DEPTH} deep")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _flatten(value: Any, depth: int) -> Iterator[Any]:
    """The values of a list that is nested exactly `depth` deep and not ragged, in row-major order."""
    if depth == 0:
        return iter((value,))
    level = value
    for step in range(1, depth):
        sizes = {len(item) if isinstance(item, list) else -1 for item in level}
        if -1 in sizes:
            raise _refusal(f"Encountered a value at unexpected level: {step} expected a list")
        if len(sizes) > 1:
            smallest, largest = min(sizes), max(sizes)
            raise _refusal(f"Encountered list at unexpected size: {largest} at level: {step} expected size: {smallest}")
        level = list(chain.from_iterable(level))
    if list in set(map(type, level)):
        raise _refusal(f"Encountered list at unexpected level: {depth} expected a value")
    return iter(level)


def _check_kinds(flat: list[Any], dtype: int) -> None:
    kinds = set(map(type, flat))
    if dtype == DT_BOOL:
        wanted: set[type] = {bool}
    else:
        wanted = {int, float} if dtype in _FLOATS else {int}
    if kinds - wanted:
        wrong = next(item for item in flat if type(item) not in wanted)
        raise _wrong_type(wrong, dtype)


def _wrong_type(value: Any, dtype: int) -> RequestError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 64 else shown[:64] + "..."
    kinds = {str: "String", bool: "Bool", dict: "Object", list: "Array", type(None): "Null"}
    kind = kinds.get(type(value), "Number")
    return _refusal(f"JSON Value: {shown} Type: {kind} is not of expected type: {type_name(dtype)}")


def _array(flat: list[Any], dtype: int) -> NDArray[Any]:
    memory = ELEMENT_TYPES[dtype].memory
    try:
        if dtype == DT_BFLOAT16:
            return _bfloat16_of(np.array(flat, np.float32))
        # A number beyond the type's range becomes infinite, as a cast in C does.
        with np.errstate(over="ignore"):
            return np.array(flat, memory)
    except OverflowError as exc:
        raise _refusal(f"a JSON number is outside the range of {type_name(dtype)}") from exc


def _bfloat16_of(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16 bits, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def parse_bytes(value: Any) -> bytes:
    """The bytes of a JSON string or of a b64 object. Raises: RequestError."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as exc:
            raise _refusal("a JSON string has half a character (a lone surrogate), which is no text") from exc
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return _unescape(value["b64"])
        except ValueError as exc:
            raise _refusal("Unable to base64 decode a b64 value") from exc
    raise _wrong_type(value, DT_STRING)


def _unescape(text: str) -> bytes:
    """Base64 as TensorFlow Serving reads it: white space is passed over, and the padding is there whole or not at all.

    Raises:
        ValueError: anything else.

    Source: absl/strings/escaping.cc, Base64Unescape.
    """
    if len(text) % 4 == 0:
        with suppress(binascii.Error):
            return base64.b64decode(text, validate=True)  # nearly always
    packed = text.encode("ascii").translate(None, b" \t\n\v\f\r")
    bare = packed.rstrip(b"=")
    needed = -len(bare) % 4
    if len(packed) - len(bare) not in (0, needed):
        raise ValueError("the padding is too long or too short")
    return base64.b64decode(bare + b"=" * needed, validate=True)


# ---- encoding


def _nested_strings(array: NDArray[Any], *, as_bytes: bool) -> Any:
    def one(value: bytes) -> Any:
        if as_bytes:
            return {"b64": base64.b64encode(value).decode()}
        return value.decode("utf-8", "replace")

    def nest(value: Any) -> Any:
        return [nest(item) for item in value] if isinstance(value, list) else one(value)

    return nest(array.tolist())


def _with_words(text: bytes, array: NDArray[Any]) -> bytes:
    """NaN, Infinity and -Infinity as bare words, which JSON does not have and TensorFlow Serving writes.

    `text` has `null` in the place of each, and no number has that word in it.
    """
    odd = array[~np.isfinite(array)]
    words = np.where(np.isnan(odd), b"NaN", np.where(odd > 0, b"Infinity", b"-Infinity")).tolist()
    return b"".join(chain.from_iterable(zip(text.split(b"null"), [*words, b""], strict=True)))
