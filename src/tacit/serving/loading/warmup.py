"""A run before a version answers: engines plan and take their memory at the first run, which is slow.

Where the model's owner recorded requests, those are run, and a version that cannot answer them does not answer at all.
Otherwise it runs once on zeros, which are made from a signature. They prove nothing about the model: whatever goes
wrong then is told, and the version is served all the same, because zeros may be a shape or a value that it was never
meant to take.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.batching import Statistics
from tacit.serving.bundle import Bundle
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

if TYPE_CHECKING:
    from tacit.serving.plane import Served

MAX_INPUTS = 64 << 20  # bytes of zeros; far above one image, far below what a hostile signature can spell
PATIENCE = 60.0  # seconds; a version that takes longer for one row answers while it is still at it


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was recorded."""

    signature: str
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]


Recorded = Callable[[Bundle, Mapping[str, Signature]], Sequence[Call]]
"""The requests among a model's files; empty where there are none. Raises: ModelFormatError, RequestError."""


def run_recorded(served: "Served", calls: Sequence[Call], iterations: int) -> None:
    """Run what was recorded, `iterations` times over. Raises: RequestError at the first that fails."""
    for _ in range(iterations if calls else 0):
        for place, call in enumerate(calls):
            try:
                served.submit(call.signature, call.inputs, call.outputs).result(PATIENCE)
            except RequestError as exc:
                raise RequestError(exc.status, f"warmup request {place} failed: {exc}") from exc
            except TimeoutError as exc:
                raise RequestError(
                    Status.DEADLINE_EXCEEDED, f"warmup request {place} takes more than {PATIENCE:.0f} seconds"
                ) from exc


def warm_up(served: "Served") -> str:
    """Run a version once on zeros, by its default signature if it has one; what went wrong, empty if nothing."""
    keys = sorted(served.signatures, key=lambda key: (key != SERVING_DEFAULT, key))
    if not keys:
        return "it has no signature"
    signature = served.signatures[keys[0]]
    try:
        served.submit(keys[0], zeros_for(signature), tuple(signature.outputs)).result(PATIENCE)
    except TimeoutError:
        return f"a run on zeros takes more than {PATIENCE:.0f} seconds"
    except RequestError as exc:
        return f"a run on zeros failed: {exc}"
    except Exception as exc:  # an engine's surprise must not keep back a version that may work
        return f"a run on zeros failed ({type(exc).__name__})"
    return ""


def count_anew(served: "Served") -> None:
    """Forget what a version did so far: what it ran before it answered was nobody's request."""
    fresh = Statistics()
    for part in fields(fresh):
        setattr(served.statistics, part.name, getattr(fresh, part.name))


def zeros_for(signature: Signature) -> dict[str, Tensor]:
    """Zeros for every input; sizes that are free are 1, and so is the one size of a shape of unknown rank.

    Raises:
        RequestError: UNIMPLEMENTED, they would take more than `MAX_INPUTS`.
    """
    shapes = {
        alias: (1,) if spec.shape is None else tuple(1 if size < 0 else size for size in spec.shape)
        for alias, spec in signature.inputs.items()
    }
    memories = {alias: np.dtype(ELEMENT_TYPES[spec.dtype].memory) for alias, spec in signature.inputs.items()}
    needed = sum(math.prod(shape) * memories[alias].itemsize for alias, shape in shapes.items())
    if needed > MAX_INPUTS:
        raise RequestError(Status.UNIMPLEMENTED, f"zeros for its inputs would take {needed} bytes")
    return {
        alias: Tensor(spec.dtype, _zeros(shapes[alias], memories[alias])) for alias, spec in signature.inputs.items()
    }


def _zeros(shape: tuple[int, ...], memory: "np.dtype[Any]") -> NDArray[Any]:
    found = np.zeros(shape, memory)
    if memory.hasobject:
        found.fill(b"")  # numpy's zero of an object is the number
    return found
