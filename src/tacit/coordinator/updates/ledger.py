"""What is held, and the only way to change it: stored first, held then.

Readers take `held`, one value replaced whole, and wait for nobody. Whoever changes something has `lock`, and makes the
change from what is held now. Whoever writes has a second one, for one write and its sync and no longer: so an entry of
the audit log that changes nothing waits for no change that is being made.

Syncing a disk takes longer than anything else here, so who comes while it is under way waits, and all that have waited
are stored by one write.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from tacit.coordinator.log import EventLog
from tacit.coordinator.log.entries import Entry, entries_missing, log_began
from tacit.coordinator.log.journal import Journal
from tacit.coordinator.sealed.changes import encode_change, encode_snapshot, encode_step
from tacit.coordinator.sealed.keys import BoundTo
from tacit.coordinator.sealed.records import KEY_SIZE, Position
from tacit.coordinator.secrets import Random
from tacit.coordinator.state import Change, Event, Holdings, advance, apply
from tacit.coordinator.store import Store
from tacit.errors import NotSetError, StateError
from tacit.manifest import Manifest

TAIL = 64 << 10
"""Bytes of entries that gather in memory and in the state file before they are copied to the log files."""

_T = TypeVar("_T")
Step = tuple[Change, Sequence[Entry]]
"""A change, and what the audit log says of it."""


class Held(NamedTuple):
    """What is held, where the state stands, and where its log stands. All of one moment."""

    holdings: Holdings
    position: Position
    journal: Journal


@dataclass(slots=True)
class _Ticket(Generic[_T]):
    """Something that waits to be written, and what came of it."""

    item: _T
    done: bool = False
    error: Exception | None = field(default=None)

    def settle(self, error: Exception | None = None) -> None:
        self.done, self.error = True, error

    def raise_if_failed(self) -> None:
        if not self.done:
            raise StateError("it was not stored: the write that it waited for was broken off")
        if isinstance(self.error, StateError):
            raise StateError(str(self.error)) from self.error  # several may have waited for the same one
        if self.error is not None:
            raise self.error


class Ledger:
    """Holdings over a store."""

    def __init__(
        self, store: Store, held: Held, *, clock: Callable[[], datetime], random: Random, log: EventLog
    ) -> None:
        self.store = store
        self.lock = threading.Lock()
        self.held = held
        self._writing = threading.Lock()
        self._clock = clock
        self._random = random
        self._log = log
        self._changes: deque[_Ticket[Callable[[Holdings], Step]]] = deque()
        self._notes: deque[_Ticket[Sequence[Entry]]] = deque()
        self._owed: tuple[Entry, ...] = ()
        self._archive_at = TAIL

    @property
    def holdings(self) -> Holdings:
        """What is held now."""
        return self.held.holdings

    def opened(self, event: Event) -> tuple[Holdings, Manifest]:
        """What is held, for something that needs a manifest.

        Raises:
            IllegalTransitionError: not in this state.
        """
        holdings = self.holdings
        advance(holdings.state, event)
        return holdings, manifest_of(holdings)

    # ---- changes

    def commit(self, build: Callable[[Holdings], Step]) -> None:
        """Make a change from what is held now, and store it with those of all who wait.

        Raises:
            TacitError: what `build` raised; nothing has happened then.
            StateError: it could not be stored, and nothing has happened.
        """
        ticket = _Ticket(build)
        self._changes.append(ticket)
        with self.lock:
            if not ticket.done:
                self._commit_all(_drain(self._changes))
        ticket.raise_if_failed()

    def change(self, change: Change, *entries: Entry) -> None:
        """With the lock held: store a change, then hold it.

        Raises:
            StateError: it could not be stored, and nothing has happened.
        """
        self._write(lambda: self._store([change], apply(self.holdings, change), entries))

    def note(self, *entries: Entry) -> None:
        """Store entries of the audit log that tell of no change.

        Raises:
            StateError: they could not be stored.
        """
        if not entries:
            return
        ticket: _Ticket[Sequence[Entry]] = _Ticket(entries)
        self._notes.append(ticket)
        self._write(lambda: None if ticket.done else self._store([], None, ()))
        ticket.raise_if_failed()

    def note_or_owe(self, *entries: Entry) -> None:
        """Store entries of what has happened already; where that fails, with whatever is written next."""
        try:
            self.note(*entries)
        except StateError as exc:
            self._log.error("entries of the audit log wait to be written", error=str(exc))
            with self._writing:
                self._owed += entries

    def begin(self, holdings: Holdings, entry: Entry, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """With the lock held: begin a new state with a new log.

        Raises:
            StateError: it could not be stored, and nothing has happened.
        """

        def write() -> None:
            journal = self._with([entry], Journal(self._random(KEY_SIZE)))
            self.store.create(encode_snapshot(holdings, journal), key=key, plan=plan, bound_to=bound_to)
            self._archive_at = TAIL
            self._hold(holdings, journal)
            self.store.open_log(journal.key)

        self._write(write)

    def rekey(self, after: Holdings, *entries: Entry, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """With the lock held: go on under another sealing key; None keeps the key and seals it as `bound_to` says.

        Raises:
            StateError: it could not be stored, and nothing has happened.
        """

        def write() -> None:
            journal = self._with(entries, self.held.journal)
            self.store.rekey(encode_snapshot(after, journal), key=key, plan=plan, bound_to=bound_to)
            self._hold(after, journal)

        self._write(write)

    def open(self, holdings: Holdings, journal: Journal | None, *, version: int) -> None:
        """Go on with what the store has; `journal` is None where a program without an audit log wrote it.

        Raises:
            SealedStateError: the log files tell of another history, or of a newer one.
            StateError: the folder cannot be read.
        """
        with self._writing:
            opened = journal or Journal(self._random(KEY_SIZE))
            self._hold(holdings, opened)
            end = self.store.open_log(opened.key)
            if end is not None and end.number >= opened.archived.number:
                self._hold(holdings, opened.with_archived(end))
            elif opened.archived.number:
                first = 1 if end is None else end.number + 1
                self._owed = (*self._owed, entries_missing(first=first, last=opened.archived.number))
                self._log.error("entries of the audit log are missing", first=first, last=opened.archived.number)
        if journal is None:
            self.note_or_owe(log_began(version=version))

    # ---- inside

    def _commit_all(self, tickets: Sequence[_Ticket[Callable[[Holdings], Step]]]) -> None:
        holdings = self.holdings
        changes: list[Change] = []
        entries: list[Entry] = []
        good = []
        for ticket in tickets:
            try:
                change, told = ticket.item(holdings)
            except Exception as exc:
                ticket.settle(exc)
                continue
            holdings = apply(holdings, change)
            changes.append(change)
            entries += told
            good.append(ticket)
        if not good:
            return
        try:
            self._write(lambda: self._store(changes, holdings, entries))
        except Exception as exc:
            _settle(good, exc)
        else:
            _settle(good)

    def _write(self, write: Callable[[], None]) -> None:
        with self._writing:
            write()
            self._archive()

    def _store(self, changes: Sequence[Change], after: Holdings | None, entries: Sequence[Entry]) -> None:
        """Write changes and entries as one record, and the entries of all who wait with them."""
        waiting = _drain(self._notes)
        noted = [entry for ticket in waiting for entry in ticket.item]
        before = self.held
        holdings = after or before.holdings
        try:
            journal = self._with([*self._owed, *entries, *noted], before.journal)
            if self.store.wants_snapshot:
                self.store.rewrite(encode_snapshot(holdings, journal))
            else:
                lines = journal.lines_after(before.journal.position)
                self.store.append(encode_step([encode_change(change) for change in changes], lines))
        except Exception as exc:
            _settle(waiting, exc)
            if changes:
                raise
            return
        self._owed = ()
        self._hold(holdings, journal)
        _settle(waiting)

    def _with(self, entries: Sequence[Entry], journal: Journal) -> Journal:
        return journal.with_entries(entries, now=self._clock(), random=self._random)

    def _hold(self, holdings: Holdings, journal: Journal) -> None:
        self.held = Held(holdings, self.store.position, journal)

    def _archive(self) -> None:
        """Move the entries that have gathered into the log files. They are stored already, so a failure can wait."""
        held = self.held
        gathered = sum(map(len, held.journal.tail))
        if gathered <= self._archive_at:
            return
        try:
            self.store.archive(held.journal.tail, held.journal.archived)
        except StateError as exc:
            self._archive_at = gathered + TAIL
            self._log.error("the log files cannot be written; their entries wait in the state file", error=str(exc))
            return
        self._archive_at = TAIL
        self.held = held._replace(journal=held.journal.with_archived(held.journal.position))


def manifest_of(holdings: Holdings) -> Manifest:
    """The manifest.

    Raises:
        NotSetError: there is none yet.
    """
    if holdings.manifest is None:
        raise NotSetError("requested value not set")
    return holdings.manifest


def _settle(tickets: Sequence[_Ticket[_T]], error: Exception | None = None) -> None:
    for ticket in tickets:
        ticket.settle(error)


def _drain(queue: deque[_T]) -> list[_T]:
    taken = []
    while queue:
        taken.append(queue.popleft())
    return taken
