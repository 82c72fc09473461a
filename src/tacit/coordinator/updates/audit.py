"""The audit log as it is asked for: pages for its readers, digests for whoever remembers a head, and refusals.

A page is of one moment: its lines follow each other and end no later than the mark that is signed with them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from tacit.coordinator.access import authenticate, require_log_reader
from tacit.coordinator.activate import Order
from tacit.coordinator.log import EventLog
from tacit.coordinator.log.entries import (
    Entry,
    activation_refused,
    quote_signed,
    quotes_not_listed,
    request_refused,
)
from tacit.coordinator.log.refusals import Caller, Refusals
from tacit.coordinator.state import Event
from tacit.coordinator.updates.ledger import Held, Ledger
from tacit.errors import StateError, TacitError, UnauthorizedError
from tacit.wire.log import PAGE_BYTES, PAGE_DIGESTS, PAGE_LINES, LogMark, LogPosition, line_digest


@dataclass(frozen=True, slots=True)
class Page:
    """Lines that follow each other, the position before the first, and where the log stands."""

    begins: LogPosition
    lines: tuple[bytes, ...]
    mark: LogMark


class Audit:
    """The audit log of a ledger. `mark` signs where it stands."""

    def __init__(
        self, ledger: Ledger, mark: Callable[[Held], LogMark], *, clock: Callable[[], datetime], log: EventLog
    ) -> None:
        self._ledger = ledger
        self._mark = mark
        self._clock = clock
        self._log = log
        self._refusals = Refusals()
        self._signed = Refusals(quotes_not_listed)

    def page(self, user: str, after: int) -> Page:
        """The entries after that number, for a user who may read them.

        Raises:
            IllegalTransitionError: no manifest is set.
            ForbiddenError: the user may not.
            SealedStateError: a log file was altered.
            StateError: the disk refuses.
        """
        _, manifest = self._ledger.opened(Event.READ_LOG)
        require_log_reader(manifest, user)
        self.write((*self._refusals.take_unlisted(), *self._signed.take_unlisted()))
        return self._page(after, max_lines=PAGE_LINES, max_bytes=PAGE_BYTES)

    def digests(self, after: int) -> Page:
        """The digests of the entries after that number, in place of the lines. For anybody: they tell nothing.

        Raises: as `page`.
        """
        self._ledger.opened(Event.READ_LOG)
        page = self._page(after, max_lines=PAGE_DIGESTS, max_bytes=PAGE_BYTES)
        return Page(page.begins, tuple(line_digest(line) for line in page.lines), page.mark)

    def _page(self, after: int, *, max_lines: int, max_bytes: int) -> Page:
        held = self._ledger.held
        journal, mark = held.journal, self._mark(held)
        if after < journal.archived.number:
            begins, lines = self._ledger.store.read_log(after, max_lines=max_lines, max_bytes=max_bytes)
            lines = lines[: max(journal.position.number - begins.number, 0)]
            if lines:
                return Page(begins, tuple(lines), mark)
        # Not below what the memory reaches back to: what is missing before it is missing in the page too.
        number = min(max(after, journal.archived.number), journal.position.number)
        skipped = number - journal.archived.number
        begins = journal.archived.after_lines(journal.tail[:skipped])
        return Page(begins, journal.tail[skipped : skipped + max_lines], mark)

    def quote_signed(self, quote: bytes, tcb_status: str) -> None:
        """Write that a quote is signed; no more of them than of refusals, for anybody may have one signed.

        Raises:
            StateError: it could not be stored, and nothing may be signed.
        """
        if self._signed.admit("stranger", tcb_status, now=self._clock()):
            entry = quote_signed(digest=sha256(quote).hexdigest(), tcb_status=tcb_status)
            self._ledger.note(*self._signed.take_unlisted(), entry)

    # ---- refusals

    def request_refused(self, certificate: bytes | None, path: str, error: TacitError) -> tuple[Entry, ...]:
        """What to write of a refused request; nothing where strangers have filled their share. Waits for nobody."""
        caller, kind = "", "stranger"
        if certificate:
            try:
                caller, kind = authenticate(self._ledger.holdings.manifest, certificate), "user"
            except UnauthorizedError:
                caller = sha256(certificate).hexdigest()
        entry = request_refused(caller=caller, path=path, reason=error.reason, error=str(error))
        return self._admitted("user" if kind == "user" else "stranger", entry, error)

    def activation_refused(self, order: Order, error: TacitError) -> tuple[Entry, ...]:
        """What to write of a marble that got nothing."""
        certificate = sha256(order.certificate).hexdigest()
        entry = activation_refused(
            marble_type=order.marble_type, certificate=certificate, reason=error.reason, error=str(error)
        )
        return self._admitted("marble", entry, error)

    def write(self, entries: tuple[Entry, ...]) -> None:
        """Write entries of what was refused, or leave it: nobody is refused more for it."""
        try:
            self._ledger.note(*entries)
        except StateError as exc:
            self._log.error("a refusal could not be written to the audit log", error=str(exc))

    def _admitted(self, caller: Caller, entry: Entry, error: TacitError) -> tuple[Entry, ...]:
        if self._ledger.holdings.manifest is None or isinstance(error, StateError):
            return ()  # there is no log yet, or none can be written
        if not self._refusals.admit(caller, error.reason, now=self._clock()):
            return ()
        return (*self._refusals.take_unlisted(), entry)
