"""The coordinator as it was last attested, and attested again: by age, and when its servers show another chain.

Calls go on under the last attestation while the next one is made beside them. What the next one finds counts at once:
if the coordinator is not what was expected any more, no further call is made. That it could not be reached, that TLS or
its answer broke off, that what came was no authentic evidence, that its collateral cannot be had, that it waits to be
recovered or that a file of this client's cannot be read or written says nothing about it, so then the last attestation is
good until it is twice as old as it should get.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock, Thread

from tacit.client.channel import begin_anew_in_child
from tacit.client.connect import AttestedCoordinator
from tacit.errors import (
    CollateralAbsentError,
    EvidenceFormatError,
    EvidenceSignatureError,
    FileInputError,
    InRecoveryError,
    NotSetError,
    PeerError,
    TacitError,
    TlsError,
    UnreachableError,
    UntrustedRootError,
)

Attest = Callable[[], AttestedCoordinator]
# Nothing of these was proven about the coordinator: anybody on the way can cause them, or it is as before in a while.
_SAYS_NOTHING = (
    *(UnreachableError, TlsError, PeerError, CollateralAbsentError, NotSetError, InRecoveryError),
    *(EvidenceFormatError, EvidenceSignatureError, UntrustedRootError, FileInputError),
)


class Renewal:
    """`attest` makes an attestation, which is then good for `max_age`. Several threads may use it."""

    def __init__(
        self, first: AttestedCoordinator, attest: Attest, *, max_age: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._attest, self._max_age, self._clock = attest, max_age, clock
        self._current, self._made = first, clock()
        self._refused: TacitError | None = None  # never raised itself: it would keep what its callers hold
        self.begin_anew()
        begin_anew_in_child(self)

    def begin_anew(self) -> None:
        """With nobody at work; in a child process whoever was is not there to come to an end."""
        self._working = False
        self._lock, self._renewing = Lock(), Lock()

    @property
    def last(self) -> AttestedCoordinator:
        """As it was last attested, whatever its age."""
        return self._current

    def current(self) -> AttestedCoordinator:
        """The coordinator, attested recently enough.

        Raises:
            TacitError: what the last attestation was refused for.
            TacitError: it is twice as old as it should get, and cannot be made anew for now; the next call tries again.
        """
        with self._lock:
            if self._refused is not None:
                raise self._refused.anew()
            used, age = self._current, self._clock() - self._made
            due = age >= self._max_age or age < timedelta()
            usable = timedelta() <= age and age / 2 < self._max_age
            start = due and usable and not self._working
            self._working = self._working or start
        if due and not usable:
            return self._renew(used)
        if start:
            self._start_beside(used)
        return used

    def after_refusal(self, used: AttestedCoordinator) -> AttestedCoordinator:
        """The coordinator attested anew, for a caller whom a server of `used` showed another chain.

        Raises: as `current`.
        """
        return self._renew(used)

    def _renew(self, used: AttestedCoordinator) -> AttestedCoordinator:
        with self._renewing:  # one at a time; who waited takes what the other found
            with self._lock:
                if self._refused is not None:
                    raise self._refused.anew()
                if self._current is not used:
                    return self._current
            try:
                found = self._attest()
            except _SAYS_NOTHING:
                raise
            except TacitError as exc:
                self._refused = exc.anew()
                raise
            with self._lock:
                self._current, self._made = found, self._clock()
            return found

    def _start_beside(self, used: AttestedCoordinator) -> None:
        try:
            Thread(target=self._renew_beside, args=(used,), name="attestation", daemon=True).start()
        except RuntimeError:  # no thread to be had: the next call tries, and at twice the age it is done in the call
            self._working = False

    def _renew_beside(self, used: AttestedCoordinator) -> None:
        try:
            self._renew(used)
        except TacitError:
            pass  # kept for the next call, or tried again by it
        finally:
            self._working = False
