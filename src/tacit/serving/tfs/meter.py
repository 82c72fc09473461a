"""What is counted of requests, for whoever counts. Nobody does unless asked to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

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


@dataclass(slots=True)
class Measured:
    """A request that is being measured; whoever reads it says which model it asks for."""

    model: str = ""


@contextmanager
def measured(meter: Meter, api: str, entry: Entry) -> Iterator[Measured]:
    """Tell the meter how the request within ends. Raises: whatever the request does."""
    begin, found, status = time.monotonic(), Measured(), Status.INTERNAL
    try:
        yield found
        status = Status.OK
    except RequestError as exc:
        status = exc.status
        raise
    finally:
        meter.request(found.model, api, entry, status, time.monotonic() - begin)
