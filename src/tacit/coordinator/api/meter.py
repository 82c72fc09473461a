"""What both APIs report to whoever counts: requests, calls, activations. Nobody counts unless asked to.

Labels come from the manifest and from the table of routes; of what a caller sent only that reaches a meter which was
found there.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import Status

_ODD_NAMES = {Status.OK: "OK", Status.CANCELLED: "Canceled"}
CODE_NAMES = {
    status: _ODD_NAMES.get(status, "".join(part.capitalize() for part in status.name.split("_"))) for status in Status
}
"""Go's names of gRPC's codes."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A marble that was activated: a type of the manifest, its UUID in canonical form, its evidence."""

    time: datetime
    marble_type: str
    uuid: str
    evidence: bytes


class Meter(Protocol):
    """Who counts."""

    def request_began(self, path: str) -> None:
        """A request to a path of the table of routes."""

    def request_ended(self, path: str, request: HttpRequest, response: HttpResponse, *, seconds: float) -> None:
        """Its answer."""

    def call_began(self) -> None:
        """An activation was asked for over gRPC."""

    def call_ended(self, status: Status) -> None:
        """It was answered."""

    def activated(self, activation: Activation) -> None:
        """A marble got what the manifest gives it."""

    def refused(self, marble_type: str) -> None:
        """A marble got nothing. `marble_type` is empty unless the manifest has it."""


class NoMeter:
    """Counts nothing."""

    def request_began(self, path: str) -> None:
        """Nobody asked."""

    def request_ended(self, path: str, request: HttpRequest, response: HttpResponse, *, seconds: float) -> None:
        """Nobody asked."""

    def call_began(self) -> None:
        """Nobody asked."""

    def call_ended(self, status: Status) -> None:
        """Nobody asked."""

    def activated(self, activation: Activation) -> None:
        """Nobody asked."""

    def refused(self, marble_type: str) -> None:
        """Nobody asked."""
