"""What is made for the chain that a coordinator's servers show, made anew when that chain changes."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from tacit.client.connect import AttestedCoordinator
from tacit.client.session.renewal import Renewal

_T = TypeVar("_T")


class Current(Generic[_T]):
    """Something that is made for each chain of servers; the last two are kept, so that running requests end in peace."""

    def __init__(self, renewal: Renewal, make: Callable[[bytes], _T]) -> None:
        self._renewal, self._make = renewal, make
        self._made: list[tuple[bytes, _T]] = []
        self._old: list[_T] = []
        self._lock = Lock()

    def now(self) -> tuple[AttestedCoordinator, _T]:
        """The coordinator, and what was made for its servers. Raises: TacitError."""
        used = self._renewal.current()
        return used, self.of(used)

    def renewed(self, used: AttestedCoordinator) -> _T | None:
        """What is made for the servers' new chain; None where it is the old one. Raises: TacitError."""
        found = self._renewal.after_refusal(used)
        return None if found.intermediate_pem == used.intermediate_pem else self.of(found)

    def of(self, used: AttestedCoordinator) -> _T:
        """What is made for these servers."""
        with self._lock:
            for chain, one in self._made:
                if chain == used.intermediate_pem:
                    return one
            made = self._make(used.intermediate_pem)
            self._made.append((used.intermediate_pem, made))
            if len(self._made) > 2:
                self._old.append(self._made.pop(0)[1])
            return made

    def all(self) -> list[_T]:
        """Everything that was made, to be closed."""
        with self._lock:
            return [*self._old, *(one for _, one in self._made)]


def refused_certificate(error: BaseException | None) -> bool:
    """Whether a connection failed because of the server's certificate, before anything was sent."""
    while error is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(error).upper().replace(" ", "_"):
            return True
        error = error.__cause__ or error.__context__
    return False
