"""What this process and a worker tell each other: small messages by a socket, tensors in memory that both see.

Neither believes the other: what a hostile model made of its process is a stranger. So nothing is unpickled, and a
tensor is taken only where its type, shape and size agree with the memory that there is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.errors import WorkerError
from tacit.graph.signature import Signature, TensorSpec
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, MAX_RANK, Tensor

MAX_MESSAGE = 64 << 20  # bytes; the largest tells a model's signatures, with their default values
MAX_ANSWER = 1 << 31  # bytes; what no message of either protocol can carry away
_ALIGNED = 64  # bytes; a cache line, so that no type straddles one
_LENGTH = np.dtype("<u8")  # of each string, before them all


class Place(msgspec.Struct, frozen=True):
    """Where a tensor, or a file (without a type), lies in the shared memory."""

    name: str
    offset: int
    size: int
    dtype: int = 0
    shape: tuple[int, ...] = ()


class Inline(msgspec.Struct, frozen=True):
    """A tensor within a message."""

    dtype: int
    shape: tuple[int, ...]
    content: bytes


class Described(msgspec.Struct, frozen=True):
    """A signature. Its tensors are (name, type, shape)."""

    inputs: dict[str, tuple[str, int, tuple[int, ...] | None]]
    outputs: dict[str, tuple[str, int, tuple[int, ...] | None]]
    method: str
    defaults: dict[str, Inline]


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load a model: from the folder `place`, or from shared memory of `size` bytes where there is none.

    `fit` chooses threads for it, which takes a few runs.
    """

    names: list[str]
    place: str | None
    files: list[Place]
    size: int
    precision: Literal["f32", "f16", "bf16", "int8"]
    threads: int | None
    engine: str
    staging: str
    fit: bool
    device: Literal["cpu", "gpu"] = "cpu"


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """It is loaded."""

    platform: str
    signatures: dict[str, Described]


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Run it on these tensors."""

    signature: str
    outputs: list[str]
    tensors: list[Place]
    size: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """What came out."""

    tensors: list[Place]
    size: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What went wrong: the `reason` of an error of ours, or the name of a foreign one; the status of a RequestError."""

    reason: str
    message: str
    status: int = 0


_REQUEST: msgspec.msgpack.Decoder[Load | Ask] = msgspec.msgpack.Decoder(Load | Ask)
_REPLY: msgspec.msgpack.Decoder[Loaded | Answer | Refused] = msgspec.msgpack.Decoder(Loaded | Answer | Refused)
encode = msgspec.msgpack.Encoder().encode


def parse_request(raw: bytes | bytearray) -> Load | Ask:
    """What the worker is to do. Raises: WorkerError."""
    try:
        return _REQUEST.decode(raw)
    except msgspec.DecodeError as exc:
        raise WorkerError(f"a request to a worker is nonsense: {exc}") from exc


def parse_reply(raw: bytes | bytearray) -> Loaded | Answer | Refused:
    """What the worker says. Raises: WorkerError."""
    try:
        return _REPLY.decode(raw)
    except msgspec.DecodeError as exc:
        raise WorkerError(f"a worker's answer is nonsense: {exc}") from exc


def check_answer(answer: Answer, outputs: Sequence[str]) -> None:
    """It has what was asked for, once each, and no more than its memory can hold. Raises: WorkerError."""
    names = [place.name for place in answer.tensors]
    if sorted(names) != sorted(set(outputs)):
        raise WorkerError(f"a worker answered with {sorted(names)[:8]}, and was asked for {sorted(outputs)[:8]}")
    if answer.size > MAX_ANSWER or sum(place.size for place in answer.tensors) > answer.size:
        raise WorkerError(f"a worker's answer claims more than its {answer.size} bytes, of {MAX_ANSWER} at most")


# ---- tensors


def place_tensors(tensors: Mapping[str, Tensor]) -> tuple[list[Place], list[NDArray[np.uint8]], int]:
    """Where each tensor goes, its bytes, and how much memory they take together."""
    places, contents, end = [], [], 0
    for name, tensor in tensors.items():
        content = _bytes_of(tensor)
        places.append(Place(name, end, content.size, tensor.dtype, tensor.shape))
        contents.append(content)
        end += -(-content.size // _ALIGNED) * _ALIGNED
    return places, contents, end


def put_tensors(memory: memoryview, places: Iterable[Place], contents: Iterable[NDArray[np.uint8]]) -> None:
    """Write the bytes to their places."""
    whole = np.frombuffer(memory, np.uint8)
    for place, content in zip(places, contents, strict=True):
        whole[place.offset : place.offset + place.size] = content


def take_tensors(memory: memoryview, places: Sequence[Place], *, copy: bool) -> dict[str, Tensor]:
    """The tensors that lie there, as views of the memory unless `copy`. Raises: WorkerError."""
    found = {}
    for place in places:
        if place.offset < 0 or place.size < 0 or place.offset + place.size > len(memory):
            raise WorkerError(f"{place.name} lies outside the memory that is shared")
        part = memory[place.offset : place.offset + place.size]
        found[place.name] = _tensor(place.dtype, place.shape, bytes(part) if copy else part)
    return found


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    if tensor.dtype != DT_STRING:
        return np.ascontiguousarray(tensor.array).reshape(-1).view(np.uint8)
    words = [bytes(word) for word in tensor.array.ravel().tolist()]
    lengths = np.array([len(word) for word in words], _LENGTH).tobytes()
    return np.frombuffer(lengths + b"".join(words), np.uint8)


def _tensor(dtype: int, shape: Sequence[int], content: bytes | memoryview) -> Tensor:
    kind = ELEMENT_TYPES.get(dtype)
    if kind is None or len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise WorkerError(f"type {dtype} and shape {list(shape)} make no tensor")
    count = math.prod(shape)
    try:
        if dtype == DT_STRING:
            return Tensor(dtype, _words(content, count).reshape(shape))
        if count * kind.memory.itemsize != len(content):
            raise WorkerError(f"{len(content)} bytes for a {kind.name} of shape {list(shape)}")
        return Tensor(dtype, np.frombuffer(content, kind.memory).reshape(shape))
    except (ValueError, OverflowError) as exc:  # shapes that numpy does not take
        raise WorkerError(f"type {dtype} and shape {list(shape)} make no tensor") from exc


def _words(content: bytes | memoryview, count: int) -> NDArray[Any]:
    head = count * _LENGTH.itemsize
    if head > len(content):
        raise WorkerError(f"{len(content)} bytes cannot hold the lengths of {count} strings")
    ends = np.cumsum(np.frombuffer(content[:head], _LENGTH), dtype=np.float64)  # no overflow can make it small again
    if (ends[-1] if count else 0) != len(content) - head:
        raise WorkerError(f"the strings are not {len(content) - head} bytes long")
    words, begin = np.empty(count, dtype=object), head
    for index, end in enumerate(ends):
        words[index] = bytes(content[begin : head + int(end)])
        begin = head + int(end)
    return words


# ---- signatures


def describe(signatures: Mapping[str, Signature]) -> dict[str, Described]:
    """Signatures as a message tells them."""
    return {
        key: Described(
            {alias: (spec.name, spec.dtype, spec.shape) for alias, spec in signature.inputs.items()},
            {alias: (spec.name, spec.dtype, spec.shape) for alias, spec in signature.outputs.items()},
            signature.method,
            {
                alias: Inline(tensor.dtype, tensor.shape, _bytes_of(tensor).tobytes())
                for alias, tensor in signature.defaults.items()
            },
        )
        for key, signature in signatures.items()
    }


def signatures_of(described: Mapping[str, Described]) -> dict[str, Signature]:
    """Signatures that a message told. Raises: WorkerError."""
    return {
        key: Signature(
            {alias: _spec(*spec) for alias, spec in one.inputs.items()},
            {alias: _spec(*spec) for alias, spec in one.outputs.items()},
            one.method,
            {alias: _tensor(value.dtype, value.shape, value.content) for alias, value in one.defaults.items()},
        )
        for key, one in described.items()
    }


def _spec(name: str, dtype: int, shape: tuple[int, ...] | None) -> TensorSpec:
    if dtype not in ELEMENT_TYPES:
        raise WorkerError(f"{name} is of type {dtype}, which is none")
    return TensorSpec(name, dtype, shape)
