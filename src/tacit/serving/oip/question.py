"""An inference in neither door's words: what is asked, and how an answer is found.

The protocol knows no signatures: a model answers by its `serving_default`, or by its only one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import numpy as np

from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT
from tacit.serving.callers import Caller
from tacit.serving.plane import Plane, Selector, Served, State, check_aliases, choose_outputs
from tacit.wire.tensor import DT_BFLOAT16, DT_STRING, Tensor, float32_of_bfloat16

Wire = TypeVar("Wire")

_LONGEST_VERSION = 18  # digits; any such number fits into 64 bits
_LARGEST = 2**63
SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that is asked for; with `classes` as so many of its best, in words."""

    name: str
    classes: int = 0


class Question(msgspec.Struct, Generic[Wire], frozen=True):
    """One inference. `timeout` is microseconds, 0 for none."""

    selector: Selector
    inputs: Mapping[str, Wire]
    wanted: Sequence[Wanted] = ()
    timeout: int = 0


class Found(msgspec.Struct, frozen=True):
    """Outputs in the order of the question, or of the model."""

    model: str
    version: int
    outputs: Mapping[str, Tensor]


async def answer(
    plane: Plane,
    question: Question[Wire],
    *,
    decode: Callable[[str, Wire], Tensor],
    deadline: float | None,
) -> Found:
    """Run a question. Raises: RequestError."""
    served = find(plane, question.selector)
    key = signature_of(served)
    if foreign := [name for name in question.inputs if name not in served.signatures[key].inputs]:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"unexpected inference input '{foreign[0]}' for model '{served.name}', whose inputs are "
            f"{', '.join(served.signatures[key].inputs)}",
        )
    if question.timeout:
        ours = time.monotonic() + question.timeout / 1e6
        deadline = ours if deadline is None else min(deadline, ours)
    check_aliases(served.signatures[key], question.inputs)
    tensors = {alias: decode(alias, value) for alias, value in question.inputs.items()}
    outputs = choose_outputs(served.signatures[key], [wanted.name for wanted in question.wanted])
    prediction = await plane.run(question.selector, served, key, tensors, outputs=outputs, deadline=deadline)
    found = dict(prediction.outputs)
    for wanted in question.wanted:
        if wanted.classes:
            found[wanted.name] = classify(found[wanted.name], wanted.classes, name=wanted.name)
    return Found(prediction.model, prediction.version, found)


def find(plane: Plane, selector: Selector) -> Served:
    """The loaded version that is meant. Raises: RequestError; UNAVAILABLE for one that will be there soon."""
    try:
        return plane.find(selector)
    except RequestError as exc:
        if exc.status is not Status.NOT_FOUND:
            raise
        states = {
            status.state
            for status in plane.models.statuses(selector.model)
            if selector.version is None or status.version == selector.version
        }
        if states & {State.START, State.LOADING}:
            raise RequestError(Status.UNAVAILABLE, f"model '{selector.model}' is being loaded; try again soon") from exc
        raise RequestError(Status.NOT_FOUND, _unknown(selector)) from exc


def _unknown(selector: Selector) -> str:
    if selector.version is None:
        return f"Request for unknown model: '{selector.model}' is not found"
    return f"Request for unknown model: '{selector.model}' version {selector.version} is not found"


def select(name: str, version: str, caller: Caller | None = None) -> Selector:
    """A model by the protocol's strings; no version, or -1, is the latest. Raises: RequestError."""
    if not name:
        raise RequestError(Status.INVALID_ARGUMENT, "the request names no model")
    if version in ("", "-1"):
        return Selector(name, caller=caller)
    if not (version.isascii() and version.isdigit() and len(version) <= _LONGEST_VERSION):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"failed to get model version from specified version string '{version[:32]}'; expected a whole number",
        )
    return Selector(name, version=int(version), caller=caller)


def signature_of(served: Served) -> str:
    """The signature that answers. Raises: RequestError where a model has several and none is the default."""
    if SERVING_DEFAULT in served.signatures:
        return SERVING_DEFAULT
    if len(served.signatures) == 1:
        return next(iter(served.signatures))
    raise RequestError(
        Status.FAILED_PRECONDITION,
        f"model '{served.name}' has the signatures {', '.join(sorted(served.signatures))}, and none of them is "
        f"{SERVING_DEFAULT}; TensorFlow Serving's interface can name one",
    )


def whole_number(name: str, value: object) -> int:
    """A parameter that is a whole number; some clients write it as text. Raises: RequestError."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _LONGEST_VERSION:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise RequestError(Status.INVALID_ARGUMENT, f"parameter '{name}' is no whole number")
    return value


def microseconds(value: object) -> int:
    """The parameter `timeout`; 0 for none. Clients that know one kind of number write 1.5, or null for none.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if value is None:
        return 0
    if isinstance(value, float) and 0 <= value < _LARGEST:
        return math.ceil(value)  # what is left of a microsecond is some time, and 0 would be all of it
    return whole_number("timeout", value)


_NO_SHARED_MEMORY = (
    "shared memory, which this server does not read: "
    "a client would hand it another process's memory. Send the tensor itself"
)


def refuse_shared_memory(name: str) -> RequestError:
    """The refusal of a tensor that lies in somebody's memory."""
    return RequestError(Status.UNIMPLEMENTED, f"'{name}' is in {_NO_SHARED_MEMORY}")


def refuse_to_share(method: str) -> RequestError:
    """The refusal of a method, or a path, by which memory would be shared."""
    return RequestError(Status.UNIMPLEMENTED, f"{method} is about {_NO_SHARED_MEMORY}")


def classify(tensor: Tensor, classes: int, *, name: str) -> Tensor:
    """The best `classes` of each row, as BYTES `value:index`; a tensor of one dimension is one row.

    Raises:
        RequestError: it holds no numbers.

    Source: Triton's extension_classification.md.
    """
    array = float32_of_bfloat16(tensor.array) if tensor.dtype == DT_BFLOAT16 else tensor.array
    if array.dtype.kind not in "iuf" or not array.ndim:
        raise RequestError(Status.INVALID_ARGUMENT, f"output '{name}' cannot be classified: it is no row of numbers")
    rows = array.reshape(array.shape[0] if array.ndim > 1 else 1, math.prod(array.shape[1:]) if array.ndim > 1 else -1)
    count = min(classes, rows.shape[1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    words = np.empty((rows.shape[0], count), dtype=object)
    for row in range(rows.shape[0]):
        for place, index in enumerate(best[row]):
            words[row, place] = f"{rows[row, index]:f}:{index}".encode()
    return Tensor(DT_STRING, words if array.ndim > 1 else words[0])
