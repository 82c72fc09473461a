"""A state that ends with the process, and what a store is."""

from collections.abc import Sequence
from typing import Protocol

from tacit.coordinator.sealed.keys import BoundTo
from tacit.coordinator.sealed.records import Contents, Position, chain
from tacit.coordinator.store.logfiles import MemoryLog
from tacit.errors import SealingKeyError
from tacit.wire.log import LogPosition


class Store(Protocol):
    """Where changes go. After a failure nothing is stored, and the position is what it was."""

    @property
    def position(self) -> Position:
        """Of the newest record."""

    @property
    def wants_snapshot(self) -> bool:
        """Whether the next thing written should say everything."""

    def create(self, snapshot: bytes, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """Begin a new state under a new key, with its plan for recovery. `bound_to` None keeps it in memory alone."""

    def rekey(self, snapshot: bytes, *, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """Go on in a new file under another key; None keeps the key and its plan and seals it as `bound_to` says."""

    def recovery_plan(self) -> bytes:
        """The plan beside the state that cannot be opened; empty where a single key opens it."""

    def open_with(self, key: bytes) -> Contents:
        """What is there, if this is its key. Changes nothing."""

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Go on with what is there, under its own key."""

    def append(self, payload: bytes) -> None:
        """Add one record."""

    def rewrite(self, snapshot: bytes) -> None:
        """Go on in a new file that begins with everything."""

    def open_log(self, key: bytes) -> LogPosition | None:
        """Go on in the log files of the state that is open now; where they end, None where there are none."""

    def archive(self, lines: Sequence[bytes], after: LogPosition) -> None:
        """Add entries to the log files."""

    def read_log(self, after: int, *, max_lines: int, max_bytes: int) -> tuple[LogPosition, list[bytes]]:
        """Entries of the log files after that number, and the position before the first of them."""


class MemoryStore:
    """A state that ends with the process."""

    def __init__(self) -> None:
        self.position = Position()
        self.wants_snapshot = False
        self._log = MemoryLog()

    def create(self, snapshot: bytes, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """Begin a new state."""
        self.position = chain(Position(), snapshot)

    def rekey(self, snapshot: bytes, *, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """Add one record that says everything."""
        self.append(snapshot)

    def recovery_plan(self) -> bytes:
        """None is kept."""
        return b""

    def open_with(self, key: bytes) -> Contents:
        """Nothing outlives the process."""
        raise SealingKeyError("there is no sealed state")

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Nothing outlives the process."""
        raise SealingKeyError("there is no sealed state")

    def append(self, payload: bytes) -> None:
        """Add one record."""
        self.position = chain(self.position, payload)

    def rewrite(self, snapshot: bytes) -> None:
        """Add one record that says everything."""
        self.append(snapshot)

    def open_log(self, key: bytes) -> LogPosition | None:
        """Begin a log."""
        self._log = MemoryLog()
        return None

    def archive(self, lines: Sequence[bytes], after: LogPosition) -> None:
        """Add entries."""
        self._log.append(lines, after)

    def read_log(self, after: int, *, max_lines: int, max_bytes: int) -> tuple[LogPosition, list[bytes]]:
        """Entries after that number, and the position before the first of them."""
        return self._log.read(after, max_lines=max_lines, max_bytes=max_bytes)
