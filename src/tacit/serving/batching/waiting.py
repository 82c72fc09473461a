"""A request that waits for a model, and who waits for its answer."""

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from tacit.serving.batching.rules import BatchRules
from tacit.wire.tensor import Tensor

_SMALL = 64 << 10  # bytes of inputs that are run by the one who asks; more rows take longer than one

Outputs = dict[str, Tensor]


class Asker(Protocol):
    """Who asks in the event loop's thread, waits for the end of its turn, and goes on as soon as it is told to."""

    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    def set_running_or_notify_cancel(self) -> bool:
        """Whether an outcome is still wanted."""

    def set_result(self, result: Outputs, /) -> None:
        """The answer."""

    def set_exception(self, error: BaseException, /) -> None:
        """The refusal."""

    def go_on(self) -> None:
        """The wait is over; without an outcome, the request had better `submit`."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Waiting:
    """A request in the queue. `alike` is None where it is never joined to another; `by_rows`: it may be cut, and filled."""

    signature: str
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    deadline: float | None
    rows: int
    by_rows: bool
    alike: Hashable
    since: int
    future: Future[Outputs] | Asker
    taken: bool = False  # by who answers it: the engine's thread, who cancels it, or who gives the queue up

    def fits(self, other: "Waiting") -> bool:
        """Whether another request may be joined to this one."""
        return self.alike is not None and self.alike == other.alike


def is_small(inputs: Mapping[str, Tensor]) -> bool:
    """Whether one who asks may run them. An array of strings does not say how many bytes they have."""
    size = 0
    for tensor in inputs.values():
        if tensor.array.dtype.hasobject:
            return False
        size += tensor.array.nbytes
    return size <= _SMALL


def fits_in_one_run(rows: int, rules: BatchRules) -> bool:
    """Whether so many rows are run as they are, neither cut nor filled up."""
    return rules.size_for(rows) == rows <= rules.largest
