"""What is made for the chain that a coordinator's servers show, made anew when that chain changes."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from tacit.client.channel import begin_anew_in_child
from tacit.client.connect import AttestedCoordinator
from tacit.client.session.renewal import Renewal
from tacit.errors import UsageError

_T = TypeVar("_T")


class Current(Generic[_T]):
    """Something that is made for each chain of servers; the last two are kept, so that running requests end in peace."""

    def __init__(self, renewal: Renewal, make: Callable[[bytes], _T]) -> None:
        self._renewal, self._make = renewal, make
        self._made: list[tuple[bytes, _T]] = []
        self._old: list[_T] = []
        self._parents: list[_T] = []
        self._closed = False
        self._lock = Lock()
        begin_anew_in_child(self)

    def begin_anew(self) -> None:
        """In a child process: what was made is the parent's to use and to end, and nobody here holds the lock."""
        self._lock = Lock()
        self._parents += [*self._old, *(one for _, one in self._made)]
        self._made, self._old = [], []

    def now(self) -> tuple[AttestedCoordinator, _T]:
        """The coordinator, and what was made for its servers. Raises: TacitError."""
        self._check_open()
        used = self._renewal.current()
        return used, self.of(used)

    def renewed(self, used: AttestedCoordinator) -> _T | None:
        """What is made for the servers' new chain; None where it is the old one. Raises: TacitError."""
        found = self._renewal.after_refusal(used)
        return None if found.intermediate_pem == used.intermediate_pem else self.of(found)

    def of(self, used: AttestedCoordinator) -> _T:
        """What is made for these servers. Raises: UsageError, where it was closed."""
        with self._lock:
            self._check_open()
            for chain, one in self._made:
                if chain == used.intermediate_pem:
                    return one
            made = self._make(used.intermediate_pem)
            self._made.append((used.intermediate_pem, made))
            if len(self._made) > 2:
                self._old.append(self._made.pop(0)[1])
            return made

    def finish(self) -> list[_T]:
        """Everything that was made, to be closed; nothing more will be."""
        with self._lock:
            self._closed = True
            return [*self._old, *(one for _, one in self._made)]

    def all(self) -> list[_T]:
        """Everything that was made."""
        with self._lock:
            return [*self._old, *(one for _, one in self._made)]

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the session, model or channel was closed, and sends nothing more; open another")


def refused_certificate(error: BaseException | None) -> bool:
    """Whether a connection failed because of the server's certificate, before anything was sent."""
    while error is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(error).upper().replace(" ", "_"):
            return True
        error = error.__cause__ or error.__context__
    return False
