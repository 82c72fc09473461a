"""What is counted of requests, for whoever counts. Nobody does unless asked to."""

import time
from asyncio import CancelledError
from types import TracebackType
from typing import Literal, Protocol, Self

from tacit.errors import RequestError, Status

_ROUNDING = 0.01  # seconds between the edge's reading of a clock and ours

Entry = Literal["GRPC", "REST"]


class Meter(Protocol):
    """Who counts."""

    def request(self, model: str, api: str, entry: Entry, status: Status, seconds: float) -> None:
        """A request came to its end. `model` is what it asked for, which may be any text."""

    def examples(self, model: str, count: int) -> None:
        """A request brought so many examples to a model that there is."""

    def total(self, name: str) -> int:
        """What a counter stands at, by TensorFlow Serving's name for it; 0 where there is none of that name."""


class NoMeter:
    """Counts nothing."""

    def request(self, model: str, api: str, entry: Entry, status: Status, seconds: float) -> None:
        """Nobody asked."""

    def examples(self, model: str, count: int) -> None:
        """Nobody asked."""

    def total(self, name: str) -> int:
        """Nothing was counted."""
        return 0


class Measured:
    """A request that is being measured, for the block below `with`; whoever reads it says which model it asks for.

    `deadline` is the seconds after which the edge cancels it.
    """

    __slots__ = ("_api", "_begin", "_deadline", "_entry", "_meter", "model")

    def __init__(self, meter: Meter, api: str, entry: Entry, *, deadline: float | None = None) -> None:
        self.model = ""
        self._meter, self._api, self._entry, self._begin = meter, api, entry, 0.0
        self._deadline = deadline

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        took = time.monotonic() - self._begin
        self._meter.request(self.model, self._api, self._entry, self._status(error, took), took)

    def _status(self, error: BaseException | None, took: float) -> Status:
        if error is None:
            return Status.OK
        if isinstance(error, CancelledError):
            late = self._deadline is not None and took >= self._deadline - _ROUNDING
            return Status.DEADLINE_EXCEEDED if late else Status.CANCELLED
        return error.status if isinstance(error, RequestError) else Status.INTERNAL
