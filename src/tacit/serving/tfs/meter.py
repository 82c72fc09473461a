"""What is counted of requests, for whoever counts. Nobody does unless asked to."""

import time
from types import TracebackType
from typing import Literal, Protocol, Self

from tacit.errors import RequestError, Status

Entry = Literal["GRPC", "REST"]


class Meter(Protocol):
    """Who counts."""

    def request(self, model: str, api: str, entry: Entry, status: Status, seconds: float) -> None:
        """A request came to its end. `model` is what it asked for, which may be any text."""

    def examples(self, model: str, count: int) -> None:
        """A request brought so many examples to a model that there is."""


class NoMeter:
    """Counts nothing."""

    def request(self, model: str, api: str, entry: Entry, status: Status, seconds: float) -> None:
        """Nobody asked."""

    def examples(self, model: str, count: int) -> None:
        """Nobody asked."""


class Measured:
    """A request that is being measured, for the block below `with`; whoever reads it says which model it asks for."""

    __slots__ = ("_api", "_begin", "_entry", "_meter", "model")

    def __init__(self, meter: Meter, api: str, entry: Entry) -> None:
        self.model = ""
        self._meter, self._api, self._entry, self._begin = meter, api, entry, 0.0

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        status = Status.OK if error is None else error.status if isinstance(error, RequestError) else Status.INTERNAL
        self._meter.request(self.model, self._api, self._entry, status, time.monotonic() - self._begin)
